"""The composition root: a configuration becomes a Starlette application.

`Application` holds what outlives a request: the ledger of live exchanges, the metrics, the deployment in force, and
the admin application beside it. A reload (`Application.adopt`) compiles a second deployment beside the first and then
swaps them in one turn of the loop.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy import config as configuration
from streamproxy.admin.app import Reloaded, create_admin
from streamproxy.admin.ended import Ended
from streamproxy.admin.visitors import known_hosts
from streamproxy.auth import examine
from streamproxy.config import Config
from streamproxy.deployment import Deployment, LocalFile
from streamproxy.exchange.ledger import Ledger, Observer
from streamproxy.exchange.target import target_of
from streamproxy.observe.log import configure, flush
from streamproxy.observe.metrics import Metrics
from streamproxy.routing.route import ProxyRouter
from streamproxy.upstream.retired import Retired
from streamproxy.wire.hosts import Hosts


class Application(Starlette):
    """The proxy as an ASGI application.

    ``draining`` is set while the process is about to end; ``admin`` is the application of the admin listener.
    ``reloader`` reads the configuration again, where somebody has put it here; ``reload_problems`` is what was wrong
    with it the last time.
    """

    def __init__(self, config: Config, *, client: Any = None) -> None:
        self.ledger = Ledger()
        self.draining = False
        self.reloader: Callable[[], Awaitable[Reloaded]] | None = None
        self.reload_problems: tuple[str, ...] = ()
        self._client = client
        self._retired = Retired(self.ledger)
        self.deployment = Deployment(config, self.ledger, client=client)
        self.metrics = Metrics(self.ledger, lambda: self.deployment.upstreams.values())
        self.metrics.declare((route.name, route.upstream) for route in config.routes)
        self.ledger.observers.append(self.metrics.observe)
        self._access: Observer | None = None
        self._spans: Observer | None = None
        self._configure_log()
        self._configure_spans()
        self.ended = Ended()
        self.ledger.observers.append(self.ended.observe)
        self.admin = create_admin(self, self.ended)
        super().__init__()
        self.router = ProxyRouter(self._routes(), redirect_slashes=False, default=self._default, lifespan=_lifespan)

    def _configure_log(self) -> None:
        log = self.deployment.config.log
        access = configure(log.level, log.format, log.access)
        others = [observer for observer in self.ledger.observers if observer is not self._access]
        self._access = None if access is None else access.observe
        self.ledger.observers = others if self._access is None else [*others, self._access]

    def _configure_spans(self) -> None:
        spans = self.deployment.spans
        others = [observer for observer in self.ledger.observers if observer is not self._spans]
        self._spans = None if spans is None else spans.observe
        self.ledger.observers = others if self._spans is None else [*others, self._spans]

    async def adopt(self, config: Config) -> None:
        """Put another configuration into force for new requests; those that run keep what they began with.

        Raises StreamproxyError when a file that it names can't be used; nothing has changed then.
        """
        await self.commit(await self.prepare(config))

    async def prepare(self, config: Config) -> Deployment:
        """Make another configuration ready, for `commit`, or for its own ``discard``. Nothing else may come into force
        meanwhile. Raises StreamproxyError as `adopt`."""
        new = Deployment(config, self.ledger, client=self._client, previous=self.deployment)
        try:
            await new.start()
        except BaseException:
            await new.discard()
            raise
        return new

    async def commit(self, new: Deployment) -> None:
        """Put into force what was prepared; that happens before the first await."""
        old, config = self.deployment, new.config
        # From here on without an await: a request sees all of one configuration.
        new.take_over(old)
        self.deployment = new
        self.router.routes = self._routes()
        self.metrics.declare((route.name, route.upstream) for route in config.routes)
        self._configure_log()
        self._configure_spans()
        self._retired.add(old.dropped(new))
        if old.spans is not None and old.spans is not new.spans:
            await old.spans.aclose()

    def _routes(self) -> list[BaseRoute]:
        prefix = self.deployment.config.admin.mount
        mounted: list[BaseRoute] = [Mount(prefix, app=self.admin)] if prefix else []
        return mounted + list(self.deployment.routes)

    def build_middleware_stack(self) -> ASGIApp:
        """Only the middleware that an embedding program added: Starlette's own two wrap every send, which costs each
        chunk of every stream, and errors are answered in one place already."""
        app: ASGIApp = self.router
        for middleware, args, kwargs in reversed(self.user_middleware):
            app = middleware(app, *args, **kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # ASGI leaves open what the pairs are in, and what a pair is; compiled code takes these only.
            scope["headers"] = [(name, value) for name, value in scope["headers"]]
        await super().__call__(scope, receive, send)

    def serve(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """What a call of the application does, without a coroutine of its own around it, which would cost a request
        900 instructions and a chunk 250: for a server that is told that this is ASGI 3."""
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        return cast("Coroutine[Any, Any, None]", self.middleware_stack(scope, receive, send))

    async def _default(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self.deployment.not_found.handle(target_of(scope), scope, receive, send)

    async def aclose(self) -> None:
        """End the admin application's live view, and close the connections to all upstreams, those that a reload has
        dropped among them."""
        await self.admin.aclose()
        await self._retired.aclose()
        await self.deployment.aclose()
        flush()

    def rejected(self, status: int, reason: str) -> None:
        """Count a request that was refused before it became an exchange."""
        self.metrics.rejected(status)

    async def refresh(self, *, streams: bool) -> None:
        """Everything is known here at any time."""

    def ready(self) -> list[str]:
        """Why the proxy is not ready; empty when it is."""
        reasons = ["draining"] if self.draining else []
        return reasons + [
            f"upstream {upstream.name} has no endpoint"
            for upstream in self.deployment.upstreams.values()
            if not any(endpoint.up for endpoint in upstream.endpoints)
        ]

    async def reload(self) -> Reloaded | None:
        """Read the configuration again and put it into force; None where there is nothing to read it from."""
        return None if self.reloader is None else await self.reloader()

    @property
    def in_force(self) -> Config:
        """The configuration that new requests see."""
        return self.deployment.config

    @property
    def hosts(self) -> Hosts:
        """The names by which the admin application may be asked."""
        return known_hosts(self.in_force)

    def config(self) -> dict[str, Any]:
        """The configuration in force, secrets hidden."""
        return self.deployment.config.redacted()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    assert isinstance(app, Application)
    await app.deployment.start()
    try:
        yield
    finally:
        await app.aclose()


def create_app(config: Config, *, client: Any = None) -> Application:
    """The proxy for ``config`` as a Starlette application, for any ASGI server.

    ``client`` is used for every upstream instead of the built-in ones: an ``httpx.AsyncClient``, or anything with
    httpx's ``stream()`` and ``aiter_raw()``. It stays the caller's to close.
    """
    return Application(config, client=client)


def load_config(path: str | Path) -> Config:
    """The configuration in a file, with ``${NAME}`` taken from the environment.

    Raises ConfigError, which carries every problem of the file with its position.
    """
    return configuration.load_config(path, os.environ, examine=partial(examine, open_file=LocalFile))
