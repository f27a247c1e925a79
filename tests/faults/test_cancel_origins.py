"""Exchanges of routes with origins of their own are cancelled at every await in turn, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from streamproxy.app import Application, create_app
from streamproxy.config import parse_config
from streamproxy.errors import StoppedByOperator
from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, stream_head
from tests.faults.test_cancel_everywhere import CancelAt, Client, answer, run_struck_at, scope

ORIGINS = {
    "resume": {"resume": {"ids": "off"}},
    "share": {"share": {}},
    "reconnect": {"reconnect": {"backoff": "1ms"}},
    "all": {"resume": {"ids": "on"}, "share": {}, "reconnect": {"backoff": "1ms"}},
}


async def break_once(conn: Conn) -> None:
    """A stream that breaks after its first event, and goes on when it is asked for again."""
    head, _ = await conn.read_request()
    await conn.send(stream_head())
    if head.get("last-event-id") is None:
        await conn.send_chunk(b"data: 1\nid: 1\n\n" + b"data: half of 2")
    else:
        await conn.send_chunk(b"data: 2\nid: 2\n\n")
        await conn.send_chunk(b"data: 3\nid: 3\n\n")
        await conn.send_chunk(b"")
    conn.close()


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_cancellation_at_any_await_of_an_origin_leaves_nothing(
    leaks: LeakCheck, serve: Serve, origin: str, how: str
) -> None:
    script = break_once if "reconnect" in ORIGINS[origin] else answer
    upstream: Upstream = await serve(script)
    config = {
        "log": {"access": "off"},
        "routes": [{"path": "/*", "upstream": "up", **ORIGINS[origin]}],
        "upstreams": {"up": {"endpoints": [upstream.url]}},
    }
    app = create_app(parse_config(json.dumps(config), name="test"))
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how, method="GET"):
        struck += 1
    assert struck > 3
    assert ended[-1].end == "complete"
    assert ended[-1].events == 3
    assert app.deployment.upstreams["up"].endpoints[0].active == 0
    await app.deployment.aclose()


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("place", [0, 1, 3, 4])
async def test_a_cancellation_of_a_client_that_comes_back_leaves_nothing(
    leaks: LeakCheck, serve: Serve, place: int, how: str
) -> None:
    upstream = await serve(answer)
    config = {"log": {"access": "off"}, "routes": [{"path": "/*", "upstream": upstream.url, "resume": {"ids": "off"}}]}
    app = create_app(parse_config(json.dumps(config), name="test"))
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    await run_struck_at(app, 1000, how, method="GET")
    cursor = (b"last-event-id", b"%b/%d" % (ended[-1].stream.encode(), place))
    struck = 0
    while await run_struck_at(app, struck, how, cursor, method="GET"):
        struck += 1
    assert struck > 0
    assert (ended[-1].status, ended[-1].events) == {0: (200, 3), 1: (200, 2), 3: (204, 0), 4: (410, 0)}[place]
    assert len(upstream.requests) == 1
    await app.deployment.aclose()


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("keys", [{"share": {}}, {"share": {}, "resume": {"ids": "off"}}])
async def test_a_cancellation_of_a_client_that_joins_a_stream_leaves_it_to_the_others(
    leaks: LeakCheck, serve: Serve, keys: dict[str, Any], how: str
) -> None:
    async def waiting(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        number = 0
        while not conn.go.is_set():
            number += 1
            await conn.send_chunk(b"data: %d\n\n" % number)
            await asyncio.sleep(0.001)
        await conn.send_chunk(b"")

    upstream = await serve(waiting)
    route = {"path": "/*", "upstream": upstream.url, **keys}
    app = create_app(parse_config(json.dumps({"log": {"access": "off"}, "routes": [route]}), name="test"))
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    first = Client()
    first.parts = [(b"", False)]
    opened = asyncio.create_task(app(scope("GET"), first.receive, first.send))
    await until(lambda: len(first.sent) > 2, "a stream to join")
    (standing,) = app.ledger.live.values()
    for n in range(12):
        assert await strike_joined(app, n, how, standing)
    assert not standing.interruption
    (await upstream.connection()).go.set()
    await opened
    assert (ended[-1].end, first.sent[-1].get("more_body")) == ("complete", False)
    body = b"".join(message.get("body", b"") for message in first.sent)
    assert body == b"".join(b"data: %d\n\n" % (number + 1) for number in range(body.count(b"data:")))
    assert len(upstream.requests) == 1
    await app.deployment.aclose()


async def strike_joined(app: Application, n: int, how: str, standing: Any) -> bool:
    """Run an exchange that joins the stream of ``standing``, and strike at its nth await. Whether it had that many."""
    client = Client()
    client.parts = [(b"", False)]

    def strike() -> None:
        if how == "cancel":
            task.cancel()
        for exchange in [one for one in app.ledger.live.values() if one is not standing] if how == "interrupt" else []:
            exchange.interrupt(StoppedByOperator())

    coroutine = CancelAt(app(scope("GET"), client.receive, client.send), n, strike)
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
    async with asyncio.timeout(20):
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
    assert list(app.ledger.live.values()) == [standing]
    return coroutine.struck
