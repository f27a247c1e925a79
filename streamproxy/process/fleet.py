"""All workers as a single proxy, for the admin application.

Theory of operation. The supervisor serves no exchanges. Its ledger holds a mirror of every live exchange, which reports
of all workers update before it is read. Numbers come with the same reports, and are added up::

    shown = what was counted by workers that are gone + the last report of each that is there

A worker that does not respond in time is shown with its last report, so that no number decreases. The last report of a
dead worker counts forever; it is at most a second old.

The live exchanges and the totals of a report belong together, so two reports of each worker are kept: the last one, for
the metrics, and the last one with live exchanges, for the live view.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from streamproxy.admin.app import create_admin
from streamproxy.config import Config
from streamproxy.control import Control
from streamproxy.errors import StreamproxyError
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.observe.ended import KEPT_COMPLETE, KEPT_OTHERS, Ending, rows
from streamproxy.observe.metrics import Metrics
from streamproxy.observe.series import Totals
from streamproxy.process.channel import FIELDS, Commit, Discard, Interrupt, Report
from streamproxy.process.processes import Processes
from streamproxy.process.workers import Worker

logger = logging.getLogger("streamproxy.server")

PATIENCE = 2.0  # seconds for a worker to report
_ADOPTING = 60.0  # seconds for a worker to make a configuration ready: it may look names up

_START = FIELDS.index("started_at")
_ID = FIELDS.index("id")
_CARRIED = tuple((place, name) for place, name in enumerate(FIELDS) if name != "id")


class _Remote:
    """Stands for the task of an exchange in a worker; an interruption is sent to the worker."""

    def __init__(self, worker: Worker, id: str) -> None:
        self._worker = worker
        self._id = id

    def cancel(self) -> bool:
        """Asks the worker to end the exchange."""
        self._worker.send(Interrupt(self._id))
        return True


def mirror_of(worker: Worker, row: tuple[Any, ...]) -> Exchange:
    """Returns a copy of a worker's exchange, as of its last report.

    It is an `Exchange` and not a subclass, which a compiled class cannot have.
    """
    mirror = Exchange(request_id=row[_ID], route="", upstream="", method="", path="")
    mirror.task = cast(Any, _Remote(worker, row[_ID]))
    update(mirror, row)
    return mirror


def update(mirror: Exchange, row: tuple[Any, ...]) -> None:
    """Updates a mirror. Its ``id`` does not change: it is unique among the exchanges of all workers."""
    for place, name in _CARRIED:
        setattr(mirror, name, row[place])


class MergedEnds:
    """The ended exchanges of all workers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._number = 0
        self._seen: dict[Worker, tuple[int, Counter[str]]] = {}
        self._complete: deque[Ending] = deque(maxlen=KEPT_COMPLETE)
        self._others: deque[Ending] = deque(maxlen=KEPT_OTHERS)

    def add(self, worker: Worker, report: Report) -> None:
        """Adds the new ended exchanges of a worker."""
        last, counted = self._seen.get(worker, (0, Counter()))
        for one in sorted(report.ended, key=lambda one: one.number):
            if one.number > last:
                self._number += 1
                kept = self._others if one.error else self._complete
                kept.append(one._replace(number=self._number))
                last = one.number
        self.counts.update(report.ends - counted)
        self._seen[worker] = last, report.ends

    def forget(self, worker: Worker) -> None:
        """Handles the exit of a worker; its ended exchanges stay."""
        self._seen.pop(worker, None)

    def newest(self, now: float) -> list[dict[str, Any]]:
        """Returns the last ended exchanges, newest first."""
        return rows(sorted((*self._complete, *self._others), key=lambda one: -one.ended_at), now)


class FleetMetrics(Metrics):
    """The sum of all workers' numbers, including those that have exited."""

    def __init__(self, ledger: Ledger, *, engine: str, children: Callable[[], Iterable[int]]) -> None:
        super().__init__(ledger, lambda: (), engine=engine, process=Processes(children))
        self.last: dict[Worker, Report] = {}
        self.seen: dict[Worker, Report] = {}

    def snapshot(self) -> Totals:
        totals = self._counted()
        for report in self.last.values():
            totals.merge(report.finished)
            totals.merge(report.running)
        return totals

    def finished(self) -> Totals:
        totals = self._counted()
        for report in self.seen.values():
            totals.merge(report.finished)
        return totals

    def streams(self, worker: Worker) -> int:
        """How many streams a worker had at its last report."""
        report = self.last.get(worker)
        return 0 if report is None else sum(series.active for series in report.running.series.values())

    def arrived(self) -> int:
        """How many exchanges of the present workers have begun to respond, or have ended, by their last reports."""
        ended = sum(sum(report.finished.requests.values()) for report in self.last.values())
        return ended + sum(self.streams(worker) for worker in self.last)

    def settle(self, worker: Worker) -> None:
        """Keeps the counts of a worker that has exited."""
        self.seen.pop(worker, None)
        report = self.last.pop(worker, None)
        if report is not None:
            report.finished.merge(report.running)
            report.finished.settle()
            self._totals.merge(report.finished)


class Fleet(Control):
    """All workers as a single proxy. ``admin`` is the application of the admin listener."""

    metrics: FleetMetrics
    ended: MergedEnds

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.workers: set[Worker] = set()
        self.metrics = FleetMetrics(self.ledger, engine=config.server.engine, children=self._pids)
        self.ended = MergedEnds()
        self.changing = asyncio.Lock()  # held while a worker is given a configuration
        self._in_force = config
        self._mirrors: dict[Worker, dict[str, Exchange]] = {}
        self._refreshing = {streams: asyncio.Lock() for streams in (False, True)}
        self._refreshed = {False: 0.0, True: 0.0}
        self._adopted(config)
        self.admin = create_admin(self)

    @property
    def in_force(self) -> Config:
        """The configuration of all workers."""
        return self._in_force

    def _adopted(self, config: Config) -> None:
        self._in_force = config
        self.metrics.declare(pair for route in config.routes for pair in route.pairs)
        self._configure_log()

    def _pids(self) -> list[int]:
        return [worker.process.pid for worker in self.workers]

    def joined(self, worker: Worker) -> None:
        """Adds a worker that was started."""
        worker.on_report = lambda report: self._reported(worker, report)
        self.workers.add(worker)

    def left(self, worker: Worker) -> None:
        """Removes a worker that has exited; its counts are kept."""
        self.workers.discard(worker)
        self.metrics.settle(worker)
        self.ended.forget(worker)
        for mirror in self._mirrors.pop(worker, {}).values():
            self.ledger.live.pop(mirror.id, None)

    def _reported(self, worker: Worker, report: Report) -> None:
        self.metrics.last[worker] = report
        self.ended.add(worker, report)

    async def _refresh(self, *, streams: bool) -> None:
        """Requests reports from all workers. Callers that arrive meanwhile share the next reports."""
        asked = time.monotonic()
        async with self._refreshing[streams]:
            if self._refreshed[streams] > asked:
                return
            began = time.monotonic()
            serving = [worker for worker in self.workers if worker.serving]
            await asyncio.gather(*(self._report(worker, streams) for worker in serving))
            self._refreshed[streams] = began

    async def _report(self, worker: Worker, streams: bool) -> None:
        report = await worker.report(streams=streams, timeout=PATIENCE)
        if report is None:
            logger.warning("worker %d does not report; its last report is shown", worker.number)
        if report is None or report.live is None:
            return
        found: list[tuple[Any, ...]] = []
        for batch in report.live:
            found += pickle.loads(batch)
            await asyncio.sleep(0)
        if worker in self.workers:
            self._mirror(worker, report, found)

    def _mirror(self, worker: Worker, report: Report, found: list[tuple[Any, ...]]) -> None:
        """Updates the ledger from a worker's report, without an await, so that it stays consistent."""
        before, now = self._mirrors.get(worker, {}), {}
        for row in found:
            mirror = before.get(row[_ID])
            if mirror is None or mirror.started_at != row[_START]:
                mirror = mirror_of(worker, row)
                self.ledger.open(mirror)
            else:
                update(mirror, row)
            now[row[_ID]] = mirror
        for key, mirror in before.items():
            if now.get(key) is not mirror:
                self.ledger.live.pop(mirror.id, None)
        self._mirrors[worker] = now
        self.metrics.seen[worker] = report

    def _not_serving(self) -> list[str]:
        serving = [worker for worker in self.workers if worker.serving]
        if not serving and not self.draining:
            return ["no worker serves"]
        return [reason for worker in serving if worker in self.metrics.last for reason in self._told(worker)]

    def _told(self, worker: Worker) -> Iterable[str]:
        # One that drains by itself is about to be replaced, while others serve.
        return (reason for reason in self.metrics.last[worker].reasons if reason != "draining")

    async def adopt(self, config: Config) -> None:
        """Puts a configuration into force in all workers, or in none. Raises StreamproxyError."""
        async with self.changing:
            serving = [worker for worker in self.workers if worker.serving]
            answers = await asyncio.gather(*(worker.prepare(config, timeout=_ADOPTING) for worker in serving))
            problems = [problem for problem in answers if problem is not None]
            for worker in serving:
                worker.send(Discard() if problems else Commit())
            if problems:
                raise StreamproxyError(problems[0])
            self._adopted(config)
