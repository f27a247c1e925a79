"""The endpoints of one upstream, and which of them are available.

Theory of operation. `Roster.available` is the list a balancer picks from. Requests only read it; it is recomputed when
something changes: a probe's result (`judge`), failed requests (`failed`), the end of an ejection, and endpoints that
join or leave. An endpoint that recovers or joins later starts slowly; its share is updated on use (`fresh`), without a
timer.

A removed endpoint is not picked again and finishes its exchanges; its client is closed when the last one ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

from streamproxy.config.model import Outlier
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.outlier import Outliers
from streamproxy.upstream.sessions import Sessions

logger = logging.getLogger("streamproxy.upstream")


class Roster:
    """The endpoints of one upstream.

    ``endpoints`` are all endpoints, ``available`` those that may be picked, and ``only`` the endpoint if it is the only
    one.

    ``clock`` returns seconds of the monotonic clock.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        outlier: Outlier | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.name = name
        self.endpoints = list(endpoints)
        self.available: list[Endpoint] = []
        self.only: Endpoint | None = None
        self.sessions: Sessions | None = None  # sees every response if sessions are sticky
        self._outliers = Outliers(outlier) if outlier is not None else None
        self.error_events = outlier is not None and outlier.error_events  # whether they count as failures
        self._clock = clock
        self.watchers: list[Callable[[], None]] = []  # called when an endpoint may be available again
        self._starting: list[Endpoint] = []  # in their slow start
        self._ejections: dict[Endpoint, asyncio.TimerHandle] = {}
        self._leaving: set[Endpoint] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._settle()

    def _settle(self) -> None:
        self.available = [endpoint for endpoint in self.endpoints if endpoint.up]
        self.only = self.available[0] if len(self.available) == 1 else None
        if self.available:
            for call in list(self.watchers):
                call()

    def fresh(self) -> list[Endpoint]:
        """Returns `available` with up-to-date shares."""
        if self._starting:
            now = self._clock()
            self._starting = [endpoint for endpoint in self._starting if endpoint.ramp(now)]
        return self.available

    def judge(self, endpoint: Endpoint, healthy: bool, why: str) -> None:
        """Records a probe's result, for the reason ``why``."""
        if endpoint.healthy == healthy:
            return
        endpoint.healthy = healthy
        if healthy:
            self._back(endpoint)
        logger.log(
            logging.INFO if healthy else logging.WARNING,
            "upstream %s: endpoint %s is %s: %s",
            self.name,
            endpoint.url,
            "healthy" if healthy else "unhealthy",
            why,
        )
        self._settle()

    def succeeded(self, endpoint: Endpoint) -> None:
        """Records a response of the endpoint."""
        if self._outliers is not None:
            self._outliers.succeeded(endpoint)

    def failed(self, endpoint: Endpoint) -> None:
        """Records a failed request, and ejects the endpoint if it was one too many."""
        if self._outliers is None or endpoint.removed:
            return
        seconds = self._outliers.failed(endpoint, self.endpoints, self._clock())
        if seconds is None:
            return
        endpoint.ejected = True
        loop = asyncio.get_running_loop()
        self._ejections[endpoint] = loop.call_later(seconds, self._readmit, endpoint)
        logger.warning("upstream %s: endpoint %s is ejected for %g s", self.name, endpoint.url, seconds)
        self._settle()

    def _readmit(self, endpoint: Endpoint) -> None:
        del self._ejections[endpoint]
        endpoint.ejected = False
        self._back(endpoint)
        logger.info("upstream %s: endpoint %s is no longer ejected", self.name, endpoint.url)
        self._settle()

    def _back(self, endpoint: Endpoint) -> None:
        if endpoint.up:
            endpoint.come_back(self._clock())
            if endpoint not in self._starting:
                self._starting.append(endpoint)

    def replace(self, old: Sequence[Endpoint], new: Sequence[Endpoint], *, slowly: bool) -> None:
        """Replaces ``old`` with ``new`` in one step; ``slowly`` gives the new ones a slow start."""
        for endpoint in old:
            self.endpoints.remove(endpoint)
            self._remove(endpoint)
        self.endpoints += new
        if slowly:
            for endpoint in new:
                self._back(endpoint)
        self._settle()

    def _remove(self, endpoint: Endpoint) -> None:
        endpoint.removed = True
        if endpoint in self._starting:
            self._starting.remove(endpoint)
        if (timer := self._ejections.pop(endpoint, None)) is not None:
            timer.cancel()
        if self._outliers is not None:
            self._outliers.forget(endpoint)
        self._leaving.add(endpoint)
        self.ended(endpoint)

    def ended(self, endpoint: Endpoint) -> None:
        """Called when an exchange with the endpoint has ended; closes a removed endpoint's client after the last."""
        if endpoint.removed and not endpoint.streams and endpoint in self._leaving:
            self._leaving.discard(endpoint)
            task = asyncio.get_running_loop().create_task(endpoint.client.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Stops the timers, and closes the clients of all endpoints, including removed ones."""
        for timer in self._ejections.values():
            timer.cancel()
        self._ejections.clear()
        closing = [endpoint.client.aclose() for endpoint in (*self.endpoints, *self._leaving)]
        self._leaving.clear()
        await asyncio.gather(*closing, *self._closing, return_exceptions=True)
