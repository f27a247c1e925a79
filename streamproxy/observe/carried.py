"""Converts totals and live exchanges to plain data, for another process that may run another version.

Values are identified by their names: the receiver drops unknown names, and missing numbers stay 0. A histogram lists
the upper bounds of its non-empty buckets. A histogram with a bound that the receiver does not have is dropped, since
its counts cannot be assigned.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any, Final

from streamproxy.errors import UpstreamReportedError
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.histogram import TOKENS, Histogram
from streamproxy.formats.inspector import Usage
from streamproxy.observe.series import GenAi, Series, Totals

_COUNTERS = ("requests", "disconnects", "upstream_errors", "connections")


def attributes(kind: type) -> tuple[str, ...]:
    """Returns the attribute names of a class. mypyc, which compiles some classes, drops their ``__slots__``."""
    names: tuple[str, ...] = getattr(kind, "__slots__", ()) or vars(kind)["__mypyc_attrs__"]
    return names


def _plain_facts() -> tuple[str, ...]:
    """Returns the names of an exchange's facts that are texts and numbers; the others are objects of its process."""
    fresh = Exchange("", "", "", "", "")
    return tuple(name for name in attributes(Exchange) if isinstance(getattr(fresh, name), str | int | float))


_FACTS: Final = _plain_facts()
_SERIES = attributes(Series)
_GENAI = tuple(name for name in attributes(GenAi) if name != "tokens")


def pack(totals: Totals) -> dict[str, Any]:
    """Returns totals as JSON-compatible data."""
    return {
        "series": [[*pair, _packed(series)] for pair, series in totals.series.items()],
        "endpoints": [[*key, up, streams] for key, (up, streams) in totals.endpoints.items()],
        "reloads": dict(totals.reloads),
        "genai": [[*labels, _packed_genai(genai)] for labels, genai in totals.genai.items()],
        "counts": [[*labelled, count] for labelled, count in totals.counts.items()],
        "levels": [[*labelled, level] for labelled, level in totals.levels.items()],
        **{name: [[*key, count] for key, count in getattr(totals, name).items()] for name in _COUNTERS},
    }


def unpack(data: dict[str, Any]) -> Totals:
    """Returns the packed totals. Raises ValueError, KeyError or TypeError for anything else."""
    totals = Totals()
    for route, upstream, packed in data.get("series", ()):
        totals.series[str(route), str(upstream)] = _unpacked(packed)
    for upstream, endpoint, up, streams in data.get("endpoints", ()):
        totals.endpoints[str(upstream), str(endpoint)] = bool(up), int(streams)
    totals.reloads.update({str(result): int(count) for result, count in data.get("reloads", {}).items()})
    for operation, provider, model, packed in data.get("genai", ()):
        totals.genai[str(operation), str(provider), str(model)] = _unpacked_genai(packed)
    for *labelled, count in data.get("counts", ()):
        totals.count(tuple(map(str, labelled)), int(count))
    for *labelled, level in data.get("levels", ()):
        totals.level(tuple(map(str, labelled)), float(level))
    for name in _COUNTERS:
        counter: Counter[tuple[Any, ...]] = getattr(totals, name)
        counter.update({tuple(key): int(count) for *key, count in data.get(name, ())})
    return totals


def pack_exchange(exchange: Exchange) -> dict[str, Any]:
    """Returns the facts of a live exchange as JSON-compatible data. Its times are those of this machine."""
    facts: dict[str, Any] = {name: getattr(exchange, name) for name in _FACTS}
    facts["query"] = exchange.query.decode("latin-1")
    facts["usage"] = None if exchange.usage is None else exchange.usage._asdict()
    facts["failed"] = exchange.failure is not None
    return facts


def unpack_exchange(data: dict[str, Any], into: Exchange) -> None:
    """Copies the packed facts into an exchange, except for its ``id``.

    Raises ValueError or TypeError for anything else; some facts may have been copied then.
    """
    for name in _FACTS:
        if name in data and name != "id":
            fact, kind = data[name], type(getattr(into, name))
            if not isinstance(fact, (int, float) if kind is float else kind):
                raise TypeError(f"{name} is of another type")
            setattr(into, name, kind(fact))
    into.query = str(data.get("query", "")).encode("latin-1")
    usage = data.get("usage")
    into.usage = None if usage is None else Usage(**{name: usage[name] for name in Usage._fields if name in usage})
    into.failure = UpstreamReportedError() if data.get("failed") else None


def _packed(series: Series) -> dict[str, Any]:
    values = ((name, getattr(series, name)) for name in _SERIES)
    return {name: _histogram(value) if isinstance(value, Histogram) else value for name, value in values}


def _packed_genai(genai: GenAi) -> dict[str, Any]:
    packed: dict[str, Any] = {name: _histogram(getattr(genai, name)) for name in _GENAI}
    return packed | {"tokens": {kind: _histogram(histogram) for kind, histogram in genai.tokens.items()}}


def _unpacked(packed: dict[str, Any]) -> Series:
    series = Series()
    for name, value in packed.items():
        mine = getattr(series, name, None) if name in _SERIES else None
        if isinstance(mine, Histogram):
            _add(mine, value)
        elif mine is not None:
            setattr(series, name, type(mine)(value))
    return series


def _unpacked_genai(packed: dict[str, Any]) -> GenAi:
    genai = GenAi()
    for name, value in packed.items():
        if name in _GENAI:
            _add(getattr(genai, name), value)
    for kind, value in packed.get("tokens", {}).items():
        genai.tokens[str(kind)] = histogram = Histogram(TOKENS)
        _add(histogram, value)
    return genai


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """Returns the upper bounds of the non-empty buckets, their counts, and the count above all bounds."""
    bounds, numbers = histogram.scale.bounds, sorted(histogram.counts)
    within = [number for number in numbers if number < len(bounds)]
    above = histogram.counts.get(len(bounds), 0)
    counts = [histogram.counts[number] for number in within]
    return {"bounds": [bounds[number] for number in within], "counts": [*counts, above], "sum": histogram.sum}


def _add(histogram: Histogram, packed: dict[str, Any]) -> None:
    bounds = histogram.scale.bounds
    uppers = [float(bound) for bound in packed["bounds"]]
    if not set(uppers) <= set(bounds):
        return
    numbers = [bisect_left(bounds, upper) for upper in uppers]
    counts = [int(count) for count in packed["counts"]]
    found = dict(zip([*numbers, len(bounds)], counts, strict=True))
    histogram.add({number: count for number, count in found.items() if count}, float(packed["sum"]))
