"""A connection to an upstream that has switched protocols, as a `ByteStream`.

Theory of operation. The connection passes on the events of the loop; reading is paused until `start`. A direction ends
with `write_eof` or when the upstream ends it; once both have ended, the transport is closed. Over TLS the end of one
direction ends both. While the owner of the tunnel has paused reading, the kernel is checked for a reset periodically,
because the transport would not notice one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamproxy.client.secure import TlsTransport
from streamproxy.exchange.peer import PeerWatch
from streamproxy.exchange.stream import ByteStream


class Tunnel(ByteStream):
    """Created by `Connection.detach`; ``early`` are the bytes that followed the head. Reading is paused."""

    __slots__ = (
        "_drained",
        "_early",
        "_ended",
        "_eof_sent",
        "_loop",
        "_lost",
        "_on_data",
        "_on_eof",
        "_on_lost",
        "_paused",
        "_started",
        "_transport",
        "_watch",
        "_write_paused",
    )

    def __init__(
        self, transport: asyncio.Transport | TlsTransport, loop: asyncio.AbstractEventLoop, early: bytes, lost: bool
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._early = early
        self._started = False
        self._paused = False
        self._ended = False  # the upstream sends no more
        self._eof_sent = False
        self._lost = lost
        self._write_paused = False
        self._watch: PeerWatch | None = None  # made when reading is first paused
        self._drained: asyncio.Future[None] | None = None
        self._on_data: Callable[[bytes], None] | None = None
        self._on_eof: Callable[[], None] | None = None
        self._on_lost: Callable[[], None] | None = None

    def start(self, on_data: Callable[[bytes], None], on_eof: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_data, self._on_eof, self._on_lost = on_data, on_eof, on_lost
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._started = True
        early, self._early = self._early, b""
        if early and self._on_data is not None:
            self._on_data(early)
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

    # From the connection.

    def received(self, data: bytes) -> None:
        """Handles received bytes."""
        if self._started and self._on_data is not None:
            self._on_data(data)
        else:
            self._early += data

    def eof_received(self) -> bool:
        """The upstream sends no more. Returns whether the transport must stay open."""
        self._ended = True
        if self._on_eof is not None:
            self._on_eof()
        if self._eof_sent or isinstance(self._transport, TlsTransport):
            self._transport.close()
            return False
        return True

    def connection_lost(self) -> None:
        """The transport is closed."""
        self._lost = True
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
        on_lost, self._on_lost = self._on_lost, None
        self._on_data = self._on_eof = None
        if on_lost is not None:
            on_lost()
