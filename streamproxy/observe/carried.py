"""Totals as plain data, for another process of perhaps another version.

Numbers go by their names: what the other side has no name for it drops, and what it is not told stays 0. A histogram
of other bounds is dropped too, since its counts can't be told apart again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from streamproxy.observe.series import Histogram, Series, Totals

_COUNTERS = ("requests", "disconnects", "upstream_errors", "connections")


def attributes(kind: type) -> tuple[str, ...]:
    """The names of what the objects of a class have. mypyc, which compiles some classes, drops their ``__slots__``."""
    names: tuple[str, ...] = getattr(kind, "__slots__", ()) or vars(kind)["__mypyc_attrs__"]
    return names


_SERIES = attributes(Series)


def pack(totals: Totals) -> dict[str, Any]:
    """Totals as what JSON knows."""
    return {
        "series": [[*pair, _packed(series)] for pair, series in totals.series.items()],
        "endpoints": [[*key, up, streams] for key, (up, streams) in totals.endpoints.items()],
        "reloads": dict(totals.reloads),
        **{name: [[*key, count] for key, count in getattr(totals, name).items()] for name in _COUNTERS},
    }


def unpack(data: dict[str, Any]) -> Totals:
    """The totals that were packed. Raises ValueError, KeyError or TypeError for anything else."""
    totals = Totals()
    for route, upstream, packed in data.get("series", ()):
        totals.series[str(route), str(upstream)] = _unpacked(packed)
    for upstream, endpoint, up, streams in data.get("endpoints", ()):
        totals.endpoints[str(upstream), str(endpoint)] = bool(up), int(streams)
    totals.reloads.update({str(result): int(count) for result, count in data.get("reloads", {}).items()})
    for name in _COUNTERS:
        counter: Counter[tuple[Any, ...]] = getattr(totals, name)
        counter.update({tuple(key): int(count) for *key, count in data.get(name, ())})
    return totals


def _packed(series: Series) -> dict[str, Any]:
    values = ((name, getattr(series, name)) for name in _SERIES)
    return {name: _histogram(value) if isinstance(value, Histogram) else value for name, value in values}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"bounds": histogram.bounds, "counts": histogram.counts, "sum": histogram.sum}


def _unpacked(packed: dict[str, Any]) -> Series:
    series = Series()
    for name, value in packed.items():
        mine = getattr(series, name, None) if name in _SERIES else None
        if isinstance(mine, Histogram):
            _add(mine, tuple(value["bounds"]), value["counts"], float(value["sum"]))
        elif mine is not None:
            setattr(series, name, type(mine)(value))
    return series


def _add(histogram: Histogram, bounds: tuple[float, ...], counts: Iterable[int], total: float) -> None:
    if bounds == histogram.bounds:
        histogram.add(counts, total)
