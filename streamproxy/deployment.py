"""Builds the running parts of a configuration: the routes, their origins, the upstreams, and their files.

A `Deployment` is a compiled configuration. A reload compiles a second one beside the first, and an exchange keeps the
parts it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pathlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from streamproxy.auth import KeySets, build_authenticator
from streamproxy.client.build import adapt
from streamproxy.config import model
from streamproxy.dialects.http import HTTP
from streamproxy.dialects.protocols import DIALECTS
from streamproxy.errors import StreamproxyError
from streamproxy.exchange.ledger import Ledger
from streamproxy.exchange.tally import Tally
from streamproxy.exchange.timer import TimeLimits
from streamproxy.observe.series import NO_ROUTE
from streamproxy.observe.tracing import SpanExport, Tracer
from streamproxy.origins.attempts import Fallback, RetryingOrigin
from streamproxy.origins.available import AvailableOrigin
from streamproxy.origins.base import Origin
from streamproxy.origins.mirror import MirrorOrigin
from streamproxy.origins.not_found import NotFound
from streamproxy.origins.reconnect import ReconnectOrigin, ReconnectPlan
from streamproxy.origins.redis import EventsOrigin
from streamproxy.origins.resume import ResumeOrigin
from streamproxy.origins.share import ShareOrigin
from streamproxy.origins.shares import SharesOrigin, WeightedOrigin
from streamproxy.origins.upstream import UpstreamOrigin
from streamproxy.plans import (
    cors_rules,
    early_plan,
    events_plan,
    gate_plan,
    header_edit,
    relay_plan,
    request_plan,
    resume_plan,
    share_plan,
    time_limits,
    tunnel_plan,
)
from streamproxy.proxy.admission import Admission, client_key, priority_of
from streamproxy.proxy.choose import Candidate, ModelChooser, Models
from streamproxy.proxy.handle import Handler
from streamproxy.proxy.peek import PeekPlan
from streamproxy.proxy.plan import RoutePlan
from streamproxy.proxy.quota import Quota, build_quota
from streamproxy.proxy.tunnel import TunnelPlan
from streamproxy.routing.matcher import Matcher
from streamproxy.routing.route import Route
from streamproxy.store.build import Limiters, Sources, Stores
from streamproxy.upstream import Upstream
from streamproxy.upstream.build import build_upstream
from streamproxy.upstream.sessions import SessionTable
from streamproxy.wire.times import FOREVER

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_WRITE: Final = 120.0  # seconds for a client to accept a response that belongs to no route


class Deployment:
    """A compiled configuration.

    Upstreams whose configuration is unchanged are taken from ``previous``, with their connections, health and counters.
    Raises StreamproxyError if a file of the configuration cannot be used.
    """

    def __init__(
        self,
        config: model.Config,
        ledger: Ledger,
        *,
        client: object | None = None,
        sessions: SessionTable,
        previous: Deployment | None = None,
    ) -> None:
        self.config = config
        self.sessions = sessions  # passed on from one deployment to the next
        self._sources = {name: (upstream, _files_of(upstream)) for name, upstream in config.upstreams.items()}
        self._kept = self._unchanged(previous) if previous is not None else {}
        shared = adapt(client) if client is not None else None
        self.upstreams = {
            name: self._kept.get(name) or build_upstream(name, upstream, shared, sessions)
            for name, upstream in config.upstreams.items()
            if upstream.redis is None
        }
        self.spans = self._span_export(previous)
        self._tracer = build_tracer(config)
        self._ledger = ledger
        self._tallies = ledger.tallies
        store_errors = ledger.tallies.of("store_errors", "resume")
        self.stores: Stores = previous.stores if previous is not None else Stores(store_errors.add)
        limit_errors = ledger.tallies.of("store_errors", "limits")
        self.limiters: Limiters = previous.limiters if previous is not None else Limiters(limit_errors.add)
        event_errors = ledger.tallies.of("store_errors", "events")
        self.sources: Sources = previous.sources if previous is not None else Sources(event_errors.add)
        key_errors = ledger.tallies.of("store_errors", "keys")
        self.key_sets: KeySets = KeySets(key_errors.add, previous.key_sets if previous is not None else None)
        self.shared_clients: Counter[str] = previous.shared_clients if previous is not None else _shared_clients(ledger)
        self.admissions: dict[str, Admission] = {}  # of the routes with limits, by route name
        self.models = frozenset(_model_names(config))  # those that may be used as labels
        self.candidates: list[tuple[ModelChooser | None, Candidate]] = []  # the routes, in order
        self.quotas: dict[str, Quota] = {}  # as the admissions
        self._keeping: dict[str, ResumeOrigin] = {}  # of the routes with resume, by route name
        self.routes = [self._route(route) for route in config.routes]
        for number, (chooser, _) in enumerate(self.candidates):
            if chooser is not None:
                chooser.choose_among([candidate for _, candidate in self.candidates[number:]])
        self.not_found = Handler(self._no_route(), ledger)

    def _route(self, route: model.Route) -> Route:
        matcher = Matcher(
            route.paths,
            methods=route.methods,
            hosts=route.hosts,
            headers=route.headers,
            preflight=route.cors is not None,
            cursors=route.resume is not None,
        )
        plan = self._plan(route)
        if plan.quota is not None:
            self.quotas[route.name] = plan.quota
        if plan.admission is not None:
            self.admissions[route.name] = plan.admission
        chooser = ModelChooser() if route.models else None
        compiled = Route(route.name, matcher, Handler(plan, self._ledger, chooser).handle)
        models = Models(route.models) if route.models else None
        candidate = Candidate(compiled, plan, models, route.limits.inspect_body, self._keeping.get(route.name))
        self.candidates.append((chooser, candidate))
        return compiled

    def _plan(self, route: model.Route) -> RoutePlan:
        limits, tallies = route.limits, self._tallies
        limited = limits.max_streams is not None or limits.max_streams_per_client is not None
        return RoutePlan(
            name=route.name,
            upstream=route.shares[0].name,
            origin=self._origin(route),
            dialect=DIALECTS[route.protocol],
            limits=time_limits(route),
            trusted=self.config.server.trusted_proxies,
            tracer=self._tracer,
            cors=cors_rules(route),
            auth=build_authenticator(route.auth, LocalFile, self.key_sets) if route.auth is not None else None,
            admission=Admission(limits) if limited else None,
            client_key=client_key(limits.client_key),
            priority=priority_of(limits.priority),
            quota=build_quota(route.name, limits, tallies, self.limiters),
            max_request_body=limits.max_request_body,
            buffer=route.buffer,
            continue_on_disconnect=route.on_disconnect == "continue",
            response_edit=header_edit(route.response_headers),
            relay=relay_plan(route, tallies),
            tunnel=tunnel_plan(route, tallies),
            allow=", ".join(route.methods or _METHODS).encode(),
            peek=self._peek(route),
            early=early_plan(route),
        )

    def _peek(self, route: model.Route) -> PeekPlan | None:
        """Returns what must be known of the bodies of a route's requests, or None."""
        members = any(self.config.upstreams[name].models for name in route.upstreams) or route.usage is not None
        early = route.keepalive is not None and route.keepalive.before_headers is not None
        if members or (route.protocol != "http" and (route.compression == "auto" or early)):
            return PeekPlan(route.limits.inspect_body, members, always=early)
        return None

    def _origin(self, route: model.Route) -> Origin:
        """Returns the origin of a route's responses."""
        redis = self.config.upstreams[route.shares[0].name].redis
        if redis is not None:
            return EventsOrigin(events_plan(route, redis), self.sources.of(redis))
        shares = [
            WeightedOrigin(share.name, share.weight, self._attempting(route, share.name)) for share in route.shares
        ]
        origin: Origin = shares[0].origin if len(shares) == 1 else SharesOrigin(shares)
        if route.reconnect is not None:
            again = route.reconnect
            origin = ReconnectOrigin(ReconnectPlan(again.attempts, again.backoff, "end" in again.on), origin)
        if route.mirror is not None:
            handler = Handler(self._mirror_plan(route, route.mirror), self._ledger)
            origin = MirrorOrigin(origin, handler.handle, route.mirror.percent, route.retry.buffer)
        if route.resume is not None:
            plan, store = resume_plan(route, route.resume, self._tallies), self.stores.streams(route.name, route.resume)
            origin = self._keeping[route.name] = ResumeOrigin(plan, store, origin)
        if route.share is not None:
            origin = ShareOrigin(share_plan(route, route.share, self.shared_clients), origin)
        return origin

    def _attempting(self, route: model.Route, name: str) -> Origin:
        """Returns the origin for an upstream, with the retries and the fallbacks of a route."""
        retry, first = route.retry, self.upstream_origin(route, name)
        gate = gate_plan(route, self._tallies)
        patience, upstream = route.timeouts.available, self.upstreams[name]
        origin: Origin = first
        if retry.attempts > 1 or route.fallback or gate is not None:
            fallbacks = [
                Fallback(other, self.upstream_origin(route, other), self._tallies.of("fallbacks", route.name, other))
                for other in route.fallback
                if other != name
            ]
            origin = RetryingOrigin(first, retry, fallbacks, gate)
        return origin if patience is None else AvailableOrigin(origin, upstream, patience, retry.buffer)

    def upstream_origin(self, route: model.Route, name: str) -> UpstreamOrigin:
        """Returns the origin that sends the requests of a route to one of its upstreams."""
        plan = request_plan(route, self.config.upstreams[name])
        return UpstreamOrigin(plan, self.upstreams[name], traced=self._tracer is not None)

    def _mirror_plan(self, route: model.Route, mirror: model.Mirror) -> RoutePlan:
        """Returns the plan for the copies of a route's requests, which were already admitted and have no client."""
        renames = bool(self.config.upstreams[mirror.upstream].models)
        return RoutePlan(
            name=route.mirror_name,
            upstream=mirror.upstream,
            origin=self.upstream_origin(route, mirror.upstream),
            dialect=DIALECTS[route.protocol],
            limits=replace(time_limits(route), keepalive=FOREVER, early=FOREVER),
            trusted=self.config.server.trusted_proxies,
            tracer=self._tracer,
            client_key=client_key("client_ip"),
            buffer=route.buffer,
            peek=PeekPlan(route.limits.inspect_body, members=True) if renames else None,
        )

    def _no_route(self) -> RoutePlan:
        return RoutePlan(
            name=NO_ROUTE,
            upstream=NO_ROUTE,
            origin=NotFound(),
            dialect=HTTP,
            limits=TimeLimits(write=_WRITE),
            trusted=self.config.server.trusted_proxies,
            tracer=self._tracer,
            client_key=client_key("client_ip"),
            tunnel=TunnelPlan(None, 0, False, Tally(), Tally()),  # a handshake gets the same headers as any request
        )

    def _span_export(self, previous: Deployment | None) -> SpanExport | None:
        """Returns the export of spans, or None if tracing is off; the previous one if its settings are unchanged."""
        tracing = self.config.tracing
        self._keeps_spans = previous is not None and previous.config.tracing == tracing
        if previous is not None and self._keeps_spans:
            return previous.spans
        return SpanExport(tracing) if tracing is not None else None

    def _unchanged(self, previous: Deployment) -> dict[str, Upstream]:
        return {
            name: previous.upstreams[name]
            for name, source in self._sources.items()
            if name in previous.upstreams and previous._sources.get(name) == source
        }

    def take_over(self, previous: Deployment) -> None:
        """Continues after a reload with the places and quotas in use by routes of the same names."""
        for name, quota in self.quotas.items():
            used = previous.quotas.get(name)
            if used is not None:
                quota.take_over(used)
        for name, admission in self.admissions.items():
            before = previous.admissions.get(name)
            if before is not None:
                admission.take_over(before)

    async def start(self) -> None:
        """Starts background work: health checks, look-ups of names, the export of spans."""
        if self.spans is not None and not self._keeps_spans:
            await self.spans.start()
        self.sources.start()
        await asyncio.gather(
            self.stores.start(),
            self.limiters.start(),
            self.key_sets.start(),
            *(upstream.start() for upstream in self._own()),
        )

    def _own(self) -> list[Upstream]:
        """Returns the upstreams that were created for this deployment."""
        return [upstream for name, upstream in self.upstreams.items() if name not in self._kept]

    def dropped(self, successor: Deployment) -> list[Upstream]:
        """Returns the upstreams that a successor no longer has."""
        return [upstream for name, upstream in self.upstreams.items() if name not in successor._kept]

    async def close_unused(self) -> None:
        """Close the stores and the connections to Redis that only an earlier configuration used."""
        for shared in (self.stores, self.limiters, self.sources):
            await shared.close_unused(self.config)

    async def aclose(self) -> None:
        """Closes the upstreams' connections, and sends the last spans."""
        for quota in self.quotas.values():
            quota.close()
        await self.limiters.aclose()
        await self.stores.aclose()
        await self.sources.aclose()
        await self.key_sets.retire()
        await _close(self.upstreams.values())
        if self.spans is not None:
            await self.spans.aclose()

    async def discard(self) -> None:
        """Closes everything created for this deployment, which never came into force."""
        await _close(self._own())
        await self.key_sets.discard()
        if self.spans is not None and not self._keeps_spans:
            await self.spans.aclose()


async def _close(upstreams: Iterable[Upstream]) -> None:
    for upstream in upstreams:
        with contextlib.suppress(Exception):
            await upstream.aclose()


def _files_of(upstream: model.Upstream) -> tuple[bytes, ...]:
    """Returns digests of the files used by an upstream's clients; a replaced file changes the upstream."""
    tls = upstream.tls
    return tuple(LocalFile(path).digest() for path in (tls.ca, tls.cert, tls.key) if path is not None)


class LocalFile:
    """A file of tokens or keys. Links are followed, so that a replaced link is noticed."""

    def __init__(self, path: str) -> None:
        self.path = path

    def version(self) -> object:
        """Returns the file's number, size and modification time. Raises OSError."""
        status = os.stat(self.path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self) -> bytes:
        """Returns the content. Raises OSError."""
        return pathlib.Path(self.path).read_bytes()

    def digest(self) -> bytes:
        """Returns a digest of the content. Raises StreamproxyError if it cannot be read."""
        try:
            return hashlib.sha256(self.read()).digest()
        except OSError as error:
            raise StreamproxyError(f"{self.path} cannot be read: {error.strerror}") from None


def build_tracer(config: model.Config) -> Tracer | None:
    """Returns the tracer, which decides which exchanges are recorded as spans; None if tracing is off."""
    return Tracer(config.tracing.sample_ratio) if config.tracing is not None else None


def _model_names(config: model.Config) -> Iterable[str]:
    for route in config.routes:
        yield from (name for name in route.models if not name.endswith("*"))
    for upstream in config.upstreams.values():
        yield from upstream.models
        yield from upstream.models.values()


def _shared_clients(ledger: Ledger) -> Counter[str]:
    """Returns the numbers of clients that read a shared stream, by route; the gauge continues after a reload."""
    clients: Counter[str] = Counter()
    ledger.tallies.levels.append(lambda: [(("shared_clients", route), float(n)) for route, n in clients.items()])
    return clients
