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
from streamproxy.upstream.watch import EndpointWatch

USER_AGENT = b"streamproxy-health"


class Prober(EndpointWatch):
    """Probes the endpoints passed to `watch`, and reports the results to the roster."""

    def __init__(
        self,
        settings: Health,
        roster: Roster,
        *,
        host: bytes | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        super().__init__("probe", host, uniform)
        self._settings = settings
        self._roster = roster

    async def _run(self, endpoint: Endpoint) -> None:
        history = ProbeHistory(self._settings)
        await self._pause(first_delay(self._settings.interval, self._uniform))
        while True:
            with contextlib.suppress(LimitReached):
                bad = await self._probe(endpoint)
                if history.result(good=bad is None):
                    self._roster.judge(endpoint, history.healthy, bad or "the probes are good")
            await self._pause(next_delay(self._settings.interval, self._uniform))

    async def _probe(self, endpoint: Endpoint) -> str | None:
        """Probes once. Returns the fault, or None. Raises LimitReached if no connection was available."""
        settings = self._settings
        limit = settings.timeout
        try:
            async with asyncio.timeout(limit):
                stream = self._get(endpoint, settings.path, [(b"user-agent", USER_AGENT)], limit)
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
