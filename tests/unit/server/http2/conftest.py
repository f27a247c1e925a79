"""The protocol on real sockets, and frame clients that the fixture closes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from uvicorn.server import ServerState

from streamproxy.server.http2.limits import Http2Limits
from streamproxy.server.http2.protocol import Http2Protocol, http2_protocol
from tests.doubles.http2 import FrameClient, connect_h2
from tests.doubles.leaks import LeakCheck
from tests.unit.server.harness import Scope, bare, end_tasks

App = Callable[..., Awaitable[None]]


class Serving:
    """A listening protocol: where it is, its state, and what it refused."""

    def __init__(self, url: str, state: ServerState, rejected: list[tuple[int, str]]) -> None:
        self.url = url
        self.state = state
        self.rejected = rejected

    @property
    def connection(self) -> Http2Protocol:
        """The only connection."""
        only: Any
        (only,) = self.state.connections
        assert isinstance(only, Http2Protocol)
        return only


Start = Callable[..., Awaitable[Serving]]
Connect = Callable[..., Awaitable[FrameClient]]


def connection_of(scope: Scope) -> Any:
    """The extension of our own servers."""
    return scope["extensions"]["streamproxy.connection"]


@contextlib.asynccontextmanager
async def serving(app: App, *, keepalive: float = 20.0, **options: Any) -> AsyncIterator[Serving]:
    rejected: list[tuple[int, str]] = []
    options.setdefault("on_rejected", lambda status, reason: rejected.append((status, reason)))
    config = bare(app, http2_protocol(Http2Limits(**options)), keepalive=keepalive)
    state = ServerState()
    loop = asyncio.get_running_loop()
    protocol: Any = config.http_protocol_class
    server = await loop.create_server(
        lambda: protocol(config=config, server_state=state, app_state={}, _loop=loop), "127.0.0.1", 0
    )
    try:
        yield Serving(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", state, rejected)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await server.wait_closed()
        await end_tasks(state)


@pytest.fixture
async def start(leaks: LeakCheck) -> AsyncIterator[Start]:
    """`server = await start(app, head_timeout=0.05)`: the protocol on a real socket, with these limits."""
    async with AsyncExitStack() as stack:

        async def one(app: App, **options: Any) -> Serving:
            server = await stack.enter_async_context(serving(app, **options))
            leaks.gauge("connections", lambda: server.state.connections)
            leaks.gauge("tasks", lambda: server.state.tasks)
            return server

        yield one


@pytest.fixture
async def h2() -> AsyncIterator[Connect]:
    """`client = await h2(server.url)`: a frame client that has exchanged SETTINGS."""
    clients: list[FrameClient] = []

    async def one(url: str, **options: Any) -> FrameClient:
        clients.append(await connect_h2(url, **options))
        return clients[-1]

    yield one
    for client in clients:
        await client.aclose()
