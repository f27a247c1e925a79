"""The places for streams to one endpoint: how many there may be, and on which connections.

Theory of operation. There are ``max_streams`` places. A place belongs to a stream or to an idle connection, never to
both, and changes hands without a moment in between:

    free ──reserve──▶ stream ──release──▶ idle ──take──▶ stream
      ▲                 │  └──release, free──▶ the longest waiting stream
      └──────free───────┘      (idle: closed by its peer, too old, one too many ──▶ free)

A connection has ``capacity``: one stream at once over HTTP/1.1, as many as the peer allows over HTTP/2. One that has
streams and room for more is *shared*: a stream takes a free place and joins it. One without streams is *idle* and holds
one place.

A stream's connection may close under it; the place stays the stream's until it says `free` or `release`. Nobody waits
while a connection is idle or a place is free, so a place that comes back goes to the first in the queue directly, and
nobody can overtake. A stream that is cancelled in the moment in which it got a place hands it on.

Where connections may turn out to be shared (``may_share``), one is made at a time: streams that come meanwhile wait in
the queue, and get a place on it once it is there, or places of their own once it is known to take one stream only.

The idle connections are a stack: the last one back is the next to go, and the rest grow old at its bottom, where one
timer for all of them looks for the next to close.
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
    """Places and connections; the `Owner` of every connection. Bound to the loop that it is first used on.

    ``refresh`` is called when a connection comes back, at most every `REFRESH` seconds: connections that are never
    closed ask nobody whether their address is still right.
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
        self._making = False  # a connection that may be shared
        self._refresh = refresh
        self._refresh_at = 0.0 if refresh is not None else FOREVER  # the loop's time
        self._places = 0  # not free: held by streams and idle connections
        self._idle: list[ClientConnection] = []
        self._shared: list[ClientConnection] = []
        self._open: set[ClientConnection] = set()
        self._waiters: deque[asyncio.Future[ClientConnection | None]] = deque()
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

    def take(self) -> ClientConnection | None:
        """A connection with a place on it, or None.

        What the kernel holds on an idle connection is looked at: its peer may have closed it, or have said something,
        and the loop not have noticed yet.
        """
        if self._shared and self._places < self._max_streams:
            self._places += 1
            return self._join(self._shared[-1])
        idle = self._idle
        while idle:
            connection = idle.pop()
            if (connection.lifetime == FOREVER or not connection.expired) and not connection.peer_spoke():
                return self._join(connection)
            self._places -= 1
            connection.abort()
        return None

    def reserve(self) -> bool:
        """Take a free place, for a new connection; False when there is none, or when one that is being made may do.

        The stream then makes the connection, and says `opened` or `not_opened`.
        """
        if self._closing:
            raise DestinationUnavailable("The upstream is being removed")
        if self._places >= self._max_streams or self._making:
            return False
        self._places += 1
        self._making = self._may_share
        return True

    async def wait(self, seconds: float | None) -> ClientConnection | None:
        """Wait in the queue for a place: with the connection that it is on, or None to make one.

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
                if future in self._waiters:  # a place that came free since has found it cancelled, and taken it out
                    self._waiters.remove(future)
            elif future.exception() is None:
                self._give_back(future.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    # A stream gives its place back.

    def release(self, connection: ClientConnection) -> None:
        """The stream has ended, and its connection can carry another in its place."""
        connection.in_use -= 1
        if connection.multiplexed and (connection.in_use or connection.closed):
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
        """The stream has ended, and its connection with it, if it had one."""
        if not self._waiters or not self._hand_over(self._shared[-1] if self._shared else None):
            self._places -= 1

    def _leave(self, connection: ClientConnection) -> None:
        """A stream has left a connection that has others, or that takes no more."""
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

    # Connections come and go.

    def opened(self, connection: ClientConnection) -> None:
        """A stream that had a place of its own has made a connection, and has its first place."""
        self._open.add(connection)
        connection.in_use = 1
        if connection.multiplexed:
            self._share(connection)
        elif self._making:
            self._may_share = False  # nor will the next be
        self._made()

    def not_opened(self) -> None:
        """A stream that had a place of its own could not make a connection; the place is still the stream's."""
        if self._making:
            self._making = False
            self._admit(alone=True)  # each may fail for itself: one after the other would take the time of all

    def _made(self) -> None:
        """Let those go on who waited for a connection that is made."""
        if self._making:
            self._making = False
            self._admit()

    def _admit(self, *, alone: bool = False) -> None:
        """Give free places to those who wait: on a connection with room, or for one of their own.

        Where the next connection may be shared only one stream makes it, unless they are ``alone``.
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
        """Have a connection with streams among the shared ones if it has room, else not."""
        room = self._has_room(connection)
        if room and connection not in self._shared:
            self._shared.append(connection)
        elif not room and connection in self._shared:
            self._shared.remove(connection)

    def _join(self, connection: ClientConnection) -> ClientConnection:
        """One more stream for a connection with room."""
        connection.in_use += 1
        if connection.multiplexed:
            self._share(connection)
        return connection

    def changed(self, connection: ClientConnection) -> None:
        """A connection's capacity is another now."""
        if connection.in_use:
            self._share(connection)
            if self._shared:
                self._admit()

    def retire(self, addresses: set[Any]) -> None:
        """Use no connection to one of these addresses again; those that are idle close."""
        for connection in [connection for connection in self._open if connection.address in addresses]:
            connection.retire()
            idle = connection in self._idle
            self.lost(connection)
            if idle:
                connection.abort()

    def lost(self, connection: ClientConnection) -> None:
        """A connection can't be used any more: if it was idle, its place is free."""
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
