"""A WebSocket is struck at every await in turn, as a tunnel and as messages, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from streamproxy.app import Application, create_app
from streamproxy.config import parse_config
from streamproxy.errors import StoppedByOperator, StoppedByShutdown
from tests.conftest import Serve
from tests.doubles.client import connect
from tests.doubles.connection import PeerEnded
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.doubles.upstream import Conn
from tests.doubles.websocket import CLIENT_CLOSE, HANDSHAKE, HELLO, KEY, SWITCH, UPSTREAM_CLOSE, WORLD
from tests.faults.test_cancel_everywhere import CancelAt
from tests.unit.server.harness import serving


async def talk(conn: Conn) -> None:
    """Answer the handshake, send a message, and answer a Close frame with one."""
    await conn.read_head()
    await conn.send(SWITCH % b"" + WORLD)
    await conn.read_until(b"\x88\x82")
    await conn.read_exactly(6)
    await conn.send(UPSTREAM_CLOSE)


def scope(*extensions: str) -> dict[str, Any]:
    headers = [(b"host", b"x"), (b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    return {
        "type": "websocket",
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/chat",
        "raw_path": b"/chat",
        "query_string": b"a=b",
        "root_path": "",
        "headers": [*headers, (b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)],
        "client": ("127.0.0.1", 1),
        "subprotocols": [],
        "extensions": {name: {} for name in extensions},
    }


class Server:
    """The ASGI server: says hello, waits for the upstream's message, and closes; every step suspends once."""

    def __init__(self) -> None:
        self.messages = [{"type": "websocket.connect"}]
        self.sent: list[Any] = []
        self.answered = asyncio.Event()
        self.closed = False

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.messages:
            return self.messages.pop(0)
        await self.answered.wait()
        if self.closed:
            await asyncio.Event().wait()
        self.closed = True
        return {"type": "websocket.disconnect", "code": 1000, "reason": ""}

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)
        if message["type"] in ("websocket.send", "websocket.close"):
            self.answered.set()


def application(url: str, client: httpx.AsyncClient | None = None, **keys: Any) -> Application:
    config = {
        "log": {"access": "off"},
        "routes": [{"path": "/*", "upstream": "up", **keys}],
        "upstreams": {"up": {"endpoints": [url], "client": "native" if client is None else "httpx"}},
    }
    return create_app(parse_config(json.dumps(config), name="test"), client=client)


async def run_struck_at(app: Application, n: int, how: str) -> bool:
    server = Server()

    def strike() -> None:
        if how == "cancel":
            task.cancel()
        for exchange in list(app.ledger.live.values()):
            if how != "cancel":
                exchange.interrupt(StoppedByOperator() if how == "interrupt" else StoppedByShutdown())

    coroutine = CancelAt(app(scope(), server.receive, server.send), n, strike)
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
    async with asyncio.timeout(20):
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
    assert not app.ledger.live
    return coroutine.struck


@pytest.mark.parametrize("how", ["cancel", "interrupt", "shutdown"])
async def test_a_strike_at_any_await_of_relayed_messages_leaves_nothing(
    leaks: LeakCheck, serve: Serve, how: str
) -> None:
    upstream = await serve(talk)
    app = application(upstream.url)
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how):
        struck += 1
    assert struck >= 3  # the connection, the handshake, the tunnel
    assert ended[-1].end == "complete"
    assert ended[-1].events == 1
    endpoint = app.deployment.upstreams["up"].endpoints[0]
    assert (endpoint.active, endpoint.streams) == (0, 0)
    await app.deployment.aclose()


async def run_tunnel_struck_at(app: Application, n: int, how: str) -> bool:
    """Run one tunnel on our own server, and strike at its nth await. Whether it had that many."""
    struck: list[CancelAt] = []
    tasks: list[asyncio.Task[Any]] = []

    def strike() -> None:
        if how == "cancel":
            tasks[0].cancel()
        for exchange in list(app.ledger.live.values()):
            if how != "cancel":
                exchange.interrupt(StoppedByOperator() if how == "interrupt" else StoppedByShutdown())

    def observed(scope: Any, receive: Any, send: Any) -> CancelAt:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        struck.append(CancelAt(app(scope, receive, send), n, strike))
        return struck[0]

    async with serving(observed) as server, await connect(server.url) as client, asyncio.timeout(20):  # type: ignore[arg-type]
        with contextlib.suppress(PeerEnded):
            await client.send(HANDSHAKE % b"" + HELLO)
            if (await client.read_raw_head()).status == 101:
                await client.read_exactly(len(WORLD))
                await client.send(CLIENT_CLOSE)
                await client.read_all()
        await client.aclose()
        await until(lambda: not (server.state.connections or server.state.tasks), "the connection and its task to end")
    assert not app.ledger.live
    return struck[0].struck


@pytest.mark.parametrize("how", ["cancel", "interrupt", "shutdown"])
async def test_a_strike_at_any_await_of_a_tunnel_leaves_nothing(leaks: LeakCheck, serve: Serve, how: str) -> None:
    upstream = await serve(talk)
    app = application(upstream.url)
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_tunnel_struck_at(app, struck, how):
        struck += 1
    assert struck >= 4  # the connection, the handshake, the tunnel, what is flushed at its end
    assert ended[-1].end == "complete"
    assert ended[-1].events == 1
    endpoint = app.deployment.upstreams["up"].endpoints[0]
    assert (endpoint.active, endpoint.streams) == (0, 0)
    await until(lambda: not upstream.open_connections, "the upstream's connections to end")
    await app.deployment.aclose()


async def test_a_server_that_can_t_relay_a_refusal_is_told_to_close(leaks: LeakCheck, serve: Serve) -> None:
    app = application((await serve(talk)).url, websocket="off")
    server = Server()
    await app(scope(), server.receive, server.send)
    assert server.sent == [{"type": "websocket.close"}]
    await app.deployment.aclose()


async def test_a_server_that_can_relay_a_refusal_gets_it(leaks: LeakCheck, serve: Serve) -> None:
    app = application((await serve(talk)).url, websocket="off")
    server = Server()
    await app(scope("websocket.http.response"), server.receive, server.send)
    assert [message["type"] for message in server.sent[:2]] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert server.sent[0]["status"] == 501
    await app.deployment.aclose()


async def test_a_client_that_leaves_before_the_answer_ends_the_handshake(leaks: LeakCheck, serve: Serve) -> None:
    async def never(conn: Conn) -> None:
        await conn.read_head()
        server.answered.set()
        await conn.read_all()

    upstream = await serve(never)
    app, server = application(upstream.url), Server()
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    async with asyncio.timeout(20):
        await app(scope(), server.receive, server.send)
    assert ended[0].end == "client_disconnect"
    assert not server.sent
    await app.deployment.aclose()


async def test_a_user_s_own_client_carries_no_websocket(leaks: LeakCheck, serve: Serve) -> None:
    upstream = await serve(talk)
    async with httpx.AsyncClient() as client:
        app, server = application(upstream.url, client), Server()
        await app(scope("websocket.http.response"), server.receive, server.send)
        assert server.sent[0]["status"] == 501
        assert not upstream.requests
        await app.deployment.aclose()
