"""The numbers behind the metrics, in plain slots, integers and dictionaries.

An exchange counts its own numbers while it runs and is added to the totals once, at its end (`Totals.finish`). To read
the totals, copy them and add the live exchanges to the copy (`Totals.progress`). The originals are unchanged, so no
exchange counts twice. There are two kinds of numbers:

- *progress* (bytes, events, seconds of waits, the time to the first byte once it was sent) only grows in a live
  exchange, so that counters and sums never decrease;
- *ends* (status, duration, size, disconnects, errors) are known only at the end.

The gaps between reads are counted for all streams together in the ledger (`GapHistograms`); only their seconds are
here. Totals are plain data that can be pickled, and merged across processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from streamproxy.errors import ConnectionTerminated, ResponseIncomplete, UpstreamError
from streamproxy.exchange.exchange import CLIENT_LEFT, Exchange, Phase
from streamproxy.exchange.histogram import BYTES, MOST_NOTED, SECONDS, TOKENS, GapHistograms, Histogram
from streamproxy.exchange.tally import Labelled

PHASES: Final[tuple[Phase, ...]] = ("queue", "connect", "request", "head", "body")
SIDES: Final = ("client", "upstream")
NO_ROUTE: Final = "-"
OTHER_METHOD: Final = "OTHER"

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_UPSTREAM_ERRORS: Final = tuple(sorted({kind.error for kind in UpstreamError.__subclasses__()}))
# Gauges that all processes read from the same source: merging does not add them up.
_SAME_EVERYWHERE: Final = frozenset({"endpoint_load"})

Pair = tuple[str, str]  # the names of a route and its upstream


class Series:
    """The numbers of one route and upstream."""

    __slots__ = (
        "active",
        "backpressure",
        "chunk_gap",
        "events",
        "held",
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
        # Gauges; set only on snapshots.
        self.active = 0  # streams
        self.waiting = 0  # exchanges in the queue
        self.held = 0  # bytes of request bodies
        self.request_bytes = 0
        self.response_bytes = 0
        self.events = 0
        self.keepalives = 0
        self.retries = 0
        self.backpressure = 0.0
        self.queue = Histogram(SECONDS)
        self.ttfb = Histogram(SECONDS)
        self.upstream_ttfb = Histogram(SECONDS)
        self.chunk_gap = Histogram(SECONDS)
        self.stream_duration = Histogram(SECONDS)
        self.stream_bytes = Histogram(BYTES)

    def progress(self, exchange: Exchange, now: float) -> None:
        """Adds a live exchange with its progress so far, including waits that continue at ``now``."""
        self._add(exchange)
        self.active += exchange.phase == "body"
        self.held += exchange.held
        self.backpressure += exchange.backpressure_until(now) - exchange.backpressure
        if exchange.queued_at:
            self.waiting += 1
            self.queue.sum += exchange.queued_until(now)
        self.ttfb.sum += exchange.ttfb_until(now)
        self.upstream_ttfb.sum += exchange.upstream_ttfb_until(now)
        if exchange.phase == "body" and not exchange.ended_at:
            self.chunk_gap.sum += exchange.gap_until(now)
            self.stream_duration.sum += exchange.duration_until(now)
            self.stream_bytes.sum += exchange.response_bytes

    def finish(self, exchange: Exchange) -> None:
        """Adds an exchange that has ended and was settled."""
        self._add(exchange)
        if exchange.phase == "body":
            duration = exchange.ended_at - (exchange.head_at or exchange.started_at)
            self.stream_duration.noted.append(duration if duration > 0.0 else 0.0)
            self.stream_bytes.noted.append(exchange.response_bytes)
        if len(self.ttfb.noted) >= MOST_NOTED or len(self.upstream_ttfb.noted) >= MOST_NOTED:
            # One that reached its body has noted its TTFB, so the others have no more.
            for histogram in (self.ttfb, self.upstream_ttfb, self.stream_duration, self.stream_bytes):
                histogram.settle()

    def _add(self, exchange: Exchange) -> None:
        """Adds the numbers of an exchange that are the same whether or not it has ended."""
        self.response_bytes += exchange.response_bytes
        self.events += exchange.events
        self.backpressure += exchange.backpressure
        if exchange.request_bytes:
            self.request_bytes += exchange.request_bytes
        if exchange.keepalives:
            self.keepalives += exchange.keepalives
        if exchange.retries:
            self.retries += exchange.retries
        if exchange.queued and not exchange.queued_at:
            self.queue.observe(exchange.queued)
        if (seconds := exchange.upstream_ttfb()) is not None:
            self.upstream_ttfb.noted.append(seconds)
        if (seconds := exchange.ttfb()) is not None:
            self.ttfb.noted.append(seconds)
        if exchange.gap_sum:  # to read a sum costs more than to see that nothing is added
            self.chunk_gap.sum += exchange.gap_sum

    def merge(self, other: Series) -> None:
        """Adds another object's numbers."""
        self.active += other.active
        self.waiting += other.waiting
        self.held += other.held
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


class GenAi:
    """The numbers of recognised model streams, by operation, provider and model."""

    __slots__ = ("duration", "first_chunk", "output_chunk", "tokens")

    def __init__(self) -> None:
        self.first_chunk = Histogram(SECONDS)
        self.output_chunk = Histogram(SECONDS)
        self.duration = Histogram(SECONDS)
        self.tokens: dict[str, Histogram] = {}  # by gen_ai.token.type

    def progress(self, exchange: Exchange, now: float) -> None:
        """Adds a live exchange."""
        self._add(exchange)
        if not exchange.ended_at:
            self.output_chunk.sum += exchange.gap_until(now)
            self.duration.sum += max(0.0, now - exchange.started_at)
            self.first_chunk.sum += exchange.first_event_until(now)

    def finish(self, exchange: Exchange) -> None:
        """Adds an exchange that has ended and was settled."""
        self._add(exchange)
        self.duration.observe(max(0.0, exchange.ended_at - exchange.started_at))
        usage = exchange.usage
        if usage is not None:
            self._count("input", usage.input)
            self._count("output", usage.output)
            self._count("cache_read", usage.cache_read)
            self._count("cache_write", usage.cache_write)
            self._count("reasoning", usage.reasoning)

    def _add(self, exchange: Exchange) -> None:
        if (seconds := exchange.first_event()) is not None:
            self.first_chunk.observe(seconds)
        self.output_chunk.sum += exchange.gap_sum - exchange.gap_sum_before

    def _count(self, kind: str, tokens: int | None) -> None:
        if tokens is None:
            return
        histogram = self.tokens.get(kind)
        if histogram is None:
            histogram = self.tokens[kind] = Histogram(TOKENS)
        histogram.observe(tokens)

    def merge(self, other: GenAi) -> None:
        """Adds another object's numbers."""
        self.first_chunk.add(other.first_chunk.counts, other.first_chunk.sum)
        self.output_chunk.add(other.output_chunk.counts, other.output_chunk.sum)
        self.duration.add(other.duration.counts, other.duration.sum)
        for kind, theirs in other.tokens.items():
            self.tokens.setdefault(kind, Histogram(TOKENS)).add(theirs.counts, theirs.sum)


class Totals:
    """All numbers, by their labels."""

    __slots__ = (
        "connections",
        "counts",
        "disconnects",
        "endpoints",
        "genai",
        "levels",
        "reloads",
        "requests",
        "series",
        "upstream_errors",
    )

    def __init__(self) -> None:
        self.series: dict[Pair, Series] = {}
        # Route, method, code. Not a Counter: adding to one is slow, and this runs for every request.
        self.requests: dict[tuple[str, str, int], int] = {}
        self.disconnects: Counter[tuple[str, str, str]] = Counter()  # route, side, phase
        self.upstream_errors: Counter[tuple[str, str, str]] = Counter()  # route, upstream, error
        self.reloads: Counter[str] = Counter({"ok": 0, "error": 0})  # result
        self.genai: dict[tuple[str, str, str], GenAi] = {}  # operation, provider, model
        self.counts: dict[Labelled, int] = {}  # all other counters
        # Gauges; set only on snapshots.
        self.levels: dict[Labelled, float] = {}  # all other gauges
        self.endpoints: dict[tuple[str, str], tuple[bool, int]] = {}  # upstream, endpoint: up, streams
        self.connections: Counter[tuple[str, str]] = Counter()  # upstream, state

    def declare(self, pairs: Iterable[Pair]) -> None:
        """Creates the series of these pairs with value 0, so that a rate sees their first increase."""
        for route, upstream in pairs:
            self.series.setdefault((route, upstream), Series())
            for side in SIDES:
                for phase in PHASES:
                    self.disconnects.setdefault((route, side, phase), 0)
            for error in _UPSTREAM_ERRORS:
                self.upstream_errors.setdefault((route, upstream, error), 0)
            self.counts.setdefault(("error_events", route, upstream), 0)

    def progress(self, exchange: Exchange, now: float) -> None:
        """Adds a live exchange as of ``now``, in seconds of the monotonic clock. Only for copies."""
        if exchange.upstream:
            self._series_of(exchange.route, exchange.upstream).progress(exchange, now)
            if exchange.operation:
                self._genai_of(exchange).progress(exchange, now)
            if exchange.abandoned is not None:
                self._abandoned(exchange)

    def finish(self, exchange: Exchange) -> None:
        """Adds an exchange that has ended and was settled."""
        route, upstream, error = exchange.route or NO_ROUTE, exchange.upstream, exchange.error
        if upstream:
            series = self.series.get((exchange.route, upstream)) or self._series_of(exchange.route, upstream)
            series.finish(exchange)
            if exchange.operation:
                self._genai_of(exchange).finish(exchange)
            if exchange.abandoned is not None:
                self._abandoned(exchange)
        method = exchange.method if exchange.method in METHODS else OTHER_METHOD
        labels = (route, method, exchange.status or CLIENT_LEFT)
        self.requests[labels] = self.requests.get(labels, 0) + 1
        if error is None:
            return
        if error.end == "client_disconnect":
            self.disconnects[route, "client", exchange.phase] += 1
        elif isinstance(error, UpstreamError):
            self.upstream_errors[route, upstream or NO_ROUTE, error.error] += 1
            if error.end == "upstream_error":
                self.count(("error_events", route, upstream or NO_ROUTE))
            elif isinstance(error, ConnectionTerminated | ResponseIncomplete):
                self.disconnects[route, "upstream", exchange.phase] += 1

    def _abandoned(self, exchange: Exchange) -> None:
        """Adds the waits of attempts that were retried."""
        assert exchange.abandoned is not None
        for upstream, head, first_byte in exchange.abandoned:
            series = self._series_of(exchange.route, upstream)
            if head >= 0.0:
                series.upstream_ttfb.observe(head)
            if first_byte >= 0.0:
                series.ttfb.observe(first_byte)

    def count(self, labelled: Labelled, number: int = 1) -> None:
        """Adds to a counter of `counts`."""
        self.counts[labelled] = self.counts.get(labelled, 0) + number

    def add_gaps(self, gaps: GapHistograms) -> None:
        """Adds a ledger's counts of gaps; their seconds are added with the exchanges."""
        for key, histogram in gaps.histograms.items():
            self._series_of(key.route, key.upstream).chunk_gap.add(histogram.counts, 0.0)
            if key.operation:
                labels = key.operation, key.provider, key.request_model
                self.genai.setdefault(labels, GenAi()).output_chunk.add(histogram.counts, 0.0)

    def reject(self, status: int) -> None:
        """Counts a request that was refused before it became an exchange."""
        self._count((NO_ROUTE, OTHER_METHOD, status))

    def _count(self, labels: tuple[str, str, int], count: int = 1) -> None:
        self.requests[labels] = self.requests.get(labels, 0) + count

    def copy(self) -> Totals:
        """Returns an independent copy."""
        out = Totals()
        out.merge(self)
        return out

    def merge(self, other: Totals) -> None:
        """Adds the numbers of another process, for example. An endpoint is up if it is up in all of them."""
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
        for model, genai in other.genai.items():
            self.genai.setdefault(model, GenAi()).merge(genai)
        for labelled, number in other.counts.items():
            self.count(labelled, number)
        for labelled, level in other.levels.items():
            self.level(labelled, level)

    def level(self, labelled: Labelled, level: float) -> None:
        """Sets a gauge of `levels`. Values of the same name and labels add up, except those shared by all processes."""
        had = self.levels.get(labelled)
        if had is None:
            self.levels[labelled] = level
        elif labelled[0] in _SAME_EVERYWHERE:
            self.levels[labelled] = max(had, level)
        else:
            self.levels[labelled] = had + level

    def settle(self) -> None:
        """Drops the gauges, whose source no longer exists."""
        for series in self.series.values():
            series.active = series.waiting = series.held = 0
        self.endpoints.clear()
        self.connections.clear()
        self.levels.clear()

    def endpoint(self, key: tuple[str, str], up: bool, streams: int) -> None:
        """Adds an endpoint by upstream and URL; endpoints with the same URL are shown as one."""
        was_up, had = self.endpoints.get(key, (True, 0))
        self.endpoints[key] = (was_up and up, had + streams)

    def _series_of(self, route: str, upstream: str) -> Series:
        series = self.series.get((route, upstream))
        if series is None:
            self.declare([(route, upstream)])
            series = self.series[route, upstream]
        return series

    def _genai_of(self, exchange: Exchange) -> GenAi:
        labels = (exchange.operation, exchange.provider, exchange.request_model)
        genai = self.genai.get(labels)
        if genai is None:
            genai = self.genai[labels] = GenAi()
        return genai
