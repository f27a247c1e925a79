"""The connections of one endpoint: how many there may be, and which of them wait for a request.

Theory of operation. There are ``max_connections`` places. A place belongs to an idle connection or to a stream, never
to both, and changes hands without a moment in between:

    free ──reserve──▶ stream ──release──▶ idle ──take──▶ stream
      ▲                 │  └──release, free──▶ the longest waiting stream
      └──────free───────┘      (idle: closed by its peer, too old, one too many ──▶ free)

A stream's connection may close under it; the place stays the stream's until it says `free` or `release`. Nobody waits
while a connection is idle or a place is free, so a place that comes back goes to the first in the queue directly, and
nobody can overtake. A stream that is cancelled in the moment in which it got a place hands it on.

The idle connections are a stack: the last one back is the next to go, and the rest grow old at its bottom, where one
timer for all of them looks for the next to close.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from streamproxy.client.http1.connection import Connection
from streamproxy.client.http1.response import FOREVER
from streamproxy.errors import DestinationUnavailable, LimitReached

REFRESH: Final = 10.0


class Pool:
    """Places and idle connections; the `Owner` of every connection. Bound to the loop that it is first used on.

    ``refresh`` is called when a connection comes back, at most every `REFRESH` seconds: connections that are never
    closed ask nobody whether their address is still right.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        max_idle: int,
        idle_timeout: float,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._refresh = refresh
        self._refresh_at = 0.0 if refresh is not None else FOREVER  # the loop's time
        self._places = 0  # not free: held by streams and idle connections
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._all_closed: asyncio.Future[None] | None = None

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """How many places streams hold: connecting, or with a connection."""
        return self._places - len(self._idle)

    @property
    def waiting(self) -> int:
        """How many streams wait for a place."""
        return len(self._waiters)

    # A stream gets a place.

    def take(self, careful: bool) -> Connection | None:
        """An idle connection with its place, or None.

        ``careful`` asks the kernel whether the peer has closed it meanwhile, for requests that can't be repeated.
        """
        idle = self._idle
        while idle:
            connection = idle.pop()
            if (connection.lifetime == FOREVER or not connection.expired) and not (
                careful and connection.peer_closed()
            ):
                return connection
            self._places -= 1
            connection.abort()
        return None

    def reserve(self) -> bool:
        """Take a free place, for a new connection; False when there is none."""
        if self._closing:
            raise DestinationUnavailable("The upstream is being removed")
        if self._places >= self._max_connections:
            return False
        self._places += 1
        return True

    async def wait(self, seconds: float | None) -> Connection | None:
        """Wait in the queue for a place: with the connection that holds it, or None for a place of its own.

        Raises LimitReached after ``seconds``.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Connection | None] = loop.create_future()
        self._waiters.append(future)
        timer = loop.call_later(seconds, self._expire, future) if seconds is not None else None
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                if future in self._waiters:  # a place that came free since has found it cancelled, and taken it out
                    self._waiters.remove(future)
            elif future.exception() is None:
                self._give_back(future.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    # A stream gives its place back.

    def release(self, connection: Connection) -> None:
        """The stream has ended in good order, and its connection can carry another request."""
        connection.become_idle()
        if connection.idle_since >= self._refresh_at and self._refresh is not None:
            self._refresh_at = connection.idle_since + REFRESH
            self._refresh()
        if self._waiters:
            if connection.expired:
                connection.abort()
                self.free()
                return
            if self._hand_over(connection):
                return
        if self._closing or len(self._idle) >= self._max_idle:
            connection.abort()
            self._places -= 1
            return
        self._idle.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._sweep)

    def free(self) -> None:
        """The stream has ended, and has closed its connection if it had one."""
        if not self._hand_over(None):
            self._places -= 1

    def _give_back(self, connection: Connection | None) -> None:
        if connection is None or connection.closed:
            self.free()
        else:
            self.release(connection)

    def _hand_over(self, connection: Connection | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _expire(self, waiter: asyncio.Future[Connection | None]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_exception(LimitReached("All connections to the upstream are in use", retry_after=1))

    # Connections come and go.

    def retire(self, addresses: set[Any]) -> None:
        """Use no connection to one of these addresses again; those that are idle close."""
        for connection in [connection for connection in self._open if connection.address in addresses]:
            connection.retire()
            if connection in self._idle:
                self.lost(connection)
                connection.abort()

    def opened(self, connection: Connection) -> None:
        """A stream has made a connection."""
        self._open.add(connection)

    def lost(self, connection: Connection) -> None:
        """A connection can't be used any more: if it was idle, its place is free."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._places -= 1

    def closed(self, connection: Connection) -> None:
        """A connection's transport is closed."""
        self._open.discard(connection)
        if not self._open and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    def _sweep(self) -> None:
        """Close what has been idle for too long, and look again when the next one will have been."""
        loop = asyncio.get_running_loop()
        idle, now = self._idle, loop.time()
        while idle and idle[0].idle_since + self._idle_timeout <= now:
            idle.pop(0).abort()
            self._places -= 1
        # uvloop rounds down to a millisecond; without the floor the timer could fire many times in its last one.
        self._timer = (
            loop.call_later(max(idle[0].idle_since + self._idle_timeout - now, 0.001), self._sweep) if idle else None
        )

    async def aclose(self) -> None:
        """Close every connection, also those with a stream, and wait until the transports are gone."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(DestinationUnavailable("The upstream is being removed"))
        for connection in list(self._open):
            connection.shut()
        if self._open:
            self._all_closed = asyncio.get_running_loop().create_future()
            await self._all_closed
