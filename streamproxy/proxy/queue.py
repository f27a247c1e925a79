"""The order in which those that wait for a place get one. No clock, no lock and no task.

Theory of operation. Whoever waits stands in a *lane*, that of its priority; the highest lane that is not empty is next.
Within a lane those of each client stand in a row of their own where clients take turns, and else all in one row. The
first row of a lane is next, gives its first, and goes to the end of the lane. A row without anybody is gone.

Beside the lanes all are known in the order in which they came, since time runs out in that order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the queue reads of one that waits."""

    @property
    def client(self) -> Hashable: ...
    @property
    def priority(self) -> int: ...


W = TypeVar("W", bound=Waiting)


class WaitingLine(Generic[W]):
    """Those that wait. ``fair``: the clients of one priority take turns."""

    def __init__(self, *, fair: bool) -> None:
        self._fair = fair
        self._arrivals: OrderedDict[W, None] = OrderedDict()
        self._lanes: dict[int, OrderedDict[Hashable, OrderedDict[W, None]]] = {}

    def __len__(self) -> int:
        return len(self._arrivals)

    def __contains__(self, one: object) -> bool:
        return one in self._arrivals

    @property
    def oldest(self) -> W:
        """The one that came first. There must be one."""
        return next(iter(self._arrivals))

    def add(self, one: W) -> None:
        """Stand in line."""
        self._arrivals[one] = None
        lane = self._lanes.setdefault(one.priority, OrderedDict())
        lane.setdefault(self._row(one), OrderedDict())[one] = None

    def pop(self) -> W:
        """Take out the one that is next. There must be one."""
        lane = self._lanes[max(self._lanes)]
        row = next(iter(lane))
        one = next(iter(lane[row]))
        self.remove(one)
        if row in lane:
            lane.move_to_end(row)
        return one

    def remove(self, one: W) -> None:
        """Take out one that does not wait any more. Raises KeyError for one that does not stand here."""
        del self._arrivals[one]
        lane, row = self._lanes[one.priority], self._row(one)
        del lane[row][one]
        if not lane[row]:
            del lane[row]
        if not lane:
            del self._lanes[one.priority]

    def least(self, below: int) -> W | None:
        """The one that can be done without most: of the lowest priority, the last that came. None if no priority is
        under ``below``."""
        if not self._lanes or (lowest := min(self._lanes)) >= below:
            return None
        return next(one for one in reversed(self._arrivals) if one.priority == lowest)

    def reordered(self, *, fair: bool) -> WaitingLine[W]:
        """The same ones, in another order."""
        line: WaitingLine[W] = WaitingLine(fair=fair)
        for one in self._arrivals:
            line.add(one)
        return line

    def _row(self, one: W) -> Hashable:
        return one.client if self._fair else None
