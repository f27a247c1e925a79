"""Where others are better than streamproxy, from the samples themselves, so that no loss is left out."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.report_tables import TABLES, figure, table
from benchmarks.sitting import Sitting
from benchmarks.summary import MORE_IS_BETTER, US, held_back, quote

_CLEAR: Final = 0.03  # a smaller share of ours is no difference
_RATES: Final = MORE_IS_BETTER - {"most"}
# Numbers that are not better or worse; and the memory of a few streams is that of whatever else happens.
_FACTS: Final = frozenset({"streams", "left_open", "kib_10", "kib_100"})


class Loss(NamedTuple):
    """A number of ours, and those of the peers that have a better one, the best first."""

    load: str
    head: str
    ours: float
    better: list[tuple[str, float]]


def _better(theirs: float, ours: float, number: str) -> bool:
    return theirs > ours * (1 + _CLEAR) if number in MORE_IS_BETTER else theirs < ours * (1 - _CLEAR)


def losses(sitting: Sitting) -> list[Loss]:
    """By the medians of the rounds. Rates that upstream and generator held back are left out."""
    samples = sitting.samples
    busy = set(held_back(samples))
    others = [name for name in sitting.facts["labels"] if name != "direct" and not name.startswith(US)]
    found = []
    for load, (_, columns) in TABLES.items():
        for head, number in columns.items():
            ours = quote(samples, load, US, number)
            if ours is None or number in _FACTS or (number in _RATES and f"{load}, {US}" in busy):
                continue
            same = quote(samples, load, US, "streams")
            better = []
            for name in others:
                theirs, streams = quote(samples, load, name, number), quote(samples, load, name, "streams")
                if theirs is not None and streams == same and _better(theirs.median, ours.median, number):
                    better.append((name, theirs.median))
            if better:
                better.sort(key=lambda one: one[1], reverse=number in MORE_IS_BETTER)
                found.append(Loss(load, head, ours.median, better))
    return found


def losses_table(sitting: Sitting) -> str:
    """The losses as Markdown."""
    labels = sitting.facts["labels"]
    rows = [
        (
            f"`{loss.load}`",
            loss.head,
            figure(loss.ours),
            ", ".join(f"{labels[name]} {figure(value)}" for name, value in loss.better),
        )
        for loss in losses(sitting)
    ]
    return table(("load", "", "streamproxy", "better"), rows)
