"""Which workers hang: they live, and do nothing any more.

A worker reports every second without being asked, and its event loop has to turn for that. One that has been silent
for `SILENCE` turns of the supervisor's own loop hangs: a deadlock, an endless loop, a process that was stopped. A turn
that comes late does not count, because then it is the machine that is slow, or was asleep, and not the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

TURN = 1.0  # seconds
SILENCE = 30  # turns
_LATE = 2 * TURN  # seconds for a turn that took too long to say anything about others


class Pulse(Generic[T]):
    """Counts the turns since each worker was last heard of; ``silence`` turns are too many."""

    def __init__(self, silence: int) -> None:
        self._most = silence
        self._heard: dict[T, int] = {}
        self._silent: dict[T, int] = {}

    def turn(self, took: float, heard: Mapping[T, int]) -> list[T]:
        """A turn of ``took`` seconds is over, and so many messages of each worker have come; gives those that hang."""
        more = int(took < _LATE)
        self._silent = {
            worker: self._silent.get(worker, 0) + more if self._heard.get(worker) == count else 0
            for worker, count in heard.items()
        }
        self._heard = dict(heard)
        return [worker for worker, turns in self._silent.items() if turns >= self._most]
