"""Things that all fall due equally long after they were put here, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Expiry(Generic[T]):
    """A set in the order of insertion; each member is handed to ``expire`` once it is ``delay`` seconds old.

    Since the delay is the same for all, the oldest member is always the next that is due, and one timer is enough. A
    member that is discarded leaves the timer as it is: it fires, finds nothing and is set for the next. Another
    ``delay`` holds for members that come from then on; it may make those that are there fall due late.
    """

    __slots__ = ("_due", "_expire", "_loop", "_timer", "delay")

    def __init__(self, delay: float, expire: Callable[[T], None]) -> None:
        self.delay = delay
        self._expire = expire
        self._due: dict[T, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: T) -> bool:
        return item in self._due

    def __iter__(self) -> Iterator[T]:
        return iter(self._due)

    def add(self, item: T) -> None:
        """Take a member in, or make one the youngest again."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._due.pop(item, None)
        self._due[item] = self._loop.time() + self.delay
        if self._timer is None:
            self._timer = self._loop.call_later(self.delay, self._fire)

    def discard(self, item: T) -> None:
        """Forget a member, if it is there."""
        self._due.pop(item, None)

    def pop_oldest(self) -> T | None:
        """Take the oldest member out; None if there is none."""
        item = next(iter(self._due), None)
        if item is not None:
            del self._due[item]
        return item

    def clear(self) -> None:
        """Forget all, and the timer."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        assert self._loop is not None
        now = self._loop.time()
        due = []
        for item, when in self._due.items():
            if when > now:
                break
            due.append(item)
        for item in due:
            if self._due.pop(item, None) is not None:
                self._expire(item)
        if self._due and self._timer is None:
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._fire)
