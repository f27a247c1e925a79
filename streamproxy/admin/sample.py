"""Snapshots of all exchanges, compared with earlier ones for rates and for the last minute.

Theory of operation. `Sampler.take` copies the totals of ended exchanges and lists the live ones at one time. Then it
adds the live ones to the copy in batches, between which other tasks run. An exchange that ends meanwhile is still in
the list and keeps its numbers, and one that begins meanwhile is in neither. So each exchange counts once, and no
counter ever decreases. The exchanges of a process that was taken over are listed too, but not added: its numbers are in
the totals already.

The sampler does nothing on its own. Rates are relative to the last snapshot, and unknown if it is missing or too old.
The last minute is known as far as it is covered by snapshots. Only the numbers of earlier snapshots are kept, no
exchanges.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.observe.metrics import Metrics
from streamproxy.observe.series import Series, Totals

WINDOW = 60.0  # seconds
_STEP = 5.0  # seconds between the snapshots that are kept for the window
_STALE = 90.0  # seconds after which a snapshot is too old for rates
_BATCH = 200  # exchanges between two iterations of the event loop


class Rates(NamedTuple):
    """Rates per second."""

    requests: float
    events: float
    bytes: float


class Snapshot(NamedTuple):
    """The numbers at one time, in seconds of the monotonic clock.

    ``series`` is by route, ``requests`` counts a route's finished requests, ``events`` those of each live exchange by
    its id.
    """

    at: float
    series: dict[str, Series]
    requests: Counter[str]
    events: dict[str, int]


class Sample:
    """A snapshot with its live exchanges, and the two earlier snapshots that it is compared with.

    ``before`` is the previous snapshot, for the rates; ``base`` is the oldest one of the last minute. ``running``
    counts the live exchanges of each route; ``upstreams`` holds the names of the upstreams that a route has used.
    ``drained`` are the ids of those live exchanges that a process before this one ends.
    """

    def __init__(
        self,
        now: Snapshot,
        totals: Totals,
        live: Sequence[Exchange],
        drained: Set[str] = frozenset(),
        *,
        before: Snapshot | None,
        base: Snapshot | None,
    ):
        self.now = now
        self.totals = totals
        self.live = live
        self.drained = drained
        self.before = before
        self.base = base
        self.running = Counter(exchange.route for exchange in live)
        self.upstreams: dict[str, list[str]] = {}
        for route, upstream in totals.series:
            self.upstreams.setdefault(route, []).append(upstream)

    @property
    def window(self) -> float:
        """How many seconds of the last minute are known."""
        return 0.0 if self.base is None else self.now.at - self.base.at

    def event_rate(self, exchange: Exchange) -> float:
        """Returns the events per second of a live exchange, since the previous snapshot or since it began."""
        now, before = self.now, self.before
        count, since = now.events.get(exchange.id, 0), exchange.started_at
        if before is not None and exchange.id in before.events:
            count -= before.events[exchange.id]
            since = before.at
        return max(0, count) / max(now.at - since, 0.001)

    def rates(self, route: str) -> Rates | None:
        """Returns the rates of a route, or None if there is no previous snapshot."""
        if self.before is None:
            return None
        seconds = max(self.now.at - self.before.at, 0.001)
        series, then = self.now.series.get(route, _NOTHING), self.before.series.get(route, _NOTHING)
        return Rates(
            (self.now.requests[route] - self.before.requests[route]) / seconds,
            (series.events - then.events) / seconds,
            (series.response_bytes - then.response_bytes) / seconds,
        )


_NOTHING = Series()


class Sampler:
    """Takes snapshots, and keeps the numbers for later comparisons.

    ``drained`` returns the exchanges of the process before by their ids, whose numbers are part of ``metrics``.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, drained: Callable[[], Mapping[str, Exchange]] = dict) -> None:
        self._ledger = ledger
        self._drained = drained
        self._metrics = metrics
        self._last: Snapshot | None = None
        self._kept: deque[Snapshot] = deque()  # one every _STEP seconds, without events

    async def take(self) -> Sample:
        """Takes a snapshot. One caller at a time."""
        at, totals, live = time.monotonic(), self._metrics.finished(), list(self._ledger.live.values())
        drained = dict(self._drained())
        events = {id: exchange.events for id, exchange in drained.items()}
        for start in range(0, len(live), _BATCH):
            for exchange in live[start : start + _BATCH]:
                totals.progress(exchange, time.monotonic())
                events[exchange.id] = exchange.events
            await asyncio.sleep(0)
        requests: Counter[str] = Counter()
        for (route, _, _), count in totals.requests.items():
            requests[route] += count
        snapshot = Snapshot(at, _by_route(totals), requests, events)
        before = self._last if self._last is not None and at - self._last.at <= _STALE else None
        self._last = snapshot
        return Sample(
            snapshot, totals, [*drained.values(), *live], drained.keys(), before=before, base=self._keep(snapshot)
        )

    def _keep(self, snapshot: Snapshot) -> Snapshot | None:
        """Keeps a snapshot for the window, and returns the oldest one in it."""
        kept = self._kept
        while kept and snapshot.at - kept[0].at > WINDOW:
            kept.popleft()
        base = kept[0] if kept else None
        if not kept or snapshot.at - kept[-1].at >= _STEP:
            kept.append(snapshot._replace(events={}))
        return base


def _by_route(totals: Totals) -> dict[str, Series]:
    """Returns the series of each route. After a reload, a route may have several upstreams."""
    series: dict[str, Series] = {}
    for (route, _), one in totals.series.items():
        if route not in series:
            series[route] = one
            continue
        both = Series()
        both.merge(series[route])
        both.merge(one)
        series[route] = both
    return series
