"""A client connection after its upgrade: the client's end of a tunnel.

Theory of operation. The HTTP/1.1 protocol passes its transport to this object, which takes its place among the server's
open connections until the transport is lost. States::

    HELD ──start()──▶ OPEN ──close() or shutdown()──▶ CLOSING ──▶ LOST

HELD: the transport is not read, and bytes that followed the handshake wait. OPEN: received bytes are passed to the
receiver in the callback of the read. It is told when the client ends its direction; the other direction continues until
`write_eof` or `close`. CLOSING: nothing is read, and the transport flushes the written data for a
limited time. LOST can follow any state.

A drain does not cut a tunnel: its owner ends it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from streamproxy.exchange.stream import ByteStream, Receiver
from streamproxy.server.flow import Flow

FLUSH_TIMEOUT: Final = 60.0  # seconds for a client to accept what was written last

_HELD: Final = 0
_OPEN: Final = 1
_CLOSING: Final = 2
_LOST: Final = 3


class UpgradedConnection(ByteStream):
    """The client's end of a tunnel. It has the methods of `asyncio.Protocol`, as the HTTP/1.1 protocol has.

    ``connections`` is the server's set of open connections; ``first`` are the bytes that followed the handshake.
    """

    __slots__ = (
        "_connections",
        "_ended",
        "_finished",
        "_first",
        "_flow",
        "_loop",
        "_paused",
        "_receiver",
        "_status",
        "_timer",
        "_write_paused",
        "stopping",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, connections: Any) -> None:
        self.transport = transport
        self.stopping = False
        self._loop = loop
        self._connections = connections
        self._flow = Flow(transport, loop, self._left, half_close=True)
        self._first = b""
        self._ended = False  # the client's direction
        self._finished = False  # ours
        self._status = _HELD
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._receiver: Receiver | None = None
        self._write_paused = False  # as in the flow, which a write need not ask

    def take_over(self, first: bytes, high: int) -> None:
        """Becomes the transport's protocol. ``first`` followed the handshake; ``high`` is the write limit."""
        self._first = first
        self._flow.high = high
        self._connections.add(self)
        self.transport.set_protocol(self)  # type: ignore[arg-type]  # a protocol in all but name
        self._flow.read(False)

    # The stream.

    def start(self, receiver: Receiver) -> None:
        """Starts reading in the loop's next iteration."""
        self._receiver = receiver
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        if self._status == _LOST:
            self._tell_lost()
            return
        if self._status != _HELD:
            return
        self._status = _OPEN
        first, self._first = self._first, b""
        if first and self._receiver is not None:
            self._receiver.received(first)
        if self._ended:
            self.eof_received()
        if self._status == _OPEN and not self._paused:  # otherwise the first bytes led to a pause or a close
            self._flow.read(True)

    def write(self, data: bytes) -> bool:
        """Sends bytes. Returns False if the write buffer is above its limit."""
        if self._status <= _OPEN and not self._finished:
            self.transport.write(data)  # one that is closing by itself drops them
        return not self._write_paused

    async def drained(self) -> None:
        """Waits until the write buffer has room, or the stream is lost."""
        while self._flow.paused:
            await self._flow.drained()

    def set_write_limit(self, high: int) -> None:
        """Sets the limit of the write buffer to about ``high`` bytes."""
        if self._status <= _OPEN:
            self._flow.limit(high)

    def pause(self) -> None:
        """Stops reading. A reset by the client is still noticed."""
        if self._status == _OPEN:
            self._paused = True
            self._flow.read(False)

    def resume(self) -> None:
        """Resumes reading."""
        if self._status == _OPEN:
            self._paused = False
            self._flow.read(True)

    def write_eof(self) -> None:
        """Ends our direction. TLS has no half-close here, so it ends both directions."""
        if self._status > _OPEN or self._finished:
            return
        if self._ended or not self.transport.can_write_eof():
            self.close()
            return
        self._finished = True
        try:
            self.transport.write_eof()
        except OSError:
            self.transport.abort()  # the client has reset the connection

    def close(self) -> None:
        """Ends the stream once the client has accepted what was written, or after a minute."""
        if self._status <= _OPEN:
            self._status = _CLOSING
            self._first = b""
            self._timer = self._loop.call_later(FLUSH_TIMEOUT, self.transport.abort)
            self.transport.close()

    def abort(self) -> None:
        """Ends the stream at once."""
        if self._status != _LOST:
            self.transport.abort()

    # From the server.

    def shutdown(self, patience: float | None = None) -> None:
        """Called with ``patience`` by a drain, which does not cut a tunnel, and without it at the server's end."""
        if patience is None:
            self.close()

    # From the event loop.

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if self._status == _OPEN and receiver is not None:
            receiver.received(data)
        elif self._status == _HELD:
            self._first += data  # it was read before the transport was paused

    def eof_received(self) -> bool:
        self._ended = True
        if self._status == _OPEN and self._receiver is not None:
            self._receiver.ended()
        # Over TLS the transport closes regardless of the returned value.
        return self._status <= _OPEN and not self._finished and self.transport.can_write_eof()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._flow.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        held = self._status == _HELD
        self._status = _LOST
        self._connections.discard(self)
        self._write_paused = False
        self._flow.close()
        self._first = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not held:  # otherwise `_begin` calls it
            self._tell_lost()

    def _left(self) -> None:
        """The client reset the connection while it was not read."""
        self.transport.abort()

    def _tell_lost(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost()
