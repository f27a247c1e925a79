"""Flow control for the transport of a connection, and the connection's timer.

`Flow` tracks whether reading is paused (by this program) and whether writing is paused (by the transport, above its
high-water mark). Senders can wait until writing is resumed. While reading is paused, it watches for the peer's
disconnect. `Deadline` is a timer that is moved far more often than it fires: moving it stores a time, and the event
loop is only involved if the timer must fire earlier than scheduled. A timer that fires late checks again, as those of
`streamproxy.exchange.timer` do.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from typing import Final

from streamproxy.exchange.peer import PeerWatch
from streamproxy.exchange.timer import LATE, SECOND_LOOK

WRITE_LIMIT: Final = 32 * 1024  # bytes

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing sends RST
NEVER: Final = math.inf
_TICK: Final = 0.002  # seconds: loops round to milliseconds and may fire slightly early


class Flow:
    """Pauses and resumes one transport.

    ``left`` is called when the peer leaves while reading is paused. With ``half_close``, a peer that only ends its own
    direction has not left. ``high`` is the high-water mark set by `limit`.
    """

    __slots__ = (
        "_drainers",
        "_flushed",
        "_half_close",
        "_left",
        "_loop",
        "_transport",
        "_watch",
        "high",
        "paused",
        "reading",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        left: Callable[[], None],
        half_close: bool = False,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._left = left
        self._half_close = half_close
        self._watch: PeerWatch | None = None  # made when reading is first paused
        self.reading = True
        self.high = WRITE_LIMIT
        transport.set_write_buffer_limits(WRITE_LIMIT)
        self._drainers: list[asyncio.Future[None]] = []
        self._flushed: Callable[[], None] | None = None
        self.paused = False  # whether the transport holds more than its high-water mark

    @property
    def flushing(self) -> bool:
        """Whether the call of `when_flushed` is still due."""
        return self._flushed is not None

    def read(self, wanted: bool) -> None:
        """Turns reading on or off; while it is off, the peer is watched."""
        if wanted == self.reading:
            return
        self.reading = wanted
        if wanted:
            if self._watch is not None:
                self._watch.stop()
            self._transport.resume_reading()
            return
        self._transport.pause_reading()
        if self._watch is None:
            connection: socket.socket | None = self._transport.get_extra_info("socket")
            if connection is None:
                return
            self._watch = PeerWatch(self._loop, connection.fileno(), self._left, self._half_close)
        self._watch.start()

    def limit(self, high: int = WRITE_LIMIT) -> None:
        """Sets the high-water mark of the transport to about ``high`` bytes."""
        if high != self.high:
            self.high = high
            self._transport.set_write_buffer_limits(high)

    def limit_kernel(self, unsent: int) -> None:
        """Keeps the kernel from holding more than ``unsent`` bytes, behind which what is written later would wait."""
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
            if option is not None:
                connection.setsockopt(socket.IPPROTO_TCP, option, unsent)

    def pause_writing(self) -> None:
        """From the transport."""
        self.paused = True

    def resume_writing(self) -> None:
        """From the transport."""
        self.paused = False
        self._wake()
        if self._flushed is not None:
            # Not from here, because asyncio's transport cannot be aborted within its own write.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        flushed, self._flushed = self._flushed, None
        if flushed is not None:
            flushed()

    def _wake(self) -> None:
        for waiter in self._drainers:
            if not waiter.done():
                waiter.set_result(None)
        self._drainers.clear()

    async def drained(self) -> None:
        """Waits until writing is resumed or the connection is closed."""
        waiter = self._loop.create_future()
        self._drainers.append(waiter)
        await waiter

    def when_flushed(self, call: Callable[[], None]) -> None:
        """Calls a function once the transport's write buffer is empty; at once if it is empty now."""
        if self._transport.get_write_buffer_size() == 0:
            call()
        else:
            self._flushed = call
            self.high = 0
            self._transport.set_write_buffer_limits(0)

    def reset(self) -> None:
        """Closes the connection at once, with RST instead of FIN, so that it does not look like a normal end."""
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def close(self) -> None:
        """Wakes all waiters when the connection is closed."""
        self.paused = False
        self._flushed = None
        self._left = _nothing  # breaks the reference cycle with the connection
        self._wake()
        if self._watch is not None:
            self._watch.close()


class Deadline:
    """A timer that is moved lazily: calls ``expired`` once the time that was last set has passed.

    ``at`` is that time on the loop's clock, or NEVER. Setting ``at`` directly is cheapest; a running timer reads it
    when it fires.
    """

    __slots__ = ("_expired", "_fires_at", "_loop", "_time", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._time = loop.time
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = NEVER  # when the loop's timer fires; NEVER without one
        self.at = NEVER

    def set(self, seconds: float) -> None:
        """Sets the timer to expire in so many seconds."""
        self.at = at = self._time() + seconds
        if at < self._fires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = at
            self._timer = self._loop.call_at(at, self._fire)

    def close(self) -> None:
        """Cancels the timer for good, and drops the reference to the connection."""
        self._expired = _nothing
        self.at = self._fires_at = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        now, fires_at = self._time(), self._fires_at
        self._timer = None
        self._fires_at = NEVER
        if self.at == NEVER:
            return
        if now + _TICK < self.at:
            self._fires_at = self.at
            self._timer = self._loop.call_at(self.at, self._fire)
        elif now > fires_at + LATE:  # held up: what came meanwhile has yet to be read
            self._timer = self._loop.call_at(now + SECOND_LOOK, self._fire)
        else:
            self.at = NEVER
            self._expired()


def _nothing() -> None:
    pass
