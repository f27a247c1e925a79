"""Every metric series, declared once, and their exposition.

`Metrics` observes the ledger: each exchange that ends is added to the totals. A scrape copies the totals, adds the
live exchanges and the state of the upstreams, and renders the copy through prometheus_client; the table `FAMILIES`
says what each series is called and where its numbers are. No prometheus_client object is touched while a request is
served: adding to a slot costs 0.03 µs, ``labels().inc()`` 1 µs.

A snapshot is taken on the event loop without an await, so that no exchange ends between copying and adding.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.metrics_core import InfoMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.observe.series import Histogram, Pair, Totals
from streamproxy.version import BUILD, __version__

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EOF = b"# EOF\n"


class EndpointView(Protocol):
    """What the metrics show of one endpoint."""

    @property
    def url(self) -> str: ...
    @property
    def up(self) -> bool: ...
    @property
    def streams(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def active(self) -> int: ...


class UpstreamView(Protocol):
    """What the metrics show of one upstream."""

    @property
    def name(self) -> str: ...
    @property
    def endpoints(self) -> Iterable[EndpointView]: ...


Labels = tuple[str, ...]
Numbers = Iterable[tuple[Labels, float]]
Histograms = Iterable[tuple[Labels, Histogram]]


class Counts(NamedTuple):
    """A counter: its name without ``_total``, its labels, and how its samples are read from the totals."""

    name: str
    labels: Labels
    help: str
    read: Callable[[Totals], Numbers]


class Gauges(NamedTuple):
    """A gauge."""

    name: str
    labels: Labels
    help: str
    read: Callable[[Totals], Numbers]


class Distributions(NamedTuple):
    """A histogram; its bounds are those of the `Histogram` that is read."""

    name: str
    labels: Labels
    help: str
    read: Callable[[Totals], Histograms]


def _by_pair(slot: str) -> Callable[[Totals], Iterable[tuple[Labels, Any]]]:
    def read(totals: Totals) -> Iterable[tuple[Labels, Any]]:
        return ((pair, getattr(series, slot)) for pair, series in totals.series.items())

    return read


def _by_route(slot: str) -> Callable[[Totals], Numbers]:
    def read(totals: Totals) -> Numbers:
        sums: Counter[str] = Counter()
        for (route, _), series in totals.series.items():
            sums[route] += getattr(series, slot)
        return (((route,), value) for route, value in sums.items())

    return read


def _queue_seconds(totals: Totals) -> Histograms:
    merged: dict[str, Histogram] = {}
    for (route, _), series in totals.series.items():
        merged.setdefault(route, Histogram(series.queue.bounds)).add(series.queue.counts, series.queue.sum)
    return (((route,), histogram) for route, histogram in merged.items())


def _requests(totals: Totals) -> Numbers:
    return (((route, method, str(code)), count) for (route, method, code), count in totals.requests.items())


_PAIR = ("route", "upstream")

FAMILIES: tuple[Counts | Gauges | Distributions, ...] = (
    Counts("requests", ("route", "method", "code"), "Finished exchanges.", _requests),
    Gauges("streams_active", _PAIR, "Exchanges whose response body is under way.", _by_pair("active")),
    Distributions(
        "ttfb_seconds",
        _PAIR,
        "From the request being read until the first byte of the response body was sent.",
        _by_pair("ttfb"),
    ),
    Distributions(
        "upstream_ttfb_seconds",
        _PAIR,
        "From the request being sent to the upstream until its response head.",
        _by_pair("upstream_ttfb"),
    ),
    Distributions(
        "stream_duration_seconds",
        _PAIR,
        "From the response head to the end of a stream, however it ended.",
        _by_pair("stream_duration"),
    ),
    Distributions(
        "chunk_gap_seconds",
        _PAIR,
        "Between two reads of a streaming response.",
        _by_pair("chunk_gap"),
    ),
    Counts("response_bytes", _PAIR, "Bytes of response bodies, live ones too.", _by_pair("response_bytes")),
    Counts("request_bytes", _PAIR, "Bytes of request bodies, live ones too.", _by_pair("request_bytes")),
    Distributions("stream_bytes", _PAIR, "Body bytes of a stream, however it ended.", _by_pair("stream_bytes")),
    Counts("events", _PAIR, "Server-sent events and NDJSON lines.", _by_pair("events")),
    Counts("keepalives", ("route",), "Keepalives sent to clients.", _by_route("keepalives")),
    Counts("retries", _PAIR, "Further attempts at requests whose earlier ones failed.", _by_pair("retries")),
    Counts(
        "disconnects",
        ("route", "side", "phase"),
        "Exchanges that the client or the upstream broke off, by the phase they were in.",
        lambda totals: totals.disconnects.items(),
    ),
    Counts(
        "upstream_errors",
        ("route", "upstream", "error"),
        "Errors of upstreams, by their RFC 9209 name.",
        lambda totals: totals.upstream_errors.items(),
    ),
    Counts(
        "config_reloads",
        ("result",),
        "Configurations that were read while the proxy ran, and whether they came into force.",
        lambda totals: (((result,), count) for result, count in totals.reloads.items()),
    ),
    Counts(
        "backpressure_seconds",
        ("route",),
        "Time spent waiting for clients to take what was sent.",
        _by_route("backpressure"),
    ),
    Gauges("queue_depth", ("route",), "Exchanges that wait for a place in their route's limits.", _by_route("waiting")),
    Distributions(
        "queue_seconds",
        ("route",),
        "Time in the queue of the exchanges that had to wait, whether or not they got a place.",
        _queue_seconds,
    ),
    Gauges(
        "endpoint_up",
        ("upstream", "endpoint"),
        "Whether an endpoint is given requests.",
        lambda totals: ((key, int(up)) for key, (up, _) in totals.endpoints.items()),
    ),
    Gauges(
        "endpoint_streams",
        ("upstream", "endpoint"),
        "Exchanges that an endpoint serves now.",
        lambda totals: ((key, streams) for key, (_, streams) in totals.endpoints.items()),
    ),
    Gauges(
        "connections",
        ("upstream", "state"),
        "Connections to an upstream.",
        lambda totals: totals.connections.items(),
    ),
)


class Metrics:
    """The metrics of one process.

    ``upstreams`` is called at each scrape for the upstreams in force; ``engine`` is the name of the ASGI server, for
    ``streamproxy_build_info``, to be set by who runs it: under a server that nobody here has started there is no such
    label. ``process`` collects the ``process_*`` series, where they are not those of this process.
    """

    def __init__(
        self,
        ledger: Ledger,
        upstreams: Callable[[], Iterable[UpstreamView]],
        *,
        engine: str = "",
        process: Collector | None = None,
    ) -> None:
        self._ledger = ledger
        self._upstreams = upstreams
        self.engine = engine
        self._totals = Totals()
        self._inherited: Totals | None = None
        self._process = process or ProcessCollector(registry=None)

    def declare(self, pairs: Iterable[Pair]) -> None:
        """Show the series of a configuration's (route, upstream) names, from 0.

        Those of an earlier configuration stay, as counters must.
        """
        self._totals.declare(pairs)

    def observe(self, exchange: Exchange) -> None:
        """Count an exchange that has ended; an observer of the ledger."""
        self._totals.finish(exchange, time.monotonic())

    def rejected(self, status: int) -> None:
        """Count a request that the HTTP protocol refused with ``status`` before there was an exchange."""
        self._totals.reject(status)

    def reloaded(self, ok: bool) -> None:
        """Count a configuration that was read while the proxy ran."""
        self._totals.reloads["ok" if ok else "error"] += 1

    def inherit(self, totals: Totals) -> None:
        """Show these of the process before this one too, in place of those that it was known to have."""
        self._inherited = totals

    def settle_inherited(self) -> None:
        """The process before this one is gone: what it has counted stays."""
        if self._inherited is not None:
            self._inherited.settle()
            self._totals.merge(self._inherited)
            self._inherited = None

    def _counted(self) -> Totals:
        """A copy of what does not change while an exchange runs."""
        totals = self._totals.copy()
        if self._inherited is not None:
            totals.merge(self._inherited)
        return totals

    def snapshot(self) -> Totals:
        """The numbers of this moment, live exchanges among them; can be pickled, and merged with others."""
        totals = self.finished()
        for exchange in self._ledger.live.values():
            totals.progress(exchange)
        return totals

    def finished(self) -> Totals:
        """A `snapshot` without the live exchanges, for who adds in pieces those that are live at this moment."""
        totals = self._counted()
        for upstream in self._upstreams():
            for endpoint in upstream.endpoints:
                totals.endpoint((upstream.name, endpoint.url), endpoint.up, endpoint.streams)
                totals.connections[upstream.name, "idle"] += endpoint.idle
                totals.connections[upstream.name, "active"] += endpoint.active
        return totals

    def exposition(self, accept: str = "") -> tuple[Iterator[bytes], str]:
        """The pieces of the exposition, and its content type.

        The numbers are those of the moment of the call; each piece is rendered when it is asked for and takes well
        under a millisecond for a handful of routes, so that a caller with many can let the event loop run between.
        It is OpenMetrics where ``accept``, a field value, names it, else the Prometheus text format.
        """
        totals = self.snapshot()
        types = {media_range.partition(";")[0].strip().lower() for media_range in accept.split(",")}
        if "application/openmetrics-text" in types:
            return self._openmetrics(totals), OPENMETRICS
        return (generate_latest(_One(metric)) for metric in self._collect(totals)), TEXT

    def _openmetrics(self, totals: Totals) -> Iterator[bytes]:
        encode: Callable[[_One], bytes] = openmetrics.generate_latest
        for metric in self._collect(totals):
            yield encode(_One(metric)).removesuffix(_EOF)
        yield _EOF

    def _collect(self, totals: Totals) -> Iterator[Metric]:
        build = InfoMetricFamily("streamproxy_build", "What is running.")
        labels = {"version": __version__, "build": BUILD, "python": platform.python_version()}
        build.add_metric([], labels | ({"engine": self.engine} if self.engine else {}))
        yield build
        for family in FAMILIES:
            yield _metric(family, totals)
        yield from self._process.collect()


class _One:
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _metric(family: Counts | Gauges | Distributions, totals: Totals) -> Metric:
    name = "streamproxy_" + family.name
    unit = next((unit for unit in ("seconds", "bytes") if name.endswith("_" + unit)), "")
    if isinstance(family, Distributions):
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels, unit=unit)
        for labels, value in family.read(totals):
            cumulative = zip(_bounds(value.bounds), accumulate(value.counts), strict=True)
            histogram.add_metric(labels, list(cumulative), value.sum)
        return histogram
    kind = CounterMetricFamily if isinstance(family, Counts) else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels, unit=unit)
    for labels, number in family.read(totals):
        metric.add_metric(labels, number)
    return metric


@lru_cache(maxsize=8)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*(str(float(bound)) for bound in bounds), "+Inf")
