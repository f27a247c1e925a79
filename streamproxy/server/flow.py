"""The two directions of one connection's transport, and the one timer that a connection needs.

`Flow` knows whether reading is paused (by us) and whether writing is (by the transport, above its high-water mark),
lets senders wait for the second, and watches the peer while the first hides its leaving. `Deadline` is a timer that is
moved far more often than it fires: moving it stores a time, and the event loop is only asked when the timer has to
fire earlier than it would. One that fires late looks again, as those of `streamproxy.exchange.timer` do.
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
_TICK: Final = 0.002  # seconds: loops count in milliseconds and may fire a little early


class Flow:
    """Pausing and resuming, for one transport.

    ``left`` is called when the peer leaves while reading is paused; with ``half_close`` one that only ends its own
    direction has not left. ``high`` is what `limit` last said.
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
        self.paused = False  # the transport holds more than its high-water mark

    @property
    def flushing(self) -> bool:
        """Whether a call given to `when_flushed` is still due."""
        return self._flushed is not None

    def read(self, wanted: bool) -> None:
        """Read from the transport, or not; while not, the peer is watched."""
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
        """Let the transport hold about ``high`` bytes before it pauses writing."""
        if high != self.high:
            self.high = high
            self._transport.set_write_buffer_limits(high)

    def pause_writing(self) -> None:
        """From the transport."""
        self.paused = True

    def resume_writing(self) -> None:
        """From the transport."""
        self.paused = False
        self._wake()
        if self._flushed is not None:
            # Not from here: asyncio's transport can't be aborted in the middle of its own write.
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
        """Wait until writing is resumed, or the connection is gone."""
        waiter = self._loop.create_future()
        self._drainers.append(waiter)
        await waiter

    def when_flushed(self, call: Callable[[], None]) -> None:
        """Call once the transport holds nothing more; at once if it doesn't."""
        if self._transport.get_write_buffer_size() == 0:
            call()
        else:
            self._flushed = call
            self.high = 0
            self._transport.set_write_buffer_limits(0)

    def reset(self) -> None:
        """Close the connection at once, with RST in place of FIN, so that the peer can't take it for an end."""
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def close(self) -> None:
        """The connection is gone: wake every waiter."""
        self.paused = False
        self._flushed = None
        self._left = _nothing  # the connection's own, which holds this: a cycle is work for the garbage collector
        self._wake()
        if self._watch is not None:
            self._watch.close()


class Deadline:
    """One timer, moved lazily: calls ``expired`` once the time that was last set has passed.

    ``at`` is when, in the loop's time; NEVER when nothing is to expire. To set that by hand costs least, and leaves a
    timer that runs to find it out by itself.
    """

    __slots__ = ("_expired", "_fires_at", "_loop", "_time", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._time = loop.time
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = NEVER  # when the timer does; NEVER without one
        self.at = NEVER

    def set(self, seconds: float) -> None:
        """Expire in so many seconds, instead of when it would have."""
        self.at = at = self._time() + seconds
        if at < self._fires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = at
            self._timer = self._loop.call_at(at, self._fire)

    def close(self) -> None:
        """Never expire again, and let go of the connection."""
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
