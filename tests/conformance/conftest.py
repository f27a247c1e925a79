"""One behaviour suite over every upstream client and every server engine.

A test takes ``stack`` and starts the proxy with it. What a stock server or a library client gets wrong by itself is
marked at the test, with the reason::

    @quirk("stock", "hypercorn", reason="...")   # a server
    @quirk("httpx", "user", reason="...")        # a client
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

from tests.conformance.pool import Backend
from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import CLIENTS, SERVERS, Config, RunningStack, running_stack
from tests.doubles.upstream import Upstream

# Every client is tried under our own server, and every server with the client that users get.
COMBINATIONS = [(client, "uvicorn") for client in CLIENTS] + [("native", s) for s in SERVERS if s != "uvicorn"] + [
    ("httpx", "hypercorn")
]  # fmt: skip


class StartStack(Protocol):
    """Starts the proxy; the fixture stops it and checks that nothing is left."""

    client: str
    server: str

    async def __call__(self, routes: str | Sequence[Config], **sections: Any) -> RunningStack: ...


class _Starter:
    def __init__(self, client: str, server: str, leaks: LeakCheck, exits: AsyncExitStack) -> None:
        self.client = client
        self.server = server
        self._leaks = leaks
        self._exits = exits

    async def __call__(self, routes: str | Sequence[Config], **sections: Any) -> RunningStack:
        return await self._exits.enter_async_context(
            running_stack(routes, client_kind=self.client, server_kind=self.server, leaks=self._leaks, **sections)
        )


@pytest.fixture(params=COMBINATIONS, ids=["+".join(pair) for pair in COMBINATIONS])
async def stack(
    request: pytest.FixtureRequest, leaks: LeakCheck, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartStack]:
    """`proxy = await stack(upstream.url)` or `await stack([route(...)], server={...})`."""
    client, server = request.param
    for mark in request.node.iter_markers("quirk"):
        if client in mark.args or server in mark.args:
            pytest.skip(f"known of {client} under {server}: {mark.kwargs['reason']}")
    monkeypatch.setattr(Upstream, "http2", client == "h2")
    async with AsyncExitStack() as exits:
        yield _Starter(client, server, leaks, exits)


Start = Callable[..., Awaitable[RunningStack]]


@pytest.fixture
async def start(leaks: LeakCheck) -> AsyncIterator[Start]:
    """`stack` for what does not depend on the client or the server, such as how a body is read."""
    async with AsyncExitStack() as exits:

        async def run(routes: Any, **sections: Any) -> RunningStack:
            kinds = {"client_kind": "native", "server_kind": "uvicorn"}
            return await exits.enter_async_context(running_stack(routes, **kinds, leaks=leaks, **sections))

        yield run


@pytest.fixture
def backends(serve: Serve) -> Any:
    """`a, b = await backends("a", "b")`: running backends of these names."""

    async def start(*names: str) -> list[Backend]:
        return [await Backend(name, serve).start() for name in names]

    return start
