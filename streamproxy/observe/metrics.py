"""The metrics of one process, and their exposition.

`Metrics` observes the ledger: each exchange that ends is added to the totals. A scrape copies the totals, adds the live
exchanges and the state of the upstreams, and renders the copy with prometheus_client. ``families.py`` defines the name
of each series and the source of its numbers. Serving a request touches no prometheus_client object, since its counters
are far more expensive than slots.

A snapshot is taken on the event loop without an await, so that no exchange ends between the copy and the addition.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.metrics_core import InfoMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from streamproxy.exchange.ledger import Ledger, Observer
from streamproxy.exchange.tally import Tally
from streamproxy.observe.families import BY_NAME, FAMILIES, PENDING, Counts, Distributions, Family
from streamproxy.observe.series import Pair, Totals
from streamproxy.version import BUILD, __version__

__all__ = ["FAMILIES", "OPENMETRICS", "TEXT", "Counts", "Distributions", "Metrics"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EOF = b"# EOF\n"


class LoadView(Protocol):
    """The load of an engine, as shown in the metrics."""

    @property
    def running(self) -> float: ...
    @property
    def waiting(self) -> float: ...
    @property
    def cache(self) -> float | None: ...


class EndpointView(Protocol):
    """An endpoint, as shown in the metrics."""

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
    @property
    def load(self) -> LoadView | None: ...


class UpstreamView(Protocol):
    """An upstream, as shown in the metrics."""

    @property
    def name(self) -> str: ...
    @property
    def endpoints(self) -> Iterable[EndpointView]: ...


class Metrics:
    """The metrics of one process.

    ``upstreams`` returns the current upstreams; it is called at each scrape. ``engine`` is the name of the ASGI server
    for ``streamproxy_build_info``. The code that starts the server sets it; an application under another server has no
    such label. ``process`` collects the ``process_*`` series if they are not those of this process.
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
        self.observe: Observer = self._totals.finish  # counts an ended exchange
        self._inherited: Totals | None = None
        self._process = process or ProcessCollector(registry=None)

    def declare(self, pairs: Iterable[Pair], models: Iterable[str] = ()) -> None:
        """Adds the series of a configuration's (route, upstream) names with value 0.

        ``models`` are the configured model names, the only ones that may become label values.

        Series of earlier configurations stay, as counters must.
        """
        self._totals.declare(pairs)
        self._ledger.gaps.models.update(models)

    def tally(self, name: str, *labels: str) -> Tally:
        """Returns a counter of a family of `FAMILIES` for events other than an exchange's end; see `Tallies.of`."""
        return self._ledger.tallies.of(name, *labels)

    def rejected(self, status: int) -> None:
        """Counts a request that the HTTP protocol refused with ``status`` before an exchange existed."""
        self._totals.reject(status)

    def reloaded(self, ok: bool) -> None:
        """Counts a configuration that was read while the proxy ran."""
        self._totals.reloads["ok" if ok else "error"] += 1

    def inherit(self, totals: Totals) -> None:
        """Includes the totals of the previous process, replacing those of the last call."""
        self._inherited = totals

    def settle_inherited(self) -> None:
        """Keeps the counts of the previous process, which has exited."""
        if self._inherited is not None:
            self._inherited.settle()
            self._totals.merge(self._inherited)
            self._inherited = None

    def _counted(self) -> Totals:
        """Returns a copy of the numbers that do not change while an exchange runs."""
        totals = self._totals.copy()
        totals.add_gaps(self._ledger.gaps)
        for labelled, tally in self._ledger.tallies.tallies.items():
            totals.count(labelled, tally.value)
        if self._inherited is not None:
            totals.merge(self._inherited)
        return totals

    def snapshot(self) -> Totals:
        """Returns the current numbers including live exchanges; can be pickled, and merged with others."""
        totals, now = self.finished(), time.monotonic()
        for exchange in self._ledger.live.values():
            totals.progress(exchange, now)
        return totals

    def finished(self) -> Totals:
        """Returns a `snapshot` without the live exchanges; the caller adds live ones in batches."""
        totals = self._counted()
        for levels in self._ledger.tallies.levels:
            for labelled, level in levels():
                totals.level(labelled, level)
        for upstream in self._upstreams():
            for endpoint in upstream.endpoints:
                totals.endpoint((upstream.name, endpoint.url), endpoint.up, endpoint.streams)
                totals.connections[upstream.name, "idle"] += endpoint.idle
                totals.connections[upstream.name, "active"] += endpoint.active
                if endpoint.load is not None:
                    _enter_load(totals, upstream.name, endpoint.url, endpoint.load)
        return totals

    def exposition(self, accept: str = "") -> tuple[Iterator[bytes], str]:
        """Returns the pieces of the exposition, and its content type.

        The numbers are those of the time of the call. Each piece is rendered on demand and takes well under a
        millisecond for a handful of routes, so that a caller with many can let the event loop run in between. The
        format is OpenMetrics if ``accept``, a field value, names it, otherwise the Prometheus text format.
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
        for name, family in BY_NAME.items():
            metric = _metric(name, family, totals)
            if metric.samples or family.name not in PENDING:
                yield metric
        yield from self._process.collect()


def _enter_load(totals: Totals, upstream: str, endpoint: str, load: LoadView) -> None:
    totals.level(("endpoint_load", upstream, endpoint, "running"), load.running)
    totals.level(("endpoint_load", upstream, endpoint, "waiting"), load.waiting)
    if load.cache is not None:
        totals.level(("endpoint_load", upstream, endpoint, "cache"), load.cache)


class _One:
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _metric(name: str, family: Family, totals: Totals) -> Metric:
    unit = next((unit for unit in ("seconds", "bytes") if name.endswith("_" + unit)), "")
    if isinstance(family, Distributions):
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels, unit=unit)
        for labels, value in family.read(totals):
            cumulative = zip(_bounds(value.scale.shown), accumulate(value.shown()), strict=True)
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
