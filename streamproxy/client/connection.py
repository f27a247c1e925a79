"""The base class of connections in a pool, for all protocols."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Final

from streamproxy.wire.times import FOREVER

# The lifetime of a retired connection: expired, but different from 0.0, which means that the upstream's is unknown.
_NO_LONGER: Final = -1.0


class Owner:
    """The owner of connections, which is notified of their end: the pool."""

    __slots__ = ()

    def lost(self, connection: ClientConnection) -> None:
        """The connection accepts no more requests; called as soon as this is known, possibly more than once."""
        raise NotImplementedError

    def closed(self, connection: ClientConnection) -> None:
        """The transport is closed; called once."""
        raise NotImplementedError

    def changed(self, connection: ClientConnection) -> None:
        """The connection's ``capacity`` has changed."""
        raise NotImplementedError


class ClientConnection:
    """A connection to an upstream, as seen by its pool.

    ``capacity`` is the number of concurrent streams it accepts, and ``in_use`` the current number, which the pool
    counts. ``closed`` means that it accepts no more requests, though streams may still run. ``address`` is host and
    port, if they may change. ``idle_since`` is the loop's time when its last stream ended. ``lifetime`` is how many
    seconds it may be idle: as announced by the upstream, `FOREVER` if it announced nothing, 0.0 before its first
    response. ``multiplexed`` means that streams can share it, whatever its current capacity is.
    """

    __slots__ = (
        "_loop",
        "_poller",
        "_sock",
        "address",
        "capacity",
        "closed",
        "idle_since",
        "in_use",
        "lifetime",
        "multiplexed",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, capacity: int) -> None:
        self._loop = loop
        self._sock = sock
        self._poller: select.poll | None = None
        self.capacity = capacity
        self.multiplexed = capacity > 1
        self.in_use = 0
        self.closed = False
        self.address: object = None
        self.idle_since = 0.0
        self.lifetime = FOREVER

    def become_idle(self) -> None:
        """Records the time at which its last stream ended, since idle connections age."""
        self.idle_since = self._loop.time()

    def retire(self) -> None:
        """Accepts no new streams, because the address no longer belongs to the upstream."""
        self.lifetime = _NO_LONGER

    @property
    def expired(self) -> bool:
        """Whether it must not be reused.

        This is so if the upstream is about to close it (Keep-Alive: timeout=N), or if it is retired.
        """
        return self.lifetime < FOREVER and self.idle_since + self.lifetime <= self._loop.time()

    def peer_spoke(self) -> bool:
        """Whether the kernel holds data of an idle connection: a byte, or its end.

        The loop has not seen it yet, and it cannot be a response, since no request was sent.
        """
        poller = self._poller
        try:
            if poller is None:
                poller = self._poller = select.poll()
                poller.register(self._sock, select.POLLIN)
            return bool(poller.poll(0))  # errors and hang-ups are reported too
        except (OSError, ValueError):  # ValueError: the socket is closed
            return True

    def abort(self) -> None:
        """Closes at once without waiting; unsent data is dropped."""
        raise NotImplementedError

    def shut(self) -> None:
        """Closes at once; an incomplete stream fails as if the upstream had closed."""
        raise NotImplementedError
