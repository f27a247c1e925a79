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
from streamproxy.wire.headers import Headers

logger = logging.getLogger("streamproxy.upstream")

USER_AGENT = b"streamproxy-load"


class Unreadable(StreamproxyError):
    """A response of an engine that is not a valid reading, and why."""


class LoadPoller:
    """Reads the load of the endpoints passed to `watch`, and sets their ``load``.

    ``host`` is the value of Host, or None for the endpoint's own authority.
    """

    def __init__(
        self,
        name: str,
        settings: Load,
        *,
        host: bytes | None = None,
        uniform: Callable[[], float] = random.random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._settings = settings
        self._names = names_of(settings.source)
        self._host = host
        self._uniform = uniform
        self._clock = clock
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}

    def watch(self, endpoint: Endpoint) -> None:
        """Starts to read an endpoint's load, at once."""
        if endpoint not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(endpoint), name=f"load {endpoint.url}")
            self._tasks[endpoint] = task

    def drop(self, endpoint: Endpoint) -> None:
        """Stops reading an endpoint's load."""
        if (task := self._tasks.pop(endpoint, None)) is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Stops all readings."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, endpoint: Endpoint) -> None:
        read = True  # whether the last reading succeeded; each change is logged once
        while True:
            why = await self._poll(endpoint)
            if (why is None) != read:
                read = why is None
                self._log(endpoint, why)
            await asyncio.sleep(next_delay(self._settings.interval, self._uniform))

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
        limit, reader = self._settings.stale, MetricReader(self._names)
        headers: Headers = [
            (b"host", self._host or endpoint.authority),
            (b"accept", b"text/plain"),
            (b"user-agent", USER_AGENT),
        ]
        extensions = {
            "target": self._names.path.encode(),
            # The pool's own wait is shorter, so its error is reported and not this timeout.
            "timeout": {"connect": limit, "pool": limit * 0.9, "read": limit, "write": limit},
            "progress": _ignore,
        }
        stream = endpoint.client.stream("GET", endpoint.url, headers=headers, content=None, extensions=extensions)
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


def _ignore(phase: str) -> None:
    pass
