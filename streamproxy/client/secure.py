"""TLS between the loop's transport and a connection. It is the protocol of the former and the transport of the latter.

Theory of operation. OpenSSL reads from and writes to two buffers in memory. Bytes that the loop's transport receives go
into ``incoming``. They complete the handshake first (see ``made``), then they are decrypted for the connection. Bytes
that OpenSSL writes to ``outgoing`` are sent at once. Encryption never waits for the peer, because renegotiation is off
(`client_context`), so backpressure is that of the transport below.

The event loops have TLS too, but do not allow access to its parts, which is needed in two cases:

- An upstream may refuse a request in the middle of its body: it responds and closes. A write may then fail with a reset
  before the response was read. The connection reads what the kernel still holds, and decrypts it here. Of 600 uploads
  refused like this, the loops' TLS lost the responses to 144, and this one lost none.
- A body that is delimited by the close is complete only if TLS was closed too, which ``ended`` shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from streamproxy.client.reads import bound_reads

_RECORD: Final = 16384  # the maximum that one read of OpenSSL returns (RFC 8446 section 5.1)


class Above(Protocol):
    """A connection, as seen by TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class TlsTransport:
    """The client's side of TLS. Raises ValueError for an invalid ``server_name``.

    ``build`` creates the connection above after the handshake, given the protocol chosen by ALPN.

    ``made`` is done when the handshake has ended. ``fault`` is the error of the handshake, or a later error of TLS:
    ssl.SSLError, or ConnectionError if the peer closed during the handshake. ``ended`` is set when the peer has closed
    TLS properly.

    This has the methods of `asyncio.Protocol` and of a transport without inheriting from them, because a class with a
    base class in Python cannot be compiled.
    """

    __slots__ = ("_above", "_build", "_incoming", "_outgoing", "_ready", "_tls", "_transport", "ended", "fault", "made")

    def __init__(
        self,
        context: ssl.SSLContext,
        server_name: str | None,
        build: Callable[[str | None], Above],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._build = build
        self._above: Above = cast(Above, None)  # None until the handshake has ended
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._ready = False
        self.made: asyncio.Future[None] = loop.create_future()
        self.ended = False
        self.fault: OSError | None = None

    # The loop's transport below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shake()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._ready:
            if not self.made.done():
                self._shake()
        elif self.fault is None and not self.ended:
            self._decrypt()

    def eof_received(self) -> bool:
        if not self._ready:
            self._not_made(ConnectionAbortedError("closed by the upstream"))
        elif not self.ended:
            self._above.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ready:
            self._above.connection_lost(self.fault or exc)
        else:
            self._not_made(exc if isinstance(exc, OSError) else ConnectionAbortedError("closed"))

    def pause_writing(self) -> None:
        if self._ready:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._ready:
            self._above.resume_writing()

    # The connection above.

    def write(self, data: bytes) -> None:
        write, size = self._tls.write, len(data)
        try:
            sent = write(data) if data else 0
            if sent < size:  # everything, unless OpenSSL is set to write one record at a time
                view = memoryview(data)
                while sent < size:
                    sent += write(view[sent:])
        except ssl.SSLError as error:
            self._break(error)
        else:
            self._transport.write(self._outgoing.read())

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def bound_reads(self, bounded: bool) -> None:
        """Turns bounded reads from the transport below on or off; see `streamproxy.client.reads`."""
        bound_reads(self._transport, self, bounded)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def close(self) -> None:
        """Closes TLS properly, and the transport once all data is sent."""
        with contextlib.suppress(ssl.SSLError):  # the peer has not closed TLS, and is not waited for
            self._tls.unwrap()
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._transport.get_extra_info(name, default)

    def abort(self) -> None:
        self._transport.abort()

    # Parts of the above.

    def _shake(self) -> None:
        """Continues the handshake with the bytes received so far."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # sends the alert
            self._not_made(error)
            self._transport.close()
        else:
            self._flush()
            self._above = self._build(self._tls.selected_alpn_protocol())
            self._ready = True
            self._above.connection_made(cast(asyncio.BaseTransport, self))
            self.made.set_result(None)
            self._decrypt()

    def _not_made(self, fault: OSError) -> None:
        """Handles a failed handshake, which may have no waiter any more."""
        if not self.made.done():
            self.fault = fault
            self.made.set_result(None)

    def _decrypt(self) -> None:
        """Decrypts what was received, and passes it on in one piece."""
        tls, incoming, parts = self._tls, self._incoming, []
        try:
            # Checking is cheaper than the exception at the end of the data. OpenSSL itself holds nothing back: a read
            # consumes whole records.
            while incoming.pending:
                part = tls.read(_RECORD)
                if not part:
                    self.ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self._break(error)
        if self._outgoing.pending:  # such as the response to a key update
            self._flush()
        if parts:
            self._above.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if self.ended:
            self._above.eof_received()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _break(self, fault: ssl.SSLError) -> None:
        self.fault = fault
        self._flush()
        self._transport.abort()
