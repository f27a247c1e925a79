"""TLS between the loop's transport and a connection: the one's protocol, and the other's transport.

Theory of operation. OpenSSL reads from and writes to two buffers in memory. What the loop's transport receives goes
into ``incoming``; out of it comes first the handshake, which `made` waits for, then the connection's bytes. What is
written to ``outgoing`` meanwhile is sent at once. It never waits for the peer: renegotiation is off (`client_context`),
so encrypting needs nothing that has not come yet, and backpressure is that of the transport below.

The loops have this, too, but give no way in, and two things need one:

- An upstream that refuses a request in the middle of its body answers and closes. A write may run into the reset
  before the answer was read; the connection then reads what the kernel still holds, and has it decrypted here. Of 600
  uploads that were refused like that, the loops' TLS lost the answers to 144, this one none.
- A body that the close ends is only complete if TLS ended, too; ``ended`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from streamproxy.client.reads import bound_reads

_RECORD: Final = 16384  # the most that one read of OpenSSL gives (RFC 8446 section 5.1)


class Above(Protocol):
    """What a connection is to TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class TlsTransport:
    """The client's side of TLS. Raises ValueError for a ``server_name`` that is none.

    ``build`` makes the connection above when the handshake is done, given the protocol that ALPN has chosen.

    An `asyncio.Protocol` and a transport in all but name: a class with a base in Python can't be compiled.

    ``made`` is done when the handshake is. ``fault`` says why it failed, or how TLS was broken later: ssl.SSLError, or
    ConnectionError when the peer left before the handshake was done. ``ended`` is set when the peer ended TLS in good
    order.
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
        self._above: Above = cast(Above, None)  # until the handshake is done
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
            if sent < size:  # all, so far; OpenSSL can be set to take a record at a time
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
        """Have reads from the transport below bounded or not, as `streamproxy.client.reads`."""
        bound_reads(self._transport, self, bounded)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def close(self) -> None:
        """End TLS in good order, and close once that and what was written has gone."""
        with contextlib.suppress(ssl.SSLError):  # the peer has not said the same, and nobody waits for it
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
        """Go on with the handshake, as far as what has come allows."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # tells the peer why
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
        """The handshake has failed; nobody may be waiting for it any more."""
        if not self.made.done():
            self.fault = fault
            self.made.set_result(None)

    def _decrypt(self) -> None:
        """Hand on what can be decrypted, in one piece."""
        tls, incoming, parts = self._tls, self._incoming, []
        try:
            # To ask is cheaper than the exception that says that there is no more. OpenSSL itself holds nothing back: a
            # read takes the whole record.
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
        if self._outgoing.pending:  # the answer to new keys
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
