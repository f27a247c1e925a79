"""The proxy as a Starlette application: its start, its end and its reloads.

`Application` holds everything that outlives a request: the ledger of live exchanges, the metrics, the deployment in
force, and the admin application. A reload (`Application.adopt`) compiles a second deployment beside the first, and then
swaps them in one iteration of the loop.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy import config as configuration
from streamproxy.admin.app import create_admin
from streamproxy.auth import examine
from streamproxy.config import Config
from streamproxy.control import Control
from streamproxy.deployment import Deployment, LocalFile
from streamproxy.exchange.ledger import Observer
from streamproxy.exchange.target import plain, target_of
from streamproxy.observe.ended import Ended
from streamproxy.observe.log import flush
from streamproxy.observe.metrics import Metrics
from streamproxy.proxy.messages import relay_messages
from streamproxy.routing.route import ProxyRouter
from streamproxy.store.base import StopResult
from streamproxy.store.leftovers import Leftovers
from streamproxy.upstream.retired import Retired
from streamproxy.upstream.sessions import SessionTable
from streamproxy.wire.headers import lower_name


class Application(Control, Starlette):
    """The proxy as an ASGI application, and as the `Control` of a proxy of one process.

    ``admin`` is the application of the admin listener.
    """

    ended: Ended

    def __init__(self, config: Config, *, client: Any = None, sessions: SessionTable | None = None) -> None:
        Control.__init__(self)
        self._client = client
        sessions = sessions or SessionTable()
        self._retired = Retired(self.ledger)
        self._leftovers = Leftovers(self.ledger, lambda: self.deployment.close_unused())
        self.deployment = Deployment(config, self.ledger, client=client, sessions=sessions)
        self.deployment.stores.elsewhere = super().stop_kept  # later deployments have the same stores
        self.metrics = Metrics(self.ledger, lambda: self.deployment.upstreams.values())
        self.metrics.declare((pair for route in config.routes for pair in route.pairs), self.deployment.models)
        self.ended = Ended()
        self.ledger.observers += [self.metrics.observe, self.ended.observe]
        self._spans: Observer | None = None
        self._configure_log()
        self._configure_spans()
        self.admin = create_admin(self)
        Starlette.__init__(self)
        self.router = ProxyRouter(self._routes(), redirect_slashes=False, default=self._default, lifespan=_lifespan)
        self.router.application = self

    def _configure_spans(self) -> None:
        spans = self.deployment.spans
        self._spans = self._observe_with(None if spans is None else spans.observe, self._spans)

    async def adopt(self, config: Config) -> None:
        """Puts another configuration into force for new requests. Running ones keep the one they began with.

        Raises StreamproxyError if one of its files cannot be used; nothing has changed then.
        """
        await self.commit(await self.prepare(config))

    async def prepare(self, config: Config) -> Deployment:
        """Compiles and starts another configuration. The caller passes it to `commit`, or calls its ``discard``.

        No other configuration may come into force meanwhile. Raises StreamproxyError as `adopt`.
        """
        old = self.deployment
        new = Deployment(config, self.ledger, client=self._client, sessions=old.sessions, previous=old)
        try:
            await new.start()
        except BaseException:
            await new.discard()
            raise
        return new

    async def commit(self, new: Deployment) -> None:
        """Puts a prepared configuration into force before the first await."""
        old, config = self.deployment, new.config
        # No await from here on, so that every request sees a single configuration.
        new.take_over(old)
        self.deployment = new
        self.router.routes = self._routes()
        self.metrics.declare((pair for route in config.routes for pair in route.pairs), self.deployment.models)
        self._configure_log()
        self._configure_spans()
        self._retired.add(old.dropped(new))
        self._leftovers.reloaded()
        await old.key_sets.retire(new.key_sets)
        if old.spans is not None and old.spans is not new.spans:
            await old.spans.aclose()

    def _routes(self) -> list[BaseRoute]:
        prefix = self.deployment.config.admin.mount
        mounted: list[BaseRoute] = [Mount(prefix, app=self.admin)] if prefix else []
        return mounted + list(self.deployment.routes)

    def build_middleware_stack(self) -> ASGIApp:
        """Returns the stack with only the middleware that an embedding program added.

        Starlette's two default middlewares wrap every send, which slows down every chunk, and errors are already
        handled.
        """
        app: ASGIApp = self.router.__call__  # a method is called faster than an object
        for middleware, args, kwargs in reversed(self.user_middleware):
            app = middleware(app, *args, **kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            # ASGI allows any iterable of pairs; compiled code accepts only a list of tuples. It wants names in lower
            # case, but where a server or middleware forgets that, no rule would know Content-Length or X-Forwarded-For.
            scope["headers"] = [(lower_name(name), value) for name, value in scope["headers"]]
        await super().__call__(scope, receive, send)

    def entry(self) -> ASGIApp:
        """Returns what a server calls instead of the application, if it sends headers as a list of tuples.

        Calling the application adds a coroutine, which slows down every chunk. Middleware can't be added afterwards.
        """
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        return self._served if self.user_middleware else self.middleware_stack

    def _served(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        scope["app"] = self
        assert self.middleware_stack is not None
        served: Any = self.middleware_stack(scope, receive, send)  # a coroutine, of any application
        return served  # type: ignore[no-any-return]

    async def _default(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await relay_messages(self.router, scope, receive, send)
        else:
            request = plain(scope)
            await self.deployment.not_found.handle(target_of(request), request, receive, send)

    async def aclose(self) -> None:
        """Ends the live view of the admin application, and closes the connections to all upstreams.

        Connections of upstreams that a reload removed are closed too.
        """
        await self.admin.aclose()
        await self._retired.aclose()
        await self._leftovers.aclose()
        await self.deployment.aclose()
        flush()

    def rejected(self, status: int, reason: str) -> None:
        """Counts a request that was refused before it became an exchange."""
        self.metrics.rejected(status)

    @property
    def in_force(self) -> Config:
        """The configuration for new requests."""
        return self.deployment.config

    async def _refresh(self, *, streams: bool) -> None:
        """Does nothing, because the exchanges belong to this process."""

    async def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        """Ends a resumable stream that this process or a predecessor keeps in memory; see `StopElsewhere`."""
        result = self.deployment.stores.stop_kept(stream, owner)
        return await super().stop_kept(stream, owner) if result == "unknown" else result

    def _not_serving(self) -> list[str]:
        return [
            f"upstream {upstream.name} has no endpoint"
            for upstream in self.deployment.upstreams.values()
            if not any(endpoint.up for endpoint in upstream.endpoints)
        ]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    assert isinstance(app, Application)
    await app.deployment.start()
    try:
        yield
    finally:
        await app.aclose()


def create_app(config: Config, *, client: Any = None, sessions: SessionTable | None = None) -> Application:
    """Creates the proxy for ``config`` as a Starlette application, for any ASGI server.

    ``client`` is used for every upstream instead of the built-in clients: an ``httpx.AsyncClient``, or any object with
    httpx's ``stream()`` and ``aiter_raw()``. The caller closes it. ``sessions`` stores sticky sessions if other
    processes share them.
    """
    return Application(config, client=client, sessions=sessions)


def load_config(path: str | Path) -> Config:
    """Loads a configuration file, with ``${NAME}`` from the environment.

    Raises ConfigError, which contains every problem of the file with its position.
    """
    return configuration.load_config(path, os.environ, examine=partial(examine, open_file=LocalFile))
