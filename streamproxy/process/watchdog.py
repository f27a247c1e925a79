"""Detects workers that hang: they are alive but make no progress.

A worker reports every second without a request, for which its event loop must run. A worker that is silent for
`SILENCE` ticks of the supervisor's own loop hangs: a deadlock, an endless loop, a stopped process. A late tick does not
count, because then the machine was slow or suspended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

TICK = 1.0  # seconds
SILENCE = 30  # ticks
_QUIET = 3  # ticks
_LATE = 2 * TICK  # seconds; a longer tick does not count


class Watchdog(Generic[T]):
    """Counts the ticks since the last message of each worker; ``silence`` ticks are too many.

    ``prompt`` is whether the last tick was in time and every worker was heard since the one before.
    """

    def __init__(self, silence: int) -> None:
        self.prompt = False
        self._most = silence
        self._heard: dict[T, int] = {}
        self._silent: dict[T, int] = {}

    def tick(self, took: float, heard: Mapping[T, int]) -> list[T]:
        """Records a tick of ``took`` seconds, and how many messages each worker has sent so far.

        Returns the workers that hang.
        """
        more = int(took < _LATE)
        self.prompt = took < _LATE and all(self._heard.get(worker) != count for worker, count in heard.items())
        self._silent = {
            worker: self._silent.get(worker, 0) + more if self._heard.get(worker) == count else 0
            for worker, count in heard.items()
        }
        self._heard = dict(heard)
        return [worker for worker, ticks in self._silent.items() if ticks >= self._most]

    def answers(self, worker: T) -> bool:
        """Whether a worker was heard within the last few ticks."""
        return self._silent.get(worker, 0) < _QUIET
