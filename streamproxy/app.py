"""The composition root: a configuration becomes a Starlette application.

`Application` holds what outlives a request: the ledger of live exchanges, the metrics, the deployment in force, and
the admin application beside it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy import config as configuration
from streamproxy.admin.app import create_admin
from streamproxy.compose import Deployment
from streamproxy.config import Config
from streamproxy.exchange import Ledger
from streamproxy.observe.log import configure
from streamproxy.observe.metrics import Metrics
from streamproxy.routing import target_of


class Application(Starlette):
    """The proxy as an ASGI application.

    ``draining`` is set while the process is about to end; ``admin`` is the application of the admin listener.
    """

    def __init__(self, config: Config, *, client: Any = None) -> None:
        self.ledger = Ledger()
        self.draining = False
        self.deployment = Deployment(config, self.ledger, client=client)
        self.metrics = Metrics(self.ledger, lambda: self.deployment.upstreams.values(), engine=config.server.engine)
        self.metrics.declare((route.name, route.upstream) for route in config.routes)
        self.ledger.observers.append(self.metrics.observe)
        access = configure(config.log.level, config.log.format, config.log.access)
        if access is not None:
            self.ledger.observers.append(access.observe)
        self.admin = create_admin(self)
        super().__init__(routes=self._routes(), lifespan=_lifespan)
        self.router.redirect_slashes = False
        self.router.default = self._default

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

    async def _default(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self.deployment.nowhere(target_of(scope), scope, receive, send)

    def rejected(self, status: int, reason: str) -> None:
        """Count a request that was refused before it became an exchange."""
        self.metrics.rejected(status)

    def ready(self) -> list[str]:
        """Why the proxy is not ready; empty when it is."""
        reasons = ["draining"] if self.draining else []
        return reasons + [
            f"upstream {upstream.name} has no endpoint"
            for upstream in self.deployment.upstreams.values()
            if not any(endpoint.up for endpoint in upstream.endpoints)
        ]

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
        await app.deployment.aclose()


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
    return configuration.load_config(path, os.environ)
