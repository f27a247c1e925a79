"""Assigns listening sockets to workers.

If the system supports several sockets on one port, each worker has its own, and the system spreads connections evenly
over them (measured: of 100 simultaneous connections, each of two workers got 45 to 55; with one shared socket, the one
that woke first got 89). Other sockets, such as Unix sockets and inherited ones, are shared by all workers.

The sockets stay open in the supervisor while a worker is replaced, and connections wait in their queues. If this takes
long, the worker's own sockets are closed until it is back, so that new connections go to the others.
"""

from __future__ import annotations

import socket

from streamproxy.server.sockets import beside, close


class Shares:
    """The sockets of ``count`` workers, which are numbered from 0."""

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
        """All listening sockets."""
        return [*self._common, *(one for own in self._own for one in own)]

    def of(self, place: int) -> list[socket.socket]:
        """Returns the sockets of a worker."""
        return self._common + self._own[place]

    def withdraw(self, place: int) -> None:
        """Makes the system send a worker's connections to the others, if there are any."""
        for listener in list(self._own[place]):
            address = listener.getsockname()
            if self._at(address, place) is not None:
                self._own[place].remove(listener)
                self._withdrawn.setdefault(place, []).append(address)
                close(listener)

    def restore(self, place: int) -> None:
        """Listens again for a worker. Raises BindError."""
        for address in list(self._withdrawn.get(place, ())):
            other = self._at(address, place)
            assert other is not None  # the last socket of an address is never withdrawn
            self._own[place].append(beside(other))
            self._withdrawn[place].remove(address)

    def _at(self, address: object, place: int) -> socket.socket | None:
        """Returns a socket of another worker on this address."""
        others = (one for number, own in enumerate(self._own) if number != place for one in own)
        return next((one for one in others if one.getsockname() == address), None)

    def close(self) -> None:
        """Closes all sockets."""
        for listener in self.all():
            close(listener)
