"""Creates the engines of a process from its configuration, and the event loop that runs them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from streamproxy.app import Application
from streamproxy.config.model import Config
from streamproxy.server.alpn import ProtocolFactory
from streamproxy.server.engines import Engine, EngineSettings, UvicornEngine, hypercorn_engine
from streamproxy.server.http2.limits import Http2Limits
from streamproxy.server.http2.protocol import http2_protocol
from streamproxy.server.tls import ListenerTls
from streamproxy.wire.forwarded import is_trusted
from streamproxy.wire.times import LONGEST_TIMER

ADMIN_CONNECTIONS = 1000


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns the factory of the event loop: uvloop's if it is installed, otherwise None for the standard loop."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def engine_settings(config: Config, rejected: Callable[[int, str], None]) -> EngineSettings:
    """Returns the settings for connections; ``rejected`` is called with the status and the reason of a refusal."""
    server = config.server
    return EngineSettings(
        max_header_size=server.max_header_size,
        head_timeout=LONGEST_TIMER if server.head_timeout is None else server.head_timeout,
        keepalive_timeout=LONGEST_TIMER if server.keepalive_timeout is None else server.keepalive_timeout,
        max_connections=server.max_connections,
        on_rejected=rejected,
    )


def main_engine(
    config: Config,
    app: Application,
    listeners: list[socket.socket],
    tls: ListenerTls | None,
    *,
    max_connections: int | None = None,
) -> Engine:
    """Returns the configured engine for the main listener; ``max_connections`` overrides the configured number."""
    server = config.server
    settings = engine_settings(config, app.rejected)._replace(
        tls=tls.front if tls is not None else None,
        http2=http2_factory(config, app) if server.serves_http2 else None,
        proxy_protocol=server.proxy_protocol,
    )
    if tls is not None:
        tls.front.on_rejected = app.rejected
    if max_connections is not None:
        settings = settings._replace(max_connections=max_connections)
    app.metrics.engine = config.server.engine
    if config.server.engine == "hypercorn":
        return hypercorn_engine(app, listeners, settings)
    return UvicornEngine(app.entry(), listeners, settings)


def http2_factory(config: Config, app: Application) -> ProtocolFactory:
    """Returns the factory of the protocol of HTTP/2 connections."""
    settings = engine_settings(config, app.rejected)

    def is_proxy(address: str) -> bool:
        return is_trusted(address, app.in_force.server.trusted_proxies)

    limits = Http2Limits(
        max_header_size=settings.max_header_size,
        head_timeout=settings.head_timeout,
        on_rejected=settings.on_rejected,
        is_trusted=is_proxy,
    )
    factory: ProtocolFactory = http2_protocol(limits)
    return factory


def admin_engine(
    config: Config, admin: ASGIApp, listeners: list[socket.socket], rejected: Callable[[int, str], None]
) -> Engine:
    """Returns the engine of the admin listener, which has its own limit so that it responds if the main one is full."""
    settings = engine_settings(config, rejected)._replace(max_connections=ADMIN_CONNECTIONS)
    return UvicornEngine(admin, listeners, settings, lifespan=False)
