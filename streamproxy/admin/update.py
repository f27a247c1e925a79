"""The parts of an update, as plain data from one sample.

Apart from selecting the first streams, no work grows with the number of streams, and an update has the same size with
ten thousand streams as with fifty.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from streamproxy.admin.sample import Rates, Sample, Snapshot
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.histogram import Histogram
from streamproxy.observe.access_log import record
from streamproxy.observe.series import Totals

Sort = Literal["age", "bytes", "events", "rate"]

SORTS: tuple[Sort, ...] = ("age", "bytes", "events", "rate")
QUANTILES = (0.5, 0.9, 0.99)
DRAINING: dict[str, object] = {"draining": True}  # further fields of a stream that a process before this one ends
DISTRIBUTIONS = ("ttfb", "upstream_ttfb", "chunk_gap", "stream_duration", "queue")  # attributes of a Series


class View(NamedTuple):
    """The streams that a viewer asks for: the first ``limit`` of one route or of all routes.

    The order is by age (oldest first), bytes, events or events per second (most first); ``ascending`` reverses it.
    """

    sort: Sort = "age"
    ascending: bool = False
    route: str | None = None
    limit: int = 50


class Quantiles(TypedDict):
    """The number of observations of a histogram, and their quantiles in seconds; None without observations."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None


class Sums(TypedDict):
    """The sums of all routes, or of one route.

    Of the ``live`` exchanges, ``active`` are streaming and ``waiting`` are in the queue. Rates are None if unknown.
    """

    live: int
    active: int
    waiting: int
    requests: int
    requests_per_s: float | None
    events_per_s: float | None
    bytes_per_s: float | None


class RouteRow(Sums):
    """One route.

    ``start`` and ``window`` have the quantiles of the non-empty DISTRIBUTIONS, since the start and over the last
    minute.
    """

    route: str
    upstream: str
    start: dict[str, Quantiles]
    window: dict[str, Quantiles]


class EndpointRow(TypedDict):
    upstream: str
    endpoint: str
    up: bool
    streams: int
    load: dict[str, float] | None  # as reported by the engine: running, waiting, cache


class UpstreamRow(TypedDict):
    """The connections to one upstream."""

    upstream: str
    idle: int
    active: int


class Overview(TypedDict):
    """The part of an update that is the same for every viewer.

    ``time`` is in seconds since the epoch. ``reload`` lists what was wrong at the last reload. ``window`` is how many
    seconds of the last minute are known. ``ended`` are the last ended exchanges, and ``ends`` counts all by how they
    ended. The ``hidden_`` numbers count rows that were left out.
    """

    time: float
    version: str
    ready: bool
    reasons: list[str]
    reload: list[str]
    window: float
    totals: Sums
    routes: list[RouteRow]
    hidden_routes: int
    endpoints: list[EndpointRow]
    hidden_endpoints: int
    upstreams: list[UpstreamRow]
    ended: list[dict[str, Any]]
    ends: dict[str, int]


class Update(Overview):
    """An update for the viewers of one view.

    ``streams`` have the access-log fields so far, ``id``, ``rate`` in events per second, and ``tokens_per_s`` since the
    first event, None where the stream does not say its tokens, and ``draining`` if a process that was taken over ends
    them. They are the first of ``matching`` streams.
    """

    matching: int
    streams: list[dict[str, Any]]


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float | None:
    """Returns the ``q``-quantile of a histogram with these upper bounds; the last count is that above all bounds.

    As in Prometheus' ``histogram_quantile``, observations are assumed to be evenly distributed in their bucket, and
    those above the highest bound to equal it. None without observations.
    """
    return _quantile(bounds, [(number, count) for number, count in enumerate(counts) if count], q)


def _quantile(bounds: Sequence[float], buckets: Sequence[tuple[int, int]], q: float) -> float | None:
    """Returns the `quantile` of the non-empty buckets, given as (number, count) in order."""
    if not buckets:
        return None
    rank, below = q * sum(count for _, count in buckets), 0
    for number, count in buckets:
        if below + count >= rank and number < len(bounds):
            lower = bounds[number - 1] if number else 0.0
            return lower + (bounds[number] - lower) * (rank - below) / count
        below += count
    return bounds[-1]


def quantiles(now: Histogram, then: Histogram | None = None) -> Quantiles:
    """Returns the quantiles of a histogram, or of its observations since ``then``."""
    counts = now.counts
    if then is not None:
        counts = {number: count - then.counts.get(number, 0) for number, count in counts.items()}
    buckets = sorted((number, count) for number, count in counts.items() if count > 0)
    p50, p90, p99 = (_round(_quantile(now.scale.bounds, buckets, q)) for q in QUANTILES)
    return {"count": sum(count for _, count in buckets), "p50": p50, "p90": p90, "p99": p99}


def first_streams(sample: Sample, view: View) -> list[dict[str, Any]]:
    """Returns the streams of a view, in its order."""
    candidates: Iterable[Exchange] = sample.live
    if view.route is not None:
        candidates = (exchange for exchange in sample.live if exchange.route == view.route)
    choose = heapq.nsmallest if view.ascending else heapq.nlargest
    first = choose(view.limit, candidates, key=_key(sample, view.sort))
    return [
        {"id": exchange.id}
        | record(exchange, sample.now.at, live=True)
        | {"rate": _rounded(sample.event_rate(exchange)), "tokens_per_s": _token_rate(exchange, sample.now.at)}
        | (DRAINING if exchange.id in sample.drained else {})
        for exchange in first
    ]


def _token_rate(exchange: Exchange, now: float) -> float | None:
    """Returns the output tokens per second since the first event, if the stream reports them as it goes."""
    output = exchange.usage.output if exchange.usage is not None else None
    if not output or not exchange.first_event_at:
        return None
    return _rounded(output / max(now - exchange.first_event_at, 0.001))


def _key(sample: Sample, sort: Sort) -> Callable[[Exchange], float]:
    keys: dict[Sort, Callable[[Exchange], float]] = {
        "age": lambda exchange: -exchange.started_at,
        "bytes": lambda exchange: exchange.response_bytes,
        "events": lambda exchange: exchange.events,
        "rate": sample.event_rate,
    }
    return keys[sort]


def first_routes(sample: Sample) -> list[str]:
    """Returns the routes with any numbers, those with the most live exchanges first."""
    names = set(sample.upstreams) | set(sample.running)
    return sorted(names, key=lambda name: (-sample.running[name], -sample.now.requests[name], name))


def route_row(sample: Sample, name: str) -> RouteRow:
    """Returns the row of one route."""
    series, rates = sample.now.series.get(name), sample.rates(name)
    return {
        "route": name,
        "upstream": ", ".join(sample.upstreams.get(name, ())),
        "live": sample.running[name],
        "active": series.active if series is not None else 0,
        "waiting": series.waiting if series is not None else 0,
        "requests": sample.now.requests[name],
        "requests_per_s": _rounded(rates.requests) if rates is not None else None,
        "events_per_s": _rounded(rates.events) if rates is not None else None,
        "bytes_per_s": _rounded(rates.bytes) if rates is not None else None,
        "start": _distributions(sample.now, None, name),
        "window": _distributions(sample.now, sample.base, name) if sample.base is not None else {},
    }


def _distributions(now: Snapshot, then: Snapshot | None, route: str) -> dict[str, Quantiles]:
    series = now.series.get(route)
    if series is None:
        return {}
    earlier = then.series.get(route) if then is not None else None
    found = {
        name: quantiles(getattr(series, name), getattr(earlier, name) if earlier is not None else None)
        for name in DISTRIBUTIONS
    }
    return {name: one for name, one in found.items() if one["count"]}


def _load_of(totals: Totals, upstream: str, endpoint: str) -> dict[str, float] | None:
    """Returns the load reported by an engine, or None if there is no reading."""
    kinds = ("running", "waiting", "cache")
    levels = {kind: totals.levels.get(("endpoint_load", upstream, endpoint, kind)) for kind in kinds}
    return {kind: level for kind, level in levels.items() if level is not None} or None


def endpoint_rows(sample: Sample) -> list[EndpointRow]:
    """Returns the endpoints in the order of the configuration, but with those that are down first."""
    rows: list[EndpointRow] = [
        {
            "upstream": upstream,
            "endpoint": endpoint,
            "up": up,
            "streams": streams,
            "load": _load_of(sample.totals, upstream, endpoint),
        }
        for (upstream, endpoint), (up, streams) in sample.totals.endpoints.items()
    ]
    return sorted(rows, key=lambda row: row["up"])


def upstream_rows(sample: Sample) -> list[UpstreamRow]:
    """Returns the upstreams with their connections."""
    connections = sample.totals.connections
    names = dict.fromkeys(name for name, _ in connections)
    return [
        {"upstream": name, "idle": connections[name, "idle"], "active": connections[name, "active"]} for name in names
    ]


def matching(sample: Sample, view: View) -> int:
    """Returns the number of live exchanges of the view's route."""
    return len(sample.live) if view.route is None else sample.running[view.route]


def sums(sample: Sample) -> Sums:
    """Returns the sums of all routes."""
    each = [rates for name in sample.now.requests.keys() | sample.now.series.keys() if (rates := sample.rates(name))]
    known = Rates(*map(sum, zip(*each, strict=True))) if each else None
    if known is None and sample.before is not None:
        known = Rates(0.0, 0.0, 0.0)
    return {
        "live": len(sample.live),
        "active": sum(series.active for series in sample.now.series.values()),
        "waiting": sum(series.waiting for series in sample.now.series.values()),
        "requests": sum(sample.now.requests.values()),
        "requests_per_s": _rounded(known.requests) if known is not None else None,
        "events_per_s": _rounded(known.events) if known is not None else None,
        "bytes_per_s": _rounded(known.bytes) if known is not None else None,
    }


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.4g}")


def _rounded(rate: float) -> float:
    return float(f"{max(0.0, rate):.4g}")
