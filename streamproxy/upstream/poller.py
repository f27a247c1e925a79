"""Tasks that read the load of an upstream's endpoints; one task per endpoint.

A reading is a GET over the endpoint's own client, independent of the requests. While an endpoint does not respond, its
last reading is kept; the balancer ignores it once it is stale. An invalid response (an error status, a body that is too
large, implausible numbers) discards the last reading.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from time import monotonic

from streamproxy.config.model import Load
from streamproxy.errors import ExchangeError, LimitReached, StreamproxyError
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.health import next_delay
from streamproxy.upstream.load import MOST, LoadReading, MetricReader, names_of
from streamproxy.upstream.watch import EndpointWatch

logger = logging.getLogger("streamproxy.upstream")

USER_AGENT = b"streamproxy-load"


class Unreadable(StreamproxyError):
    """A response of an engine that is not a valid reading, and why."""


class LoadPoller(EndpointWatch):
    """Reads the load of the endpoints passed to `watch`, and sets their ``load``."""

    def __init__(
        self,
        name: str,
        settings: Load,
        *,
        host: bytes | None = None,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__("load", host, uniform)
        self._name = name
        self._settings = settings
        self._names = names_of(settings.source)
        self._clock = clock

    async def _run(self, endpoint: Endpoint) -> None:
        read = True  # whether the last reading succeeded; each change is logged once
        while True:
            why = await self._poll(endpoint)
            if (why is None) != read:
                read = why is None
                self._log(endpoint, why)
            await self._pause(next_delay(self._settings.interval, self._uniform))

    def _log(self, endpoint: Endpoint, why: str | None) -> None:
        if why is None:
            logger.info("upstream %s: the load of endpoint %s can be read", self._name, endpoint.url)
        else:
            logger.warning("upstream %s: the load of endpoint %s cannot be read: %s", self._name, endpoint.url, why)

    async def _poll(self, endpoint: Endpoint) -> str | None:
        """Reads once. Returns why it failed, or None."""
        at, streams, limit = self._clock(), endpoint.streams, self._settings.stale
        try:
            async with asyncio.timeout(limit):
                endpoint.load = await self._ask(endpoint, at, streams)
        except LimitReached:
            why = "its connections are all in use"
        except TimeoutError:
            why = f"no answer in {limit:g} s"
        except ExchangeError as error:
            why = error.note or error.detail
        except Unreadable as error:
            endpoint.load = None
            return str(error)
        else:
            return None
        if endpoint.load is not None and self._clock() - endpoint.load.at > limit:
            endpoint.load = None  # a stale value is not shown
        return why

    async def _ask(self, endpoint: Endpoint, at: float, streams: int) -> LoadReading:
        reader, fields = MetricReader(self._names), [(b"accept", b"text/plain"), (b"user-agent", USER_AGENT)]
        stream = self._get(endpoint, self._names.path, fields, self._settings.stale)
        async with stream as response:
            if response.status_code != 200:
                raise Unreadable(f"status {response.status_code}")
            while (chunk := await response.source.read()) is not None:
                if not reader.feed(chunk):
                    raise Unreadable(f"its metrics are over {MOST} bytes")
        reading = reader.reading(at, streams)
        if reading is None:
            raise Unreadable("its metrics lack a number of requests, or have one that is not finite")
        return reading
