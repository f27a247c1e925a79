"""The tasks that probe the endpoints of an upstream, one an endpoint.

A probe is a GET over the endpoint's own client, so that it takes the way of a request: the same TLS, proxy and pool.
A pool without room says nothing of the endpoint's health, and such a probe has no result.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from streamproxy.config.model import Health
from streamproxy.errors import ExchangeError, LimitReached
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.health import ProbeHistory, first_delay, next_delay
from streamproxy.upstream.roster import Roster
from streamproxy.wire.headers import Headers

USER_AGENT = b"streamproxy-health"


class Prober:
    """Probes the endpoints that it was told to `watch`, and tells the roster what it finds.

    ``host`` is what Host says, or None for the endpoint's own authority.
    """

    def __init__(
        self,
        settings: Health,
        roster: Roster,
        *,
        host: bytes | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._roster = roster
        self._host = host
        self._uniform = uniform
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}

    def watch(self, endpoint: Endpoint) -> None:
        """Begin to probe an endpoint."""
        if endpoint not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(endpoint), name=f"probe {endpoint.url}")
            self._tasks[endpoint] = task

    def drop(self, endpoint: Endpoint) -> None:
        """Probe an endpoint no more."""
        if (task := self._tasks.pop(endpoint, None)) is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Stop all probes."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, endpoint: Endpoint) -> None:
        history = ProbeHistory(self._settings)
        await asyncio.sleep(first_delay(self._settings.interval, self._uniform))
        while True:
            with contextlib.suppress(LimitReached):
                bad = await self._probe(endpoint)
                if history.result(good=bad is None):
                    self._roster.judge(endpoint, history.healthy, bad or "the probes are good")
            await asyncio.sleep(next_delay(self._settings.interval, self._uniform))

    async def _probe(self, endpoint: Endpoint) -> str | None:
        """Ask once. Gives what was bad, or None; raises LimitReached when there was no connection to ask over."""
        settings = self._settings
        headers: Headers = [(b"host", self._host or endpoint.authority), (b"user-agent", USER_AGENT)]
        limit = settings.timeout
        extensions = {
            "target": settings.path.encode(),
            # A wait for a place in the pool ends first, and as what it is.
            "timeout": {"connect": limit, "pool": limit * 0.9, "read": limit, "write": limit},
            "progress": _ignore,
        }
        try:
            async with asyncio.timeout(limit):
                stream = endpoint.client.stream(
                    "GET", endpoint.url, headers=headers, content=None, extensions=extensions
                )
                async with stream as response:
                    status = response.status_code
                    while await response.source.read() is not None:
                        pass  # read to its end, the connection can be used again
        except LimitReached:
            raise
        except TimeoutError:
            return f"no answer in {limit:g} s"
        except ExchangeError as error:
            return error.note or error.detail
        return None if status in settings.status else f"status {status}"


def _ignore(phase: str) -> None:
    pass
