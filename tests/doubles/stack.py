"""The proxy in this process, on a real socket: any upstream client under any server engine.

A client or a server joins the behaviour suite by one line in `CLIENTS` or `SERVERS`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from streamproxy.app import Application, create_app
from streamproxy.config import Address, parse_config
from streamproxy.process.engine import engine_settings, http2_factory
from streamproxy.server.engines import Engine, EngineSettings, UvicornEngine, hypercorn_engine
from streamproxy.server.sockets import bind, close, url_of
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until

Config = dict[str, Any]

# What each client is in the section of an upstream. "h2" is our own over HTTP/2, and needs upstreams that speak it
# (`Upstream.http2`); "user" is an embedding program's own httpx.AsyncClient.
CLIENTS: dict[str, Config] = {
    "native": {"client": "native"},
    "h2": {"client": "native", "http2": "on"},
    "httpx": {"client": "httpx"},
    "user": {},
}


class _PromptServer(uvicorn.Server):
    """One that is told to end, where uvicorn looks ten times a second: thousands of tests would wait for that."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.exiting = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.exiting.wait()


class StockUvicorn:
    """uvicorn with its own httptools protocol, as `uvicorn streamproxy.asgi:app` runs it."""

    def __init__(self, app: ASGIApp, sockets: list[socket.socket], settings: EngineSettings) -> None:
        config = uvicorn.Config(
            app, http="httptools", lifespan="on", log_config=None, access_log=False, date_header=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = _PromptServer(config)
        self._sockets = sockets
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = task = asyncio.get_running_loop().create_task(self._server._serve(self._sockets))
        await until(lambda: self._server.started or task.done(), "uvicorn to listen")

    def drain(self) -> None:
        self._server.exiting.set()

    async def stop(self) -> None:
        self._server.exiting.set()
        if self._task is not None:
            await self._task


SERVERS: dict[str, Callable[[ASGIApp, list[socket.socket], EngineSettings], Engine]] = {
    "uvicorn": UvicornEngine,
    "http2": UvicornEngine,
    "stock": StockUvicorn,
    "hypercorn": hypercorn_engine,
}


@dataclass
class RunningStack:
    """``url`` is where clients connect, ``app`` the application behind it."""

    url: str
    app: Application
    client_kind: str
    engine: Engine
    ended: list[Any]  # the exchanges that have ended, in order

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        text = b"".join(self.app.metrics.exposition()[0]).decode()
        total = 0.0
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            bare, _, rest = series.partition("{")
            if bare == name and all(f'{key}="{want}"' in rest for key, want in labels.items()):
                total += float(value)
        return total

    async def end_of(self, number: int = 0) -> Any:
        """The nth exchange that ended, waited for."""
        await until(lambda: len(self.ended) > number, f"exchange {number} to end")
        return self.ended[number]


def route(upstream: str, **keys: Any) -> Config:
    """A route for every path to this upstream."""
    return {"path": "/*", "upstream": upstream, **keys}


@cache
def _certificates() -> ssl.SSLContext:
    """The context that each client of httpx would make for itself, which takes longer than a test."""
    return httpx.create_ssl_context()


def users_client() -> httpx.AsyncClient:
    """A client as a program that embeds the proxy makes it, without limits of its own."""
    return httpx.AsyncClient(verify=_certificates(), timeout=None, limits=httpx.Limits(max_connections=None))


@asynccontextmanager
async def running_stack(
    routes: str | Sequence[Config], *, client_kind: str, server_kind: str, leaks: LeakCheck, **sections: Any
) -> AsyncIterator[RunningStack]:
    """Run the proxy with these routes, or with one for everything to the upstream at this URL."""
    listed = [route(routes)] if isinstance(routes, str) else [dict(one) for one in routes]
    upstreams = {name: dict(keys) for name, keys in sections.pop("upstreams", {}).items()}
    for number, one in enumerate(listed):
        one.setdefault("name", f"r{number}")
        if "://" in one["upstream"]:
            name = f"up{number}"
            upstreams[name] = {"endpoints": [one["upstream"]]}
            one["upstream"] = name
    for name, keys in upstreams.items():
        if "client" not in keys:
            upstreams[name] = {**CLIENTS.get(client_kind, {}), **keys}
    config = parse_config(
        json.dumps({"routes": listed, "upstreams": upstreams, "log": {"access": "off"}, **sections}), name="test"
    )
    own = users_client() if client_kind == "user" else None
    app = create_app(config, client=own)
    logging.getLogger("streamproxy").propagate = True  # so that pytest sees what is logged
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    leaks.gauge("live exchanges", lambda: list(app.ledger.live))
    leaks.gauge("streams", lambda: sum(e.streams for u in app.deployment.upstreams.values() for e in u.endpoints))
    listener = bind(Address(host="127.0.0.1", port=0))
    settings = engine_settings(config, app.rejected)._replace(http2=http2_factory(config, app))
    engine = SERVERS[server_kind](app, [listener], settings)
    url = url_of(listener, "h2c" if server_kind == "http2" else "http")
    await engine.start()
    try:
        yield RunningStack(url, app, client_kind, engine, ended)
    finally:
        engine.drain()
        await engine.stop()
        close(listener)
        if own is not None:
            await own.aclose()
