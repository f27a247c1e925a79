"""An upstream: a named group of endpoints, and how one is picked for a request.

`Upstream.pick` returns an endpoint, and `Upstream.another` one for a retry. `streamproxy.origins.upstream` sends the
requests. With one fixed endpoint, both do almost nothing.

`Upstream.start` starts the background tasks (probes and look-ups of names); `Upstream.aclose` stops them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from streamproxy.config import model
from streamproxy.config.model import Hash, Load, Prefix
from streamproxy.errors import DestinationUnavailable
from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream.balance.policies import BALANCERS, Balancer, LeastLoad, PrefixHash
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.key import Key, key_source
from streamproxy.upstream.names import Name, Names
from streamproxy.upstream.poller import LoadPoller
from streamproxy.upstream.prober import Prober
from streamproxy.upstream.retry import Budget
from streamproxy.upstream.roster import Roster
from streamproxy.upstream.sessions import Sessions
from streamproxy.wire.headers import Headers


class Upstream:
    """A named group of endpoints, picked and judged according to ``settings``.

    ``names`` are names with one endpoint for each address; these are added to ``endpoints``. ``sessions`` are the
    sticky sessions, or None if the upstream does not use them.

    ``prefix_bytes`` is not 0 if the beginning of a conversation selects the endpoint. A request's ``affinity`` must
    then be set before `pick`.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        settings: model.Upstream,
        *,
        names: Sequence[Name] = (),
        balancer: Balancer | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self.name = name
        self.budget = Budget()
        self.uniform = random.random
        everyone = [*endpoints, *(one.itself for one in names)]
        # With one fixed endpoint, the outcome of requests changes nothing.
        self._plain = len(everyone) == 1 and not names
        self._roster = Roster(name, everyone, None if self._plain else settings.outlier)
        self.roster = None if self._plain else self._roster
        balance = settings.balance
        self._key: Key | None = key_source(balance.hash) if isinstance(balance, Hash) else None
        self.prefix_bytes = balance.prefix.bytes if isinstance(balance, Prefix) and not self._plain else 0
        self._balancer = balancer or _balancer(settings)
        self._sessions = self._roster.sessions = None if self._plain else sessions
        self._poller = _poller(name, settings)
        # Requests carry an endpoint's own authority, so a request that moves to another endpoint needs another Host.
        self._own_host = settings.host == "upstream"
        self._prober = Prober(settings.health, self._roster, host=settings.literal_host) if settings.health else None
        self._names = Names(names, self._replace) if names else None

    @property
    def endpoints(self) -> list[Endpoint]:
        """All endpoints, available or not."""
        return self._roster.endpoints

    def pick(self, exchange: Exchange, headers: Headers) -> Endpoint:
        """Returns the endpoint for a request with these ``headers``.

        Raises DestinationUnavailable if none is available.
        """
        only = self._roster.only
        if only is not None:
            return only
        candidates = self._roster.fresh()
        if self._sessions is not None:
            endpoint = self._sessions.find(headers, candidates)
            if endpoint is not None:
                return endpoint
        return self._choose(candidates, exchange, headers)

    def _choose(self, candidates: Sequence[Endpoint], exchange: Exchange, headers: Headers) -> Endpoint:
        if not candidates:
            raise DestinationUnavailable()
        key = self._key(headers, exchange) if self._key is not None else exchange.affinity
        return self._balancer.pick(candidates, key)

    def watch(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever an endpoint may be available again, until `unwatch`."""
        self._roster.watchers.append(call)

    def unwatch(self, call: Callable[[], None]) -> None:
        """Call it no more."""
        self._roster.watchers.remove(call)

    def has_untried(self, tried: Sequence[Endpoint]) -> bool:
        """Whether an endpoint is available that is not in ``tried``."""
        return any(endpoint not in tried for endpoint in self._roster.available)

    def another(self, headers: Headers, exchange: Exchange, tried: Sequence[Endpoint]) -> Endpoint:
        """Returns the endpoint for a retry: one that was not tried, if there is one."""
        available = self._roster.fresh()
        untried = [endpoint for endpoint in available if endpoint not in tried]
        return self._choose(untried or available, exchange, headers)

    def readdress(self, headers: Headers, old: Endpoint, new: Endpoint) -> Headers:
        """Returns the fields of a request to ``old`` with the Host of ``new``."""
        if self._own_host and old.authority != new.authority:
            host, other = (b"host", old.authority), (b"host", new.authority)
            return [other if pair == host else pair for pair in headers]
        return headers

    def _replace(self, old: Sequence[Endpoint], new: Sequence[Endpoint], slowly: bool) -> None:
        for watcher in (self._prober, self._poller):
            if watcher is not None:
                for endpoint in old:
                    watcher.drop(endpoint)
                for endpoint in new:
                    watcher.watch(endpoint)
        self._roster.replace(old, new, slowly=slowly)

    async def start(self) -> None:
        """Starts probes, load readings and look-ups.

        Waits for the first look-up, so that requests find the addresses.
        """
        for watcher in (self._prober, self._poller):
            if watcher is not None:
                for endpoint in self.endpoints:
                    watcher.watch(endpoint)
        if self._names is not None:
            await self._names.start()

    async def quiesce(self) -> None:
        """Stops what `start` started; requests may continue."""
        if self._names is not None:
            await self._names.aclose()
        for watcher in (self._prober, self._poller):
            if watcher is not None:
                await watcher.aclose()

    async def aclose(self) -> None:
        """Stops what `start` started, and closes the clients of all endpoints."""
        await self.quiesce()
        await self._roster.aclose()


def _balancer(settings: model.Upstream) -> Balancer:
    balance = settings.balance
    if isinstance(balance, Prefix):
        return PrefixHash(balance.prefix.load_factor)
    if isinstance(balance, Hash):
        return BALANCERS["hash"]()
    if balance == "least_load":
        assert settings.load is not None, "checked when the configuration was read"
        return LeastLoad(settings.load.stale)
    return BALANCERS[balance]()


def _poller(name: str, settings: model.Upstream) -> LoadPoller | None:
    """Returns the load poller. It runs whenever ``load`` is configured, even if the load is only displayed."""
    load: Load | None = settings.load
    return None if load is None else LoadPoller(name, load, host=settings.literal_host)
