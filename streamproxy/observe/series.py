"""The numbers behind the metrics, in plain slots, ints and lists.

An exchange adds up its own numbers while it runs and is added to the totals once, at its end (`Totals.finish`).
Whoever wants to see the totals takes a copy and adds the live exchanges to it (`Totals.progress`); the originals are
not touched, so an exchange can't count twice, and the moment of a look changes nothing. The two kinds of numbers:

- *progress* (bytes, events, gaps, the time to a first byte that has come) only grows in a live exchange, so that
  what a look shows never goes back at the next;
- *ends* (status, duration, size, disconnects, errors) are known at the end only.

Totals are plain data that can be pickled and merged: those of several processes add up to those of one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from streamproxy.errors import ConnectionTerminated, ResponseIncomplete, UpstreamError
from streamproxy.exchange.exchange import TIME_BUCKETS, Exchange, Phase

SIZE_BUCKETS: Final = tuple(float(1024 * 4**n) for n in range(11))  # 1 KiB to 1 GiB
PHASES: Final[tuple[Phase, ...]] = ("queue", "connect", "request", "head", "body")
SIDES: Final = ("client", "upstream")
CLIENT_LEFT: Final = 499  # the status of an exchange that had sent none: nginx's "client closed request"
NO_ROUTE: Final = "-"
OTHER_METHOD: Final = "OTHER"

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
_UPSTREAM_ERRORS: Final = tuple(sorted({kind.error for kind in UpstreamError.__subclasses__()}))

Pair = tuple[str, str]  # the names of a route and of its upstream


def ttfb(exchange: Exchange) -> float | None:
    """Seconds from the whole request being read to the first byte of the response body; None before that.

    0.0 for an upstream that answered before the request was complete.
    """
    came, read = exchange.first_byte_at, exchange.request_read_at
    if not came:
        return None
    return came - read if 0.0 < read < came else 0.0


def upstream_ttfb(exchange: Exchange) -> float | None:
    """Seconds from the whole request being sent upstream to the response head; None before that, 0.0 as in `ttfb`."""
    came, sent = exchange.head_at, exchange.sent_at
    if not came:
        return None
    return came - sent if 0.0 < sent < came else 0.0


def final_status(exchange: Exchange) -> int:
    """The status that the client was sent, or 499 when nothing was."""
    return exchange.status or CLIENT_LEFT


class Histogram:
    """Counts of observations by upper bound, the last one unbounded, and their sum. Counts are not cumulative."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        # mypyc's own way to pickle a compiled object calls `__init__` without arguments.
        return _histogram, (self.bounds, self.counts, self.sum)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, counts: Iterable[int], total: float) -> None:
        """Add observations that were counted elsewhere, by the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.sum += total


def _histogram(bounds: tuple[float, ...], counts: list[int], total: float) -> Histogram:
    histogram = Histogram(bounds)
    histogram.add(counts, total)
    return histogram


class Series:
    """Everything that is counted by route and upstream."""

    __slots__ = (
        "active",
        "backpressure",
        "chunk_gap",
        "events",
        "keepalives",
        "queue",
        "request_bytes",
        "response_bytes",
        "retries",
        "stream_bytes",
        "stream_duration",
        "ttfb",
        "upstream_ttfb",
        "waiting",
    )

    def __init__(self) -> None:
        # Those of now; only in a copy that the live exchanges were added to.
        self.active = 0  # streams
        self.waiting = 0  # exchanges in the queue
        self.request_bytes = 0
        self.response_bytes = 0
        self.events = 0
        self.keepalives = 0
        self.retries = 0
        self.backpressure = 0.0
        self.queue = Histogram(TIME_BUCKETS)
        self.ttfb = Histogram(TIME_BUCKETS)
        self.upstream_ttfb = Histogram(TIME_BUCKETS)
        self.chunk_gap = Histogram(TIME_BUCKETS)
        self.stream_duration = Histogram(TIME_BUCKETS)
        self.stream_bytes = Histogram(SIZE_BUCKETS)

    def progress(self, exchange: Exchange) -> None:
        """Add what is known of an exchange whether or not it has ended."""
        self.response_bytes += exchange.response_bytes
        self.events += exchange.events
        self.backpressure += exchange.backpressure
        if exchange.request_bytes:
            self.request_bytes += exchange.request_bytes
        if exchange.keepalives:
            self.keepalives += exchange.keepalives
        if exchange.retries:
            self.retries += exchange.retries
        if exchange.queued:
            self.queue.observe(exchange.queued)
        if exchange.phase != "body":
            return  # a head that came may still be dropped for another attempt
        if (seconds := upstream_ttfb(exchange)) is not None:
            self.upstream_ttfb.observe(seconds)
        if (seconds := ttfb(exchange)) is not None:
            self.ttfb.observe(seconds)
        if exchange.gap_counts is not None:
            self.chunk_gap.add(exchange.gap_counts, exchange.gap_sum)

    def finish(self, exchange: Exchange, now: float) -> None:
        """Add an exchange that has ended."""
        self.progress(exchange)
        if exchange.phase == "body":
            self.stream_duration.observe(now - (exchange.head_at or exchange.started_at))
            self.stream_bytes.observe(exchange.response_bytes)

    def merge(self, other: Series) -> None:
        """Add another's numbers."""
        self.active += other.active
        self.waiting += other.waiting
        self.request_bytes += other.request_bytes
        self.response_bytes += other.response_bytes
        self.events += other.events
        self.keepalives += other.keepalives
        self.retries += other.retries
        self.backpressure += other.backpressure
        for mine, theirs in (
            (self.queue, other.queue),
            (self.ttfb, other.ttfb),
            (self.upstream_ttfb, other.upstream_ttfb),
            (self.chunk_gap, other.chunk_gap),
            (self.stream_duration, other.stream_duration),
            (self.stream_bytes, other.stream_bytes),
        ):
            mine.add(theirs.counts, theirs.sum)


class Totals:
    """Every number there is, by its labels."""

    __slots__ = ("connections", "disconnects", "endpoints", "reloads", "requests", "series", "upstream_errors")

    def __init__(self) -> None:
        self.series: dict[Pair, Series] = {}
        # Route, method, code. No Counter: adding to one costs 2,500 instructions, and this is done for every request.
        self.requests: dict[tuple[str, str, int], int] = {}
        self.disconnects: Counter[tuple[str, str, str]] = Counter()  # route, side, phase
        self.upstream_errors: Counter[tuple[str, str, str]] = Counter()  # route, upstream, error
        self.reloads: Counter[str] = Counter({"ok": 0, "error": 0})  # result
        # Gauges of now, filled in by who takes a copy.
        self.endpoints: dict[tuple[str, str], tuple[bool, int]] = {}  # upstream, endpoint: up, streams
        self.connections: Counter[tuple[str, str]] = Counter()  # upstream, state

    def declare(self, pairs: Iterable[Pair]) -> None:
        """Make the series of these pairs appear with 0, so that a rate sees their first increase."""
        for route, upstream in pairs:
            self.series.setdefault((route, upstream), Series())
            for side in SIDES:
                for phase in PHASES:
                    self.disconnects.setdefault((route, side, phase), 0)
            for error in _UPSTREAM_ERRORS:
                self.upstream_errors.setdefault((route, upstream, error), 0)

    def progress(self, exchange: Exchange) -> None:
        """Add a live exchange; for copies that are looked at and thrown away."""
        series = self._series_of(exchange)
        if series is not None:
            series.progress(exchange)
            series.active += exchange.phase == "body"
            series.waiting += exchange.queued_at != 0.0 and not exchange.queued

    def finish(self, exchange: Exchange, now: float) -> None:
        """Add an exchange that has ended at ``now``, in seconds of the monotonic clock."""
        series = self._series_of(exchange)
        if series is not None:
            series.finish(exchange, now)
        route, error = exchange.route or NO_ROUTE, exchange.error
        method = exchange.method if exchange.method in METHODS else OTHER_METHOD
        self._count((route, method, exchange.status or CLIENT_LEFT))
        if error is None:
            return
        if error.end == "client_disconnect":
            self.disconnects[route, "client", exchange.phase] += 1
        elif isinstance(error, UpstreamError):
            self.upstream_errors[route, exchange.upstream or NO_ROUTE, error.error] += 1
            if isinstance(error, ConnectionTerminated | ResponseIncomplete):
                self.disconnects[route, "upstream", exchange.phase] += 1

    def reject(self, status: int) -> None:
        """Count a request that was refused before it became an exchange."""
        self._count((NO_ROUTE, OTHER_METHOD, status))

    def _count(self, labels: tuple[str, str, int], count: int = 1) -> None:
        self.requests[labels] = self.requests.get(labels, 0) + count

    def copy(self) -> Totals:
        """The same numbers, apart from these."""
        out = Totals()
        out.merge(self)
        return out

    def merge(self, other: Totals) -> None:
        """Add another's numbers, for instance another process's. An endpoint is up when it is up for all."""
        for pair, series in other.series.items():
            self.series.setdefault(pair, Series()).merge(series)
        for labels, count in other.requests.items():
            self._count(labels, count)
        self.disconnects.update(other.disconnects)
        self.upstream_errors.update(other.upstream_errors)
        self.reloads.update(other.reloads)
        self.connections.update(other.connections)
        for key, (up, streams) in other.endpoints.items():
            self.endpoint(key, up, streams)

    def settle(self) -> None:
        """Leave only what counts for ever: of what is now, nothing is any more."""
        for series in self.series.values():
            series.active = series.waiting = 0
        self.endpoints.clear()
        self.connections.clear()

    def endpoint(self, key: tuple[str, str], up: bool, streams: int) -> None:
        """Enter one endpoint, by the names of its upstream and its URL; those of one URL are shown as one."""
        was_up, had = self.endpoints.get(key, (True, 0))
        self.endpoints[key] = (was_up and up, had + streams)

    def _series_of(self, exchange: Exchange) -> Series | None:
        if not exchange.upstream:
            return None
        pair = (exchange.route, exchange.upstream)
        series = self.series.get(pair)
        if series is None:
            self.declare([pair])
            series = self.series[pair]
        return series
