"""Tasks that probe the endpoints of an upstream; one task per endpoint.

A probe is a GET over the endpoint's own client, so it uses the same TLS, proxy and pool as a request. A full pool says
nothing about the endpoint's health, so such a probe has no result.
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
    """Probes the endpoints passed to `watch`, and reports the results to the roster.

    ``host`` is the value of Host, or None for the endpoint's own authority.
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
        """Starts to probe an endpoint."""
        if endpoint not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(endpoint), name=f"probe {endpoint.url}")
            self._tasks[endpoint] = task

    def drop(self, endpoint: Endpoint) -> None:
        """Stops probing an endpoint."""
        if (task := self._tasks.pop(endpoint, None)) is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Stops all probes."""
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
        """Probes once. Returns the fault, or None. Raises LimitReached if no connection was available."""
        settings = self._settings
        headers: Headers = [(b"host", self._host or endpoint.authority), (b"user-agent", USER_AGENT)]
        limit = settings.timeout
        extensions = {
            "target": settings.path.encode(),
            # The pool's own wait is shorter, so its error is reported and not this timeout.
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
                        pass  # read to the end so that the connection can be reused
        except LimitReached:
            raise
        except TimeoutError:
            return f"no answer in {limit:g} s"
        except ExchangeError as error:
            return error.note or error.detail
        return None if status in settings.status else f"status {status}"


def _ignore(phase: str) -> None:
    pass
