"""The connection pool of an endpoint: limits the number of streams, and assigns them to connections.

Theory of operation. There are ``max_streams`` places. A place belongs either to a stream or to an idle connection, and
passes from one to the other atomically:

    free ──reserve──▶ stream ──release──▶ idle ──take──▶ stream
      ▲                 │  └──release, free──▶ the longest waiting stream
      └──────free───────┘      (idle: closed by its peer, too old, one too many ──▶ free)

A connection has a ``capacity``: one stream at a time over HTTP/1.1, as many as the peer allows over HTTP/2. A
connection with streams and room for more is *shared*: a stream takes a free place and joins it. A connection without
streams is *idle* and holds one place; if its peer allows none any more (SETTINGS_MAX_CONCURRENT_STREAMS of 0), it is
closed.

If a stream's connection closes, the place still belongs to the stream until it calls `free` or `release`. No stream
waits while a connection is idle or a place is free. So a returned place goes directly to the first stream in the queue,
and none can overtake it. A stream that is cancelled when it receives a place passes it on.

If connections may be shared (``may_share``), only one is made at a time. Streams that arrive meanwhile wait in the
queue. They get a place on it once it is connected, or places of their own if it accepts only one stream.

Idle connections form a stack: the last one returned is used first, and the others age at the bottom, where a single
timer closes them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from streamproxy.client.connection import ClientConnection, Owner
from streamproxy.errors import DestinationUnavailable, LimitReached
from streamproxy.wire.times import FOREVER

REFRESH: Final = 10.0


class Pool(Owner):
    """The places and connections of an endpoint; the `Owner` of each connection. Bound to the loop of its first use.

    ``refresh`` is called when a connection returns, at most once in `REFRESH` seconds. Without it, connections that are
    always in use would never notice a changed address.
    """

    __slots__ = (
        "_all_closed",
        "_closing",
        "_idle",
        "_idle_timeout",
        "_making",
        "_max_idle",
        "_max_streams",
        "_may_share",
        "_open",
        "_places",
        "_refresh",
        "_refresh_at",
        "_shared",
        "_timer",
        "_waiters",
    )

    def __init__(
        self,
        *,
        max_streams: int,
        max_idle: int,
        idle_timeout: float,
        may_share: bool = False,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self._max_streams = max_streams
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout
        self._may_share = may_share
        self._making = False  # a connection that may be shared is being made
        self._refresh = refresh
        self._refresh_at = 0.0 if refresh is not None else FOREVER  # the loop's time
        self._places = 0  # places held by streams and idle connections
        self._idle: list[ClientConnection] = []
        self._shared: list[ClientConnection] = []
        self._open: set[ClientConnection] = set()
        self._waiters: deque[asyncio.Future[ClientConnection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._all_closed: asyncio.Future[None] | None = None

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """The number of places held by streams, connecting or connected."""
        return self._places - len(self._idle)

    @property
    def waiting(self) -> int:
        """The number of streams that wait for a place."""
        return len(self._waiters)

    # A stream acquires a place.

    def take(self) -> ClientConnection | None:
        """Returns a connection with a place on it, or None.

        Data in the kernel of an idle connection is checked for: its peer may have closed it, or sent something, that
        the loop has not noticed yet.
        """
        if self._shared and self._places < self._max_streams:
            self._places += 1
            return self._join(self._shared[-1])
        idle = self._idle
        while idle:
            connection = idle.pop()
            if (connection.lifetime == FOREVER or not connection.expired) and not connection.peer_spoke():
                connection.in_use += 1
                if connection.multiplexed:
                    self._share(connection)
                return connection
            self._places -= 1
            connection.abort()
        return None

    def reserve(self) -> bool:
        """Takes a free place for a new connection. Returns False if there is none, or if one being made may be shared.

        The stream then makes the connection, and calls `opened` or `not_opened`.
        """
        if self._closing:
            raise DestinationUnavailable("The upstream is being removed")
        if self._places >= self._max_streams or self._making:
            return False
        self._places += 1
        self._making = self._may_share
        return True

    async def wait(self, seconds: float | None) -> ClientConnection | None:
        """Waits in the queue for a place. Returns the connection it is on, or None to make a connection.

        Raises LimitReached after ``seconds``.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ClientConnection | None] = loop.create_future()
        self._waiters.append(future)
        timer = loop.call_later(seconds, self._expire, future) if seconds is not None else None
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                if future in self._waiters:  # otherwise a freed place found it cancelled and removed it
                    self._waiters.remove(future)
            elif future.exception() is None:
                self._give_back(future.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    # A stream returns its place.

    def release(self, connection: ClientConnection) -> None:
        """The stream has ended, and its connection can carry another one."""
        connection.in_use -= 1
        if connection.multiplexed and (connection.in_use or connection.closed or connection.capacity <= 0):
            self._leave(connection)
            return
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
        if connection in self._shared:
            self._shared.remove(connection)
        if self._closing or len(self._idle) >= self._max_idle:
            connection.abort()
            self._places -= 1
            return
        self._idle.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._sweep)

    def free(self) -> None:
        """The stream has ended, and so has its connection, if it had one."""
        if not self._waiters or not self._hand_over(self._shared[-1] if self._shared else None):
            self._places -= 1

    def _leave(self, connection: ClientConnection) -> None:
        """A stream has left a connection that has other streams, or that accepts no more."""
        if not connection.in_use:
            connection.abort()
        else:
            self._share(connection)
        self.free()

    def _give_back(self, connection: ClientConnection | None) -> None:
        if connection is None:
            self.free()
            self._made()
        elif connection.closed and not connection.multiplexed:
            connection.abort()
            self.free()
        else:
            self.release(connection)

    def _hand_over(self, connection: ClientConnection | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._join(connection) if connection is not None else None)
                return True
        return False

    def _expire(self, waiter: asyncio.Future[ClientConnection | None]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_exception(LimitReached("All connections to the upstream are in use", retry_after=1))

    # Connections are made and lost.

    def opened(self, connection: ClientConnection) -> None:
        """A stream with a place has made a connection, whose first place it has."""
        self._open.add(connection)
        connection.in_use = 1
        if connection.multiplexed:
            self._share(connection)
        elif self._making:
            self._may_share = False  # the next will not be shared either
        self._made()

    def not_opened(self) -> None:
        """A stream with a place could not make a connection; it keeps the place."""
        if self._making:
            self._making = False
            self._admit(alone=True)  # each may fail for itself: one after the other would take the time of all

    def _made(self) -> None:
        """Wakes the streams that waited for a connection being made."""
        if self._making:
            self._making = False
            self._admit()

    def _admit(self, *, alone: bool = False) -> None:
        """Assigns free places to waiting streams, on a connection with room or for a new one.

        If the next connection may be shared, only one stream makes it, unless ``alone`` is set.
        """
        while self._waiters and self._places < self._max_streams and not self._making:
            self._places += 1
            connection = self._shared[-1] if self._shared else None
            if not self._hand_over(connection):
                self._places -= 1
            elif connection is None:
                self._making = self._may_share and not alone

    def _has_room(self, connection: ClientConnection) -> bool:
        return not connection.closed and connection.in_use < connection.capacity and not connection.lifetime < 0

    def _share(self, connection: ClientConnection) -> None:
        """Adds a connection with streams to the shared ones if it has room, otherwise removes it."""
        room = self._has_room(connection)
        if room and connection not in self._shared:
            self._shared.append(connection)
        elif not room and connection in self._shared:
            self._shared.remove(connection)

    def _join(self, connection: ClientConnection) -> ClientConnection:
        """Adds a stream to a connection with room."""
        connection.in_use += 1
        if connection.multiplexed:
            self._share(connection)
        return connection

    def changed(self, connection: ClientConnection) -> None:
        """A connection's capacity has changed. An idle one whose peer takes no streams is of no use."""
        if connection.in_use:
            self._share(connection)
            if self._shared:
                self._admit()
        elif connection.capacity <= 0 and connection in self._idle:
            self.lost(connection)
            connection.abort()

    def retire(self, addresses: set[Any]) -> None:
        """Stops using connections to these addresses; idle ones are closed."""
        for connection in [connection for connection in self._open if connection.address in addresses]:
            connection.retire()
            idle = connection in self._idle
            self.lost(connection)
            if idle:
                connection.abort()

    def lost(self, connection: ClientConnection) -> None:
        """A connection cannot be used any more; if it was idle, its place is freed."""
        if connection in self._idle:
            self._idle.remove(connection)
            self._places -= 1
        elif connection in self._shared:
            self._shared.remove(connection)

    def closed(self, connection: ClientConnection) -> None:
        """A connection's transport is closed."""
        self._open.discard(connection)
        if not self._open and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    def _sweep(self) -> None:
        """Closes connections that were idle for too long, and schedules the next check."""
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
        """Closes all connections, even those with a stream, and waits until the transports are closed."""
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
