"""A clock turned by hand, for parts that take the time as an argument or a timer as a dependency.

It has the part of the event loop's interface that timers use (``time``, ``call_at``, ``call_later``) and no more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Timer:
    """A pending call; `cancel` takes it back."""

    def __init__(self, when: float, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.cancelled = False
        self._call = call
        self._args = args

    def cancel(self) -> None:
        self.cancelled = True

    def _run(self) -> None:
        if not self.cancelled:
            self._call(*self._args)


class Clock:
    """Time that stands still until `advance`; calling the clock gives its time, in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._pending: list[tuple[float, int, Timer]] = []
        self._count = 0

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., object], *args: Any) -> Timer:
        """Call at that time, when the clock is turned there."""
        timer = Timer(when, call, args)
        self._count += 1
        heapq.heappush(self._pending, (when, self._count, timer))
        return timer

    def call_later(self, delay: float, call: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self.now + delay, call, *args)

    def advance(self, seconds: float) -> None:
        """Turn the clock on, running what falls due on the way, each at its own time and in order."""
        until = self.now + seconds
        while self._pending and self._pending[0][0] <= until:
            when, _, timer = heapq.heappop(self._pending)
            self.now = max(self.now, when)
            timer._run()
        self.now = until

    @property
    def timers(self) -> list[float]:
        """When the timers that are still armed fall due, in order."""
        return sorted(when for when, _, timer in self._pending if not timer.cancelled)
