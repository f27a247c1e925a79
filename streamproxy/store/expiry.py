"""A set whose members all expire after the same delay, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Expiry(Generic[T]):
    """A set in the order of insertion; ``expire`` is called with each member once it is ``delay`` seconds old.

    Since the delay is the same for all, the oldest member is always the next to expire, and one timer is enough.
    Discarding a member does not change the timer: it fires, finds nothing due and is armed for the next member. A new
    ``delay`` applies to members added later; older ones may then expire late.
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
        """Adds a member, or makes it the youngest again."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._due.pop(item, None)
        self._due[item] = self._loop.time() + self.delay
        if self._timer is None:
            self._timer = self._loop.call_later(self.delay, self._fire)

    def discard(self, item: T) -> None:
        """Removes a member, if it is in the set."""
        self._due.pop(item, None)

    def pop_oldest(self) -> T | None:
        """Removes and returns the oldest member; None if the set is empty."""
        item = next(iter(self._due), None)
        if item is not None:
            del self._due[item]
        return item

    def clear(self) -> None:
        """Removes all members and cancels the timer."""
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
