"""An upstream: a named group of endpoints, and which of them a request is sent to.

`Upstream.pick` chooses an endpoint, and `Upstream.another` one for a further attempt; the requests themselves are sent
by `streamproxy.origins.upstream`. With one endpoint that can never be another, both do next to nothing.

`Upstream.start` begins what runs beside the requests, probes and look-ups of names; `Upstream.aclose` ends it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from streamproxy.config import model
from streamproxy.config.model import Hash
from streamproxy.errors import DestinationUnavailable
from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream.balance.policies import BALANCERS, Balancer
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.key import Key, key_source
from streamproxy.upstream.names import Name, Names
from streamproxy.upstream.prober import Prober
from streamproxy.upstream.retry import Budget
from streamproxy.upstream.roster import Roster
from streamproxy.wire.headers import Headers


class Upstream:
    """A named group of endpoints, picked and judged as ``settings`` say.

    ``names`` are those whose every address is an endpoint; their own are added to ``endpoints``.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        settings: model.Upstream,
        *,
        names: Sequence[Name] = (),
        balancer: Balancer | None = None,
    ) -> None:
        self.name = name
        self.budget = Budget()
        self.uniform = random.random
        everyone = [*endpoints, *(one.itself for one in names)]
        # One endpoint for ever: nobody needs to hear how its requests went.
        self._plain = len(everyone) == 1 and not names
        self._roster = Roster(name, everyone, None if self._plain else settings.outlier)
        balance = settings.balance
        self._key: Key | None = key_source(balance.hash) if isinstance(balance, Hash) else None
        self._balancer = balancer or BALANCERS["hash" if isinstance(balance, Hash) else balance]()
        # Requests carry an endpoint's own authority, so that one that moves to another endpoint needs another Host.
        self._own_host = settings.host == "upstream"
        self._prober = Prober(settings.health, self._roster, host=settings.literal_host) if settings.health else None
        self._names = Names(names, self._replace) if names else None

    @property
    def endpoints(self) -> list[Endpoint]:
        """All of them, whether they are available or not."""
        return self._roster.endpoints

    def pick(self, exchange: Exchange, headers: Headers) -> Endpoint:
        """The endpoint for a request with these ``headers``. Raises DestinationUnavailable when none is available."""
        only = self._roster.only
        return only if only is not None else self._choose(self._roster.fresh(), exchange, headers)

    def _choose(self, candidates: Sequence[Endpoint], exchange: Exchange, headers: Headers) -> Endpoint:
        if not candidates:
            raise DestinationUnavailable()
        key = self._key(headers, exchange.query, exchange.client) if self._key is not None else None
        return self._balancer.pick(candidates, key)

    @property
    def roster(self) -> Roster | None:
        """What hears how requests went; None where there is one endpoint for ever, so that there is nobody to tell."""
        return None if self._plain else self._roster

    def has_untried(self, tried: Sequence[Endpoint]) -> bool:
        """Whether an endpoint is available that is not among these."""
        return any(endpoint not in tried for endpoint in self._roster.available)

    def another(self, headers: Headers, exchange: Exchange, tried: Sequence[Endpoint]) -> Endpoint:
        """The endpoint for a further attempt: one that was not tried, where there is one."""
        available = self._roster.fresh()
        untried = [endpoint for endpoint in available if endpoint not in tried]
        return self._choose(untried or available, exchange, headers)

    def readdress(self, headers: Headers, old: Endpoint, new: Endpoint) -> Headers:
        """The fields of a request that was made for ``old``, with the Host of ``new``."""
        if self._own_host and old.authority != new.authority:
            host, other = (b"host", old.authority), (b"host", new.authority)
            return [other if pair == host else pair for pair in headers]
        return headers

    def _replace(self, old: Sequence[Endpoint], new: Sequence[Endpoint], slowly: bool) -> None:
        if self._prober is not None:
            for endpoint in old:
                self._prober.drop(endpoint)
            for endpoint in new:
                self._prober.watch(endpoint)
        self._roster.replace(old, new, slowly=slowly)

    async def start(self) -> None:
        """Begin probes and look-ups. Waits for the first look-up, so that no request comes before it."""
        if self._prober is not None:
            for endpoint in self.endpoints:
                self._prober.watch(endpoint)
        if self._names is not None:
            await self._names.start()

    async def quiesce(self) -> None:
        """Stop what `start` began; requests may go on."""
        if self._names is not None:
            await self._names.aclose()
        if self._prober is not None:
            await self._prober.aclose()

    async def aclose(self) -> None:
        """Stop what `start` began, and close the clients of all endpoints."""
        await self.quiesce()
        await self._roster.aclose()
