"""Counters and gauges of what is no exchange's end: messages of a tunnel, fallbacks, refusals by a limit, store errors.

A part of the proxy asks for its `Tally` once, when a configuration is loaded, and adds to it while it serves; a gauge
is a function that is called at each scrape. The names and labels that there are stand in ``observe/families.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Labelled = tuple[str, ...]  # the name of a family, without its prefix and suffix, and the values of its labels
Levels = Callable[[], Iterable[tuple[Labelled, float]]]


class Tally:
    """One counter of one family."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int = 1) -> None:
        """Count ``number`` more."""
        self.value += number


class Tallies:
    """The counters of one process, by name and labels, and where its gauges are read.

    ``levels`` are the sources of gauges; the parts of a configuration that is no longer in force take theirs out.
    """

    __slots__ = ("levels", "tallies")

    def __init__(self) -> None:
        self.tallies: dict[Labelled, Tally] = {}
        self.levels: list[Levels] = []

    def of(self, name: str, *labels: str) -> Tally:
        """The counter of this name and these labels, which shows from now on, with 0. The same one at each call, so
        that a counter goes on after a reload. Labels come from the configuration only."""
        labelled = (name, *labels)
        tally = self.tallies.get(labelled)
        if tally is None:
            tally = self.tallies[labelled] = Tally()
        return tally
