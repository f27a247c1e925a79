"""Counters and gauges outside of exchanges: tunnel messages, fallbacks, refusals by a limit, store errors.

A component looks up its `Tally` once, when a configuration is loaded, and adds to it while it serves. A gauge is a
function that is called at each scrape. ``observe/families.py`` defines the names and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Labelled = tuple[str, ...]  # the name of a family without prefix and suffix, and its label values
Levels = Callable[[], Iterable[tuple[Labelled, float]]]


class Tally:
    """A counter of one family."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int = 1) -> None:
        """Adds ``number`` to the counter."""
        self.value += number


class Tallies:
    """The counters of one process by name and labels, and the sources of its gauges.

    ``levels`` are the sources of gauges; components remove theirs when their configuration is no longer in force.
    """

    __slots__ = ("levels", "tallies")

    def __init__(self) -> None:
        self.tallies: dict[Labelled, Tally] = {}
        self.levels: list[Levels] = []

    def of(self, name: str, *labels: str) -> Tally:
        """Returns the counter of this name and labels, which is exposed from now on, beginning with 0.

        Each call returns the same counter, so that it continues after a reload. Labels must come from the
        configuration.
        """
        labelled = (name, *labels)
        tally = self.tallies.get(labelled)
        if tally is None:
            tally = self.tallies[labelled] = Tally()
        return tally
