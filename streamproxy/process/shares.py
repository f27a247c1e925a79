"""Which worker listens on which socket.

Where the system lets several sockets listen on one port, each worker has one of its own, over which the system spreads
connections evenly (measured: of 100 that come at once, 45 to 55 for each of two workers, where one socket for both gave
89 to the one that woke first). Other sockets, unix ones and those that were passed on, are shared by all.

The sockets stay open here while a worker is replaced, and connections wait in their queues. When that takes longer, a
worker's own are closed until it is back, so that new connections go to the others.
"""

from __future__ import annotations

import socket

from streamproxy.server.sockets import beside, close


class Shares:
    """The sockets of the places of ``count`` workers, counted from 0."""

    def __init__(self, listeners: list[socket.socket], count: int) -> None:
        groups: dict[object, list[socket.socket]] = {}
        for listener in listeners:
            groups.setdefault(listener.getsockname(), []).append(listener)
        self._own: list[list[socket.socket]] = [[] for _ in range(count)]  # one worker's
        self._common: list[socket.socket] = []
        for group in groups.values():
            if len(group) < count:
                self._common += group
                continue
            for place in range(count):
                self._own[place] += group[place::count]
        self._withdrawn: dict[int, list[object]] = {}  # the addresses of sockets that are closed for now

    def all(self) -> list[socket.socket]:
        """Every socket that listens."""
        return [*self._common, *(one for own in self._own for one in own)]

    def of(self, place: int) -> list[socket.socket]:
        """The sockets of a place's worker."""
        return self._common + self._own[place]

    def withdraw(self, place: int) -> None:
        """Have the system give a place's connections to the others, where there are others."""
        for listener in list(self._own[place]):
            address = listener.getsockname()
            if self._at(address, place) is not None:
                self._own[place].remove(listener)
                self._withdrawn.setdefault(place, []).append(address)
                close(listener)

    def restore(self, place: int) -> None:
        """Listen again for a place. Raises BindError."""
        for address in list(self._withdrawn.get(place, ())):
            other = self._at(address, place)
            assert other is not None  # the last one of an address is never withdrawn
            self._own[place].append(beside(other))
            self._withdrawn[place].remove(address)

    def _at(self, address: object, place: int) -> socket.socket | None:
        """A socket of another place on this address."""
        others = (one for number, own in enumerate(self._own) if number != place for one in own)
        return next((one for one in others if one.getsockname() == address), None)

    def close(self) -> None:
        """Listen no more."""
        for listener in self.all():
            close(listener)
