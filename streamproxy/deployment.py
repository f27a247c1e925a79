"""From configuration to running parts: the routes, the upstreams with their clients, and the files they need.

A `Deployment` is one configuration, compiled. A reload compiles a second one beside the first; an exchange keeps the
parts that it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pathlib
import ssl
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from streamproxy import config as model
from streamproxy.client.base import Client
from streamproxy.client.foreign import ForeignClient
from streamproxy.client.http1 import NativeClient, client_context
from streamproxy.client.httpx import HttpxClient, build_httpx, is_httpx
from streamproxy.errors import StreamproxyError
from streamproxy.exchange.ledger import Ledger
from streamproxy.exchange.timer import FOREVER, Limits
from streamproxy.formats.sse import KeepaliveShape
from streamproxy.observe.series import NO_ROUTE
from streamproxy.observe.tracing import SpanExport, Tracer
from streamproxy.proxy.guard import Guard, GuardedForwarder, build_guard
from streamproxy.proxy.handle import Forwarder, ForwarderSettings, Nowhere
from streamproxy.proxy.relay import RelaySettings
from streamproxy.routing.matcher import Matcher
from streamproxy.routing.route import Route
from streamproxy.upstream import Endpoint, Upstream
from streamproxy.upstream.names import Name, authority_of
from streamproxy.wire.headers import edit


class Deployment:
    """The compiled form of one configuration.

    With a ``previous`` one, upstreams of an unchanged configuration are that one's, with their connections, health and
    counters. Raises StreamproxyError when a file that the configuration names can't be used.
    """

    def __init__(
        self, config: model.Config, ledger: Ledger, *, client: object | None = None, previous: Deployment | None = None
    ) -> None:
        self.config = config
        self._origins = {name: (upstream, _files_of(upstream)) for name, upstream in config.upstreams.items()}
        self._kept = self._unchanged(previous) if previous is not None else {}
        shared = adapt(client) if client is not None else None
        self.upstreams = {
            name: self._kept.get(name) or build_upstream(name, upstream, shared)
            for name, upstream in config.upstreams.items()
        }
        self.spans = self._span_export(previous)
        self.guards: dict[str, Guard] = {}  # of the routes that have one, by their names
        self.routes = [self._route(route, ledger) for route in config.routes]
        limits, trusted, tracer = Limits(write=120.0), config.server.trusted_proxies, build_tracer(config)
        self.nowhere = Nowhere(NO_ROUTE, NO_ROUTE, ledger, limits=limits, trusted=trusted, tracer=tracer)

    def _route(self, route: model.Route, ledger: Ledger) -> Route:
        upstream = self.config.upstreams[route.upstream]
        settings = forwarder_settings(route, upstream, self.config)
        matcher = Matcher(
            route.paths,
            methods=route.methods,
            hosts=route.hosts,
            headers=route.headers,
            preflight=route.cors is not None,
        )
        target, guard = self.upstreams[route.upstream], build_guard(route, LocalFile)
        if guard is None:
            return Route(route.name, matcher, Forwarder(settings, target, ledger).serve)
        self.guards[route.name] = guard
        return Route(route.name, matcher, GuardedForwarder(settings, target, ledger, guard).serve)

    def _span_export(self, previous: Deployment | None) -> SpanExport | None:
        """Where the spans go, None when tracing is off; the previous one's if nothing has changed there."""
        tracing = self.config.tracing
        self._keeps_spans = previous is not None and previous.config.tracing == tracing
        if previous is not None and self._keeps_spans:
            return previous.spans
        return SpanExport(tracing) if tracing is not None else None

    def _unchanged(self, previous: Deployment) -> dict[str, Upstream]:
        return {
            name: previous.upstreams[name]
            for name, origin in self._origins.items()
            if previous._origins.get(name) == origin
        }

    def take_over(self, previous: Deployment) -> None:
        """Go on with the places that another deployment's routes of the same names have given, after a reload."""
        for name, guard in self.guards.items():
            before = previous.guards.get(name)
            if before is not None:
                guard.take_over(before)

    async def start(self) -> None:
        """Begin what runs beside the requests: probes, look-ups of names, the export of spans."""
        if self.spans is not None and not self._keeps_spans:
            await self.spans.start()
        await asyncio.gather(*(upstream.start() for upstream in self._own()))

    def _own(self) -> list[Upstream]:
        """The upstreams that were made for this deployment."""
        return [upstream for name, upstream in self.upstreams.items() if name not in self._kept]

    def dropped(self, successor: Deployment) -> list[Upstream]:
        """The upstreams that a successor does not have any more."""
        return [upstream for name, upstream in self.upstreams.items() if name not in successor._kept]

    async def aclose(self) -> None:
        """Close the upstreams' connections, and send the last spans."""
        await _close(self.upstreams.values())
        if self.spans is not None:
            await self.spans.aclose()

    async def discard(self) -> None:
        """Close what was made for this deployment, which never came into force."""
        await _close(self._own())
        if self.spans is not None and not self._keeps_spans:
            await self.spans.aclose()


async def _close(upstreams: Iterable[Upstream]) -> None:
    for upstream in upstreams:
        with contextlib.suppress(Exception):
            await upstream.aclose()


def _files_of(upstream: model.Upstream) -> tuple[bytes, ...]:
    """Digests of the files that an upstream's clients are made with: one that was replaced makes it another."""
    tls = upstream.tls
    return tuple(LocalFile(path).digest() for path in (tls.ca, tls.cert, tls.key) if path is not None)


class LocalFile:
    """A file of tokens or keys. Links are followed, so that one that is swapped shows."""

    def __init__(self, path: str) -> None:
        self.path = path

    def version(self) -> object:
        """Its number, its size and when it was written. Raises OSError."""
        status = os.stat(self.path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self) -> bytes:
        """Its content. Raises OSError."""
        return pathlib.Path(self.path).read_bytes()

    def digest(self) -> bytes:
        """What tells its content from another. Raises StreamproxyError when it can't be read."""
        try:
            return hashlib.sha256(self.read()).digest()
        except OSError as error:
            raise StreamproxyError(f"{self.path} cannot be read: {error.strerror}") from None


def adapt(client: object) -> Client:
    """A user's own client, made fit for the forwarder."""
    return HttpxClient(client) if is_httpx(client) else ForeignClient(client)


def build_upstream(name: str, upstream: model.Upstream, shared: Client | None) -> Upstream:
    """An upstream with its endpoints; ``shared`` reaches them all if the embedding program brought its own client.

    A client of the program's own looks names up itself, so ``resolve`` is left to it.
    """
    make = _Clients(upstream, shared)
    fixed: list[Endpoint] = []
    names: list[Name] = []
    for one in upstream.endpoints:
        if one.resolve == "each" and shared is None:
            names.append(_name(one, make))
        else:
            fixed.append(_endpoint(one, one.url, make(one.url, one.socket)))
    return Upstream(name, fixed, upstream, names=names)


def _endpoint(endpoint: model.Endpoint, url: str, client: Client) -> Endpoint:
    authority = urlsplit(endpoint.url).netloc.encode()
    return Endpoint(url, client, authority=authority, weight=endpoint.weight)


def _name(endpoint: model.Endpoint, make: _Clients) -> Name:
    """A name whose every address is an endpoint; Host, SNI and the certificate's name stay the name's."""
    parts = urlsplit(endpoint.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def build(address: str) -> Endpoint:
        url = f"{parts.scheme}://{authority_of(address, port)}"
        return _endpoint(endpoint, url, make(url, None, server_name=host))

    return Name(host, port, itself=_endpoint(endpoint, endpoint.url, make(endpoint.url, None)), build=build)


class _Clients:
    """Makes the clients of one upstream's endpoints. Their TLS context is made once: reading the authorities takes
    tens of milliseconds."""

    def __init__(self, upstream: model.Upstream, shared: Client | None) -> None:
        self._upstream = upstream
        self._shared = shared
        self._context: ssl.SSLContext | None = None

    def __call__(self, url: str, socket: str | None, *, server_name: str | None = None) -> Client:
        if self._shared is not None:
            return self._shared
        upstream, connections = self._upstream, self._upstream.connections
        context = self._tls() if url.startswith("https:") else None
        idle_timeout = FOREVER if connections.idle_timeout is None else connections.idle_timeout
        server_name = upstream.tls.server_name or server_name
        if upstream.client == "httpx" or upstream.proxy is not None:
            return build_httpx(
                verify=context,
                server_name=server_name,
                socket=socket,
                proxy=upstream.proxy,
                limits=(connections.max, connections.max_idle, idle_timeout),
            )
        return NativeClient(
            url,
            socket=socket,
            ssl_context=context,
            server_name=server_name,
            max_connections=connections.max,
            max_idle=connections.max_idle,
            idle_timeout=idle_timeout,
        )

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            tls = self._upstream.tls
            try:
                self._context = client_context(ca=tls.ca, cert=tls.cert, key=tls.key, verify=tls.verify)
            except OSError as error:  # SSLError is one
                raise StreamproxyError(f"the files of an upstream's tls cannot be used: {error}") from None
        return self._context


def build_tracer(config: model.Config) -> Tracer | None:
    """What decides which exchanges are recorded as spans; None when tracing is off."""
    return Tracer(config.tracing.sample_ratio) if config.tracing is not None else None


def forwarder_settings(route: model.Route, upstream: model.Upstream, config: model.Config) -> ForwarderSettings:
    """What one route does to a request, from the configuration."""
    timeouts, keepalive = route.timeouts, route.keepalive
    seconds: Callable[[float | None], float] = lambda value: FOREVER if value is None else value  # noqa: E731
    limits = Limits(
        request=seconds(timeouts.request),
        first_byte=seconds(timeouts.first_byte),
        idle=seconds(timeouts.idle),
        write=seconds(timeouts.write),
        total=seconds(timeouts.total),
        keepalive=keepalive.interval if keepalive is not None else FOREVER,
    )
    connect = timeouts.connect
    return ForwarderSettings(
        name=route.name,
        host=upstream.literal_host,
        preserve_host=upstream.host == "preserve",
        strip_prefix=(route.rewrite.strip_prefix or "").encode(),
        add_prefix=(route.rewrite.add_prefix or "").encode(),
        limits=limits,
        extensions={"timeout": {"connect": connect, "pool": connect, "read": None, "write": None}},
        buffer=route.buffer,
        max_request_body=route.limits.max_request_body,
        compression=route.compression,
        carry_on=route.on_disconnect == "continue",
        request_edit=edit(route.request_headers.set, route.request_headers.add, route.request_headers.remove),
        response_edit=edit(route.response_headers.set, route.response_headers.add, route.response_headers.remove),
        relay=RelaySettings(
            keepalive=KeepaliveShape(keepalive.comment, keepalive.shape) if keepalive is not None else None,
            anti_buffering=route.anti_buffering,
            error_event=route.on_truncation == "error_event",
        ),
        retry=route.retry if route.retry.attempts > 1 else None,
        trusted=config.server.trusted_proxies,
        tracer=build_tracer(config),
    )
