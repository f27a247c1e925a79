"""A connection to an upstream that has switched protocols, as a `ByteStream`.

Theory of operation. The tunnel takes the connection's place as the protocol of the loop's transport, unless TLS or a
limit on reads stands between: then the connection passes on the events. Reading is paused until `start`. A direction
ends with `write_eof` or when the upstream ends it; once both have ended, the transport is closed. Over TLS the end of
one direction ends both. While the owner of the tunnel has paused reading, the kernel is checked for a reset
periodically, because the transport would not notice one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamproxy.client.secure import TlsTransport
from streamproxy.exchange.peer import PeerWatch
from streamproxy.exchange.stream import ByteStream, Receiver


class Tunnel(ByteStream):
    """Created by `Connection.detach`; ``early`` are the bytes that followed the head. Reading is paused.

    ``on_closed`` is the connection's `connection_lost`; None if it is lost already.
    """

    __slots__ = (
        "_drained",
        "_early",
        "_ended",
        "_eof_sent",
        "_loop",
        "_lost",
        "_on_closed",
        "_paused",
        "_receiver",
        "_started",
        "_transport",
        "_watch",
        "_write_paused",
    )

    def __init__(
        self,
        transport: asyncio.Transport | TlsTransport,
        loop: asyncio.AbstractEventLoop,
        early: bytes,
        on_closed: Callable[[Exception | None], None] | None,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._early = early
        self._started = False
        self._paused = False
        self._ended = False  # the upstream sends no more
        self._eof_sent = False
        self._lost = on_closed is None
        self._on_closed = on_closed
        self._write_paused = False
        self._watch: PeerWatch | None = None  # made when reading is first paused
        self._drained: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._started = True
        early, self._early = self._early, b""
        if early and self._receiver is not None:
            self._receiver.received(early)
        if self._lost:
            self._tell_lost()
        elif not self._paused:
            self._transport.resume_reading()

    def write(self, data: bytes) -> bool:
        if self._lost or self._eof_sent:
            return True
        self._transport.write(data)
        return not self._write_paused

    async def drained(self) -> None:
        while self._write_paused and not self._lost:
            if self._drained is None or self._drained.done():
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def set_write_limit(self, high: int) -> None:
        if not self._lost:
            self._transport.set_write_buffer_limits(high)

    def pause(self) -> None:
        if not self._paused:
            self._paused = True
            if self._started and not self._lost:
                self._transport.pause_reading()
                self._watch_peer()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._watch is not None:
                self._watch.stop()
            if self._started and not self._lost:
                self._transport.resume_reading()

    def _watch_peer(self) -> None:
        if self._watch is None:
            connection = self._transport.get_extra_info("socket")
            if connection is None:
                return
            self._watch = PeerWatch(self._loop, connection.fileno(), self.abort, half_close=True)
        self._watch.start()

    def write_eof(self) -> None:
        if self._eof_sent or self._lost:
            return
        self._eof_sent = True
        transport = self._transport
        if self._ended or isinstance(transport, TlsTransport):
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:
            transport.abort()  # reset by the upstream

    def close(self) -> None:
        if not self._lost:
            self._eof_sent = True
            self._transport.close()

    def abort(self) -> None:
        if not self._lost:
            self._transport.abort()

    # From the transport, or the connection before it.

    def take_over(self) -> None:
        """Becomes the transport's protocol."""
        self._transport.set_protocol(self)  # type: ignore[union-attr, arg-type]  # a protocol in all but name

    def data_received(self, data: bytes) -> None:
        """Handles received bytes."""
        receiver = self._receiver
        if self._started and receiver is not None:
            receiver.received(data)
        else:
            self._early += data

    def eof_received(self) -> bool:
        """The upstream sends no more. Returns whether the transport must stay open."""
        self._ended = True
        if self._receiver is not None:
            self._receiver.ended()
        if self._eof_sent or isinstance(self._transport, TlsTransport):
            self._transport.close()
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed; the connection tells its pool, and then this."""
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed(exc)

    def lost(self) -> None:
        """The connection has told its pool that the transport is closed."""
        self._lost = True
        self._on_closed = None
        if self._watch is not None:
            self._watch.close()
        self._settle()
        if self._started:
            self._tell_lost()

    def pause_writing(self) -> None:
        """The write buffer has reached its limit."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The transport accepts more."""
        self._write_paused = False
        self._settle()

    def _settle(self) -> None:
        future, self._drained = self._drained, None
        if future is not None and not future.done():
            future.set_result(None)

    def _tell_lost(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost()
