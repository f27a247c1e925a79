"""Which worker listens on which socket, and which of them get the next connections.

Where the system lets several sockets listen on one port, each worker has one of its own, over which the system spreads
connections evenly (measured: of 100 that come at once, 45 to 55 for each of two workers, where one socket for both gave
89 to the one that woke first). Other sockets, unix ones and those that were passed on, are shared by all.

Even is not fair to streams that stay: of 1,000, one of four workers has 14 % more or less than its share, and streams
that end leave what they leave. So a worker with fewer streams than the others gets more of the new connections
(`balance`), and one that does not answer gets none. It is decided anew each second. The difference counts less where
there are few streams, so that clients that keep their connections are not all sent to one worker by chance.

What a difference should count depends on how many streams come in the next second: if it is ten, seven of them make up
for a third of a difference of ten; if it is a hundred, 52 do. So the correction aims at half of each difference, by the
streams that came of late (`Arrivals`), and at less where there are few. It is never below `_STRENGTH`, which does not
overshoot however many come, and not above it where reports are late.

The sockets stay open here while a worker is replaced, and connections wait in their queues. When that takes longer, a
worker's own are closed until it is back, so that new connections go to the others.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from streamproxy.server.sockets import beside, close
from streamproxy.server.steer import release, steer

_EVEN: Final = 100  # a worker's weight when all have the same streams
_LEAST: Final = 25
_STRENGTH: Final = 2.0  # of the correction; from 2 on, a second with many arrivals would overshoot
_FEW: Final = 100  # streams of a worker
_AIM: Final = 0.5  # of a difference, for which the next second should make up
_FADES: Final = 0.8  # of a second's arrivals, which still count in the next one


def weights(streams: Sequence[int | None], arrivals: float = 0.0) -> list[int]:
    """How likely each place should be to get a connection, for its streams; None for one that does not serve.

    ``arrivals`` is how many streams will come until the next decision, at the most; 0 if that is not known.
    """
    serving = [count for count in streams if count is not None]
    if not serving:
        return [_EVEN] * len(streams)
    mean = sum(serving) / len(serving)
    strength = _STRENGTH
    if arrivals > 0:
        strength = max(strength, _AIM * mean * len(serving) / arrivals)
    found = []
    for count in streams:
        more = 0.0 if count is None else strength * (mean - count) / (mean + _FEW)
        found.append(0 if count is None else max(round(_EVEN * (1 + more)), _LEAST))
    return found


class Arrivals:
    """How many streams come in a second, at the most: a second without any, or without reports of them, is no proof."""

    def __init__(self) -> None:
        self._total = 0
        self._most = 0.0

    def count(self, total: int) -> float:
        """Returns the number for the next second; ``total`` is how many have come so far, by the last reports."""
        self._most = max(total - self._total, self._most * _FADES)
        self._total = total
        return self._most


class Shares:
    """The sockets of the places of ``count`` workers, counted from 0."""

    def __init__(self, listeners: list[socket.socket], count: int) -> None:
        groups: dict[object, list[socket.socket]] = {}
        for listener in listeners:
            groups.setdefault(listener.getsockname(), []).append(listener)
        self._common: list[socket.socket] = []
        # By address: the sockets with their places, in the order in which the kernel numbers them.
        self._own: dict[object, list[tuple[socket.socket, int]]] = {}
        for address, group in groups.items():
            if len(group) < count:
                self._common += group
            else:
                self._own[address] = [(listener, number % count) for number, listener in enumerate(group)]
                release(group[0])  # of what another process has said
        self._withdrawn: dict[int, list[object]] = {}  # the addresses of sockets that are closed for now
        self._weights = [_EVEN] * count

    def all(self) -> list[socket.socket]:
        """Every socket that listens; those of an address as the kernel numbers them."""
        return [*self._common, *(one for own in self._own.values() for one, _ in own)]

    def of(self, place: int) -> list[socket.socket]:
        """The sockets of a place's worker."""
        return self._common + [one for own in self._own.values() for one, its in own if its == place]

    def balance(self, streams: Sequence[int | None], arrivals: float = 0.0) -> None:
        """Correct how new connections are spread; the arguments are those of `weights`."""
        found = weights(streams, arrivals)
        if found != self._weights:
            self._weights = found
            for own in self._own.values():
                self._steer(own)

    def _steer(self, own: list[tuple[socket.socket, int]]) -> None:
        found = [self._weights[place] for _, place in own]
        if len(set(found)) > 1:
            steer(own[0][0], found)
        else:
            release(own[0][0])

    def withdraw(self, place: int) -> None:
        """Have the system give a place's connections to the others, where there are others."""
        for address, own in self._own.items():
            while len({its for _, its in own}) > 1 and place in (places := [its for _, its in own]):
                number = places.index(place)
                close(own[number][0])
                own[number] = own[-1]  # as the kernel does
                own.pop()
                self._withdrawn.setdefault(place, []).append(address)
            self._steer(own)

    def restore(self, place: int) -> None:
        """Listen again for a place. Raises BindError."""
        for address in list(self._withdrawn.get(place, ())):
            own = self._own[address]  # the last one of an address is never withdrawn
            own.append((beside(own[0][0]), place))
            self._withdrawn[place].remove(address)
            self._steer(own)

    def close(self) -> None:
        """Listen no more."""
        for listener in self.all():
            close(listener)
