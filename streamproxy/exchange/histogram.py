"""Histograms with buckets fine enough to derive percentiles.

Theory of operation. A `Scale` has two sets of upper bounds. The *shown* bounds are those of ``/metrics``: few and
round. The *fine* bounds divide the space between shown bounds into buckets whose upper bound is at most `GROWTH` times
the lower one, so that the error of a percentile is a few per cent at most. Every shown bound is also a fine bound, so
the counts of shown buckets are exact sums. A `Histogram` stores only non-empty fine buckets.

An observation is only noted. Every `MOST_NOTED` observations, and whenever the counts are read, those that were noted
are sorted and counted bucket by bucket: a bucket is looked up once for all of its values, and not once for each value.

`GapHistograms` counts the waits between reads of all streams of a ledger. It is shared, since a set of fine buckets for
each stream would be most of the stream's memory.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

GROWTH: Final = 1.04  # the maximum ratio of two adjacent fine bounds
_SHORTEST: Final = 0.0001  # seconds: the resolution for small values
OTHER_MODEL: Final = "other"
MOST_NOTED: Final = 256  # observations that were not counted yet


class Scale:
    """The buckets of one kind of measure. ``ends`` are the indexes of the shown bounds among the fine ones."""

    __slots__ = ("bounds", "ends", "name", "shown")

    def __init__(self, name: str, shown: tuple[float, ...], bounds: tuple[float, ...]) -> None:
        self.name = name
        self.shown = shown
        self.bounds = bounds
        self.ends = [bounds.index(bound) for bound in shown]


def _refined(shown: Sequence[float], lowest: float) -> tuple[float, ...]:
    bounds = [lowest]
    for bound in shown:
        below = bounds[-1]
        parts = math.ceil(math.log(bound / below) / math.log(GROWTH))
        bounds += [below * (bound / below) ** (part / parts) for part in range(1, parts)]
        bounds.append(bound)
    return tuple(bounds)


# Models may think for long, and an added millisecond matters.
TIME_BUCKETS: Final = tuple(
    float(bound)  # comparing two floats is faster than a float and an integer
    for bound in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
)
SIZE_BUCKETS: Final = tuple(float(1024 * 4**n) for n in range(11))  # 1 KiB to 1 GiB
TOKEN_BUCKETS: Final = tuple(float(4**n) for n in range(14))  # OpenTelemetry's buckets of gen_ai.client.token.usage

SECONDS: Final = Scale("seconds", TIME_BUCKETS, _refined(TIME_BUCKETS, _SHORTEST))
BYTES: Final = Scale("bytes", SIZE_BUCKETS, SIZE_BUCKETS)
TOKENS: Final = Scale("tokens", TOKEN_BUCKETS, TOKEN_BUCKETS)
_SCALES: Final = {scale.name: scale for scale in (SECONDS, BYTES, TOKENS)}


class Histogram:
    """Counts of observations by fine bucket, and the sum of the observations.

    Bucket ``n`` counts values over ``bounds[n - 1]`` up to ``bounds[n]``; the last bucket has no upper bound. Code
    that appends to ``noted`` directly, to save the call of `observe`, must call `settle` at `MOST_NOTED` values.
    """

    __slots__ = ("_counts", "_sum", "noted", "scale")

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._counts: dict[int, int] = {}
        self.noted: list[float] = []  # observations that are not in the counts and the sum yet
        self._sum = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        # mypyc's own way to pickle a compiled object calls `__init__` without arguments.
        return _histogram, (self.scale.name, self.counts, self.sum)

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[int, int]:
        """The number of observations by bucket, without empty ones."""
        if self.noted:
            self.settle()
        return self._counts

    @property
    def sum(self) -> float:
        """The sum of the observations. It may be set, for waits that still continue."""
        if self.noted:
            self.settle()
        return self._sum

    @sum.setter
    def sum(self, value: float) -> None:
        if self.noted:
            self.settle()
        self._sum = value

    def observe(self, value: float) -> None:
        """Adds an observation."""
        noted = self.noted
        noted.append(value)
        if len(noted) >= MOST_NOTED:
            self.settle()

    def settle(self) -> None:
        """Counts the observations that were only noted."""
        values, self.noted = self.noted, []
        self._sum += sum(values)
        values.sort()
        bounds, counts = self.scale.bounds, self._counts
        most, count = len(bounds), 0
        number = bisect_left(bounds, values[0]) if values else 0
        for value in values:
            if number < most and bounds[number] < value:
                counts[number] = counts.get(number, 0) + count
                count = 0
                number += 1
                while number < most and bounds[number] < value:  # a few steps, which cost less than a search
                    number += 1
            count += 1
        if count:
            counts[number] = counts.get(number, 0) + count

    def add(self, counts: Mapping[int, int], total: float) -> None:
        """Adds observations counted elsewhere on the same scale."""
        mine = self.counts
        if mine:
            for number, count in counts.items():
                mine[number] = mine.get(number, 0) + count
        else:
            self._counts = dict(counts)
        self._sum += total

    def shown(self) -> list[int]:
        """Returns the counts of the shown buckets, not cumulative; the last one is that above the highest bound."""
        ends = self.scale.ends
        counts = [0] * (len(ends) + 1)
        for number, count in self.counts.items():
            counts[bisect_left(ends, number)] += count
        return counts


def _histogram(scale: str, counts: dict[int, int], total: float) -> Histogram:
    histogram = Histogram(_SCALES[scale])
    histogram.add(counts, total)
    return histogram


class GapKey(NamedTuple):
    """The key by which reads are counted; the last three fields are empty unless it is a recognised model stream."""

    route: str
    upstream: str
    operation: str
    provider: str
    request_model: str


class GapHistograms:
    """Counts the waits between reads of the streams of one ledger.

    Only the counts are here; the seconds are in the exchanges, which are added to the sums. ``models`` are the
    configured model names, the only ones that may become label values.
    """

    __slots__ = ("histograms", "models")

    def __init__(self) -> None:
        self.histograms: dict[GapKey, Histogram] = {}
        self.models: set[str] = set()

    def of(self, key: GapKey) -> Histogram:
        """Returns the histogram of a key."""
        histogram = self.histograms.get(key)
        if histogram is None:
            histogram = self.histograms[key] = Histogram(SECONDS)
        return histogram
