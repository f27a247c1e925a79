"""An exchange over HTTP/2, on both sides, is struck at every await in turn, and leaves nothing behind.

Its siblings on the same connection go on.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from streamproxy.app import Application, create_app
from streamproxy.config import parse_config
from streamproxy.errors import StoppedByOperator
from tests.conftest import Serve
from tests.doubles.http2 import FrameClient, connect_h2
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import CLIENTS
from tests.doubles.until import until
from tests.doubles.upstream import Upstream
from tests.faults.test_cancel_everywhere import CancelAt, answer
from tests.unit.server.http2.conftest import serving


def application(url: str, client: str) -> Application:
    upstream = {"endpoints": [url], **CLIENTS[client]}
    routes = [{"path": "/*", "upstream": "up"}]
    config = {"log": {"access": "off"}, "routes": routes, "upstreams": {"up": upstream}}
    return create_app(parse_config(json.dumps(config), name="test"))


async def upload(client: FrameClient) -> int:
    """A request whose body comes in two parts."""
    stream = await client.request("POST", "/struck", end=False)
    client.data(stream, b"abc")
    await client.pong()
    client.data(stream, b"def", end=True)
    return stream


async def run_struck_at(app: Application, n: int, how: str) -> bool:
    """Run one exchange on our own server, and strike at its nth await. Whether it had that many."""
    struck: list[CancelAt] = []
    tasks: list[asyncio.Task[Any]] = []

    def strike() -> None:
        if how == "cancel":
            tasks[0].cancel()
        elif how == "reset":
            client.reset(1)
        else:
            for exchange in list(app.ledger.live.values()):
                exchange.interrupt(StoppedByOperator())

    def observed(scope: Any, receive: Any, send: Any) -> Any:
        run = app(scope, receive, send)
        if scope["path"] != "/struck":
            return run
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        struck.append(CancelAt(run, n, strike))
        return struck[0]

    async with serving(observed) as server, asyncio.timeout(20):
        client = await connect_h2(server.url)
        try:
            stream = await upload(client)
            await until(lambda: bool(struck) and not server.state.tasks, "the application to end")
            if how != "reset":
                await client.response(stream)
            assert (await client.response(await client.request())).complete  # the connection goes on
            assert not server.connection._streams
        finally:
            await client.aclose()
        await until(lambda: not (server.state.connections or server.state.tasks), "the connection to end")
    assert not app.ledger.live
    return struck[0].struck


@pytest.mark.parametrize("how", ["cancel", "reset", "interrupt"])
@pytest.mark.parametrize("client", ["native", "h2"])
async def test_a_strike_at_any_await_over_http2_leaves_nothing(
    leaks: LeakCheck, serve: Serve, monkeypatch: pytest.MonkeyPatch, client: str, how: str
) -> None:
    monkeypatch.setattr(Upstream, "http2", client == "h2")
    upstream = await serve(answer)
    app = application(upstream.url, client)
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how):
        struck += 1
    assert struck >= 2  # the connection or the head, and the end of the body; chunks pass in the read itself
    assert (ended[-1].end, ended[-1].events) == ("complete", 3)
    endpoint = app.deployment.upstreams["up"].endpoints[0]
    assert (endpoint.active, endpoint.streams) == (0, 0)
    await app.deployment.aclose()
