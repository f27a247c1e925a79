"""From configuration to running parts: the routes, the upstreams with their clients, and the files they need.

A `Deployment` is one configuration, compiled. A reload compiles a second one beside the first; an exchange keeps the
parts that it began with.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from streamproxy import config as model
from streamproxy.client.base import Client
from streamproxy.client.foreign import ForeignClient
from streamproxy.client.httpx import HttpxClient, build_httpx, is_httpx
from streamproxy.client.native import NativeClient, client_context
from streamproxy.exchange import Ledger
from streamproxy.proxy import Forwarder, ForwarderSettings, Nowhere
from streamproxy.relay import RelaySettings
from streamproxy.routing import Matcher, Route
from streamproxy.upstream import Endpoint, Upstream
from streamproxy.watch import FOREVER, Limits
from streamproxy.wire.headers import edit
from streamproxy.wire.sse import KeepaliveShape

NO_ROUTE = "-"


class Deployment:
    """The compiled form of one configuration."""

    def __init__(self, config: model.Config, ledger: Ledger, *, client: object | None = None) -> None:
        self.config = config
        shared = adapt(client) if client is not None else None
        self.upstreams = {
            name: Upstream(name, [build_endpoint(endpoint, upstream, shared) for endpoint in upstream.endpoints])
            for name, upstream in config.upstreams.items()
        }
        self.routes = [self._route(route, ledger) for route in config.routes]
        limits = Limits(write=120.0)
        self.nowhere = Nowhere(NO_ROUTE, NO_ROUTE, ledger, limits=limits, trusted=config.server.trusted_proxies)

    def _route(self, route: model.Route, ledger: Ledger) -> Route:
        upstream = self.config.upstreams[route.upstream]
        settings = forwarder_settings(route, upstream, self.config)
        matcher = Matcher(route.paths, methods=route.methods, hosts=route.hosts, headers=route.headers)
        return Route(route.name, matcher, Forwarder(settings, self.upstreams[route.upstream], ledger))

    async def aclose(self) -> None:
        """Close the upstreams' connections."""
        for upstream in self.upstreams.values():
            with contextlib.suppress(Exception):
                await upstream.aclose()


def adapt(client: object) -> Client:
    """A user's own client, made fit for the forwarder."""
    return HttpxClient(client) if is_httpx(client) else ForeignClient(client)


def build_endpoint(endpoint: model.Endpoint, upstream: model.Upstream, shared: Client | None) -> Endpoint:
    """One endpoint with the client that reaches it: ``shared`` if the embedding program brought its own."""
    authority = urlsplit(endpoint.url).netloc.encode()
    return Endpoint(endpoint.url, shared or _build_client(endpoint, upstream), authority=authority)


def _build_client(endpoint: model.Endpoint, upstream: model.Upstream) -> Client:
    tls, connections = upstream.tls, upstream.connections
    context: ssl.SSLContext | None = None
    if endpoint.url.startswith("https:"):
        context = client_context(ca=tls.ca, cert=tls.cert, key=tls.key, verify=tls.verify)
    idle_timeout = FOREVER if connections.idle_timeout is None else connections.idle_timeout
    if upstream.client == "httpx" or upstream.proxy is not None:
        return build_httpx(
            verify=context,
            server_name=tls.server_name,
            socket=endpoint.socket,
            proxy=upstream.proxy,
            limits=(connections.max, connections.max_idle, idle_timeout),
        )
    return NativeClient(
        endpoint.url,
        socket=endpoint.socket,
        ssl_context=context,
        server_name=tls.server_name,
        max_connections=connections.max,
        max_idle=connections.max_idle,
        idle_timeout=idle_timeout,
    )


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
        host=None if upstream.host in ("upstream", "preserve") else upstream.host.encode(),
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
        trusted=config.server.trusted_proxies,
    )
