"""What a pool knows of a connection, whatever its protocol."""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Final

from streamproxy.wire.times import FOREVER

# Of what is retired: over before it began, and not the 0.0 that waits for the upstream's word.
_NO_LONGER: Final = -1.0


class Owner:
    """Who hears of a connection's end: its pool."""

    __slots__ = ()

    def lost(self, connection: ClientConnection) -> None:
        """The connection takes no more requests; called as soon as that is known, perhaps more than once."""
        raise NotImplementedError

    def closed(self, connection: ClientConnection) -> None:
        """The transport is closed; called once."""
        raise NotImplementedError

    def changed(self, connection: ClientConnection) -> None:
        """The connection's ``capacity`` is another now."""
        raise NotImplementedError


class ClientConnection:
    """A connection to an upstream, as its pool sees it.

    ``capacity`` is how many streams it takes at once, and ``in_use`` how many it has; the latter is the pool's to
    count. ``closed`` says that it takes no more requests, though streams may still run on it. ``address`` is host and
    port, where they may change. ``idle_since`` is the loop's time when its last stream ended. ``lifetime`` is how many
    seconds it may be idle: what the upstream said, `FOREVER` when it said nothing, 0.0 before it could.
    ``multiplexed`` says that streams can share it, whatever its capacity is at the moment.
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
        """Its last stream has ended: note the time, since idle connections age."""
        self.idle_since = self._loop.time()

    def retire(self) -> None:
        """Carry no more than the streams that there are: the address is not the upstream's any more."""
        self.lifetime = _NO_LONGER

    @property
    def expired(self) -> bool:
        """Whether it must not be used again.

        Because the upstream said that it closes an idle connection about now (Keep-Alive: timeout=N), or is retired.
        """
        return self.lifetime < FOREVER and self.idle_since + self.lifetime <= self._loop.time()

    def peer_spoke(self) -> bool:
        """Whether the kernel holds something that came on an idle connection: a byte, or its end.

        The loop has not seen it yet, and what it is can't be an answer to a request that was not sent.
        """
        poller = self._poller
        try:
            if poller is None:
                poller = self._poller = select.poll()
                poller.register(self._sock, select.POLLIN)
            return bool(poller.poll(0))  # an error and a hang-up are told too
        except (OSError, ValueError):  # the second: the socket is closed
            return True

    def abort(self) -> None:
        """Close at once, without waiting for anything; what was not sent is dropped."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close at once; a stream that is not complete fails as if the upstream had closed."""
        raise NotImplementedError
