"""An exchange is cancelled at every await in turn, from the first to the last, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from streamproxy.app import Application, create_app
from streamproxy.config import parse_config
from streamproxy.errors import StoppedByOperator
from streamproxy.upstream.retry import Budget
from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import CLIENTS, users_client
from tests.doubles.upstream import Conn, Upstream, stream_head


class CancelAt(Coroutine[Any, Any, None]):
    """Runs a coroutine, and does ``strike`` while it is suspended for the nth time."""

    def __init__(self, inner: Coroutine[Any, Any, None], n: int, strike: Any) -> None:
        self._inner = inner
        self._left = n
        self._strike = strike
        self.struck = False

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self  # type: ignore[return-value]  # it has all that `await` asks of an iterator

    def __iter__(self) -> CancelAt:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def _step(self, yielded: Any) -> Any:
        if self._left == 0:
            self.struck = True
            asyncio.get_running_loop().call_soon(self._strike)
        self._left -= 1
        return yielded


async def answer(conn: Conn) -> None:
    while True:
        await conn.read_request()
        await conn.send(stream_head())
        for number in range(3):
            await conn.send_chunk(b"data: %d\n\n" % number)
            await asyncio.sleep(0.001)  # so that each is waited for, where the machine is not too slow
        await conn.send_chunk(b"")


def scope(method: str, *fields: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"x"), *([(b"content-length", b"6")] if method == "POST" else []), *fields],
        "client": ("127.0.0.1", 1),
    }


class Client:
    """The ASGI side: a body in two parts, then nothing; every send suspends once."""

    def __init__(self) -> None:
        self.parts = [(b"abc", True), (b"def", False)]
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.parts:
            body, more = self.parts.pop(0)
            return {"type": "http.request", "body": body, "more_body": more}
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)


async def run_struck_at(app: Application, n: int, how: str, *fields: tuple[bytes, bytes], method: str = "POST") -> bool:
    """Run one exchange, of a request with these fields too, and strike at its nth await. Whether it had that many."""
    client = Client()
    if method == "GET":
        client.parts = [(b"", False)]

    def strike() -> None:
        if how == "cancel":
            task.cancel()
        else:
            for exchange in list(app.ledger.live.values()):
                exchange.interrupt(StoppedByOperator())

    coroutine = CancelAt(app(scope(method, *fields), client.receive, client.send), n, strike)
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
    async with asyncio.timeout(20):
        await asyncio.wait({task})
        await app.ledger.wait_empty()
    if not task.cancelled():
        task.exception()
    assert not app.ledger.live
    endpoints = [endpoint for upstream in app.deployment.upstreams.values() for endpoint in upstream.endpoints]
    assert not any(endpoint.streams for endpoint in endpoints)
    return coroutine.struck


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_cancellation_at_any_await_leaves_nothing(
    leaks: LeakCheck, serve: Serve, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    monkeypatch.setattr(Upstream, "http2", kind == "h2")
    upstream: Upstream = await serve(answer)
    own = users_client() if kind == "user" else None
    config = {
        "log": {"access": "off"},
        "routes": [{"path": "/*", "upstream": "up"}],
        "upstreams": {"up": {"endpoints": [upstream.url], **(CLIENTS[kind] or CLIENTS["httpx"])}},
    }
    app = create_app(parse_config(json.dumps(config), name="test"), client=own)
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how):
        struck += 1
    assert struck >= 4  # the request's parts, the head, the sends; and the chunks, unless all have come at once
    assert len(ended) >= struck
    assert ended[-1].end == "complete"
    assert ended[-1].events == 3
    if kind in ("native", "h2"):
        endpoint = app.deployment.upstreams["up"].endpoints[0]
        assert endpoint.active == 0
    await app.deployment.aclose()
    if own is not None:
        await own.aclose()


async def stay_silent(conn: Conn) -> None:
    """Answer with a comment, and break off before any event."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b": wait\n\n")


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_cancellation_at_the_gate_or_on_the_way_to_a_fallback_leaves_nothing(
    leaks: LeakCheck, serve: Serve, how: str
) -> None:
    silent, good = await serve(stay_silent), await serve(answer)
    retry = {"until": "first_event", "non_idempotent": "on", "attempts": 2, "backoff": "1ms"}
    config = {
        "log": {"access": "off"},
        "routes": [{"path": "/*", "upstream": "up", "fallback": ["spare"], "retry": retry}],
        "upstreams": {
            "up": {"endpoints": [silent.url], "client": "native"},
            "spare": {"endpoints": [good.url], "client": "native"},
        },
    }
    app = create_app(parse_config(json.dumps(config), name="test"))
    for upstream in app.deployment.upstreams.values():
        upstream.budget = Budget(floor=1e6)
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how):
        struck += 1
    assert struck > 8
    assert (ended[-1].end, ended[-1].upstream, ended[-1].attempts) == ("complete", "spare", 3)
    assert all(endpoint.active == 0 for one in app.deployment.upstreams.values() for endpoint in one.endpoints)
    await app.deployment.aclose()


async def answer_late(conn: Conn) -> None:
    """Answer when comments have gone out."""
    await conn.read_request()
    await asyncio.sleep(0.03)
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.send_chunk(b"")


async def refuse_late(conn: Conn) -> None:
    """Answer with an error when comments have gone out."""
    await conn.read_request()
    await asyncio.sleep(0.03)
    await conn.send(b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\nlater")


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("script", [answer_late, refuse_late])
async def test_a_cancellation_around_an_early_head_leaves_nothing(
    leaks: LeakCheck, serve: Serve, script: Any, how: str
) -> None:
    upstream = await serve(script)
    keepalive = {"interval": "5ms", "before_headers": "5ms"}
    config = {
        "log": {"access": "off"},
        "routes": [{"path": "/*", "upstream": "up", "keepalive": keepalive}],
        "upstreams": {"up": {"endpoints": [upstream.url], "client": "native"}},
    }
    app = create_app(parse_config(json.dumps(config), name="test"))
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how, (b"accept", b"text/event-stream")):
        struck += 1
    for sends in range(8):
        await run_struck_at_send(app, sends, how)
    for _ in range(20):  # a machine that pauses may let the answer come before a second comment
        await run_struck_at_send(app, 99, how)
        if ended[-1].keepalives > 1:
            break
    assert ended[-1].keepalives > 1
    assert ended[-1].end == ("complete" if script is answer_late else "upstream_error")
    assert all(endpoint.active == 0 for one in app.deployment.upstreams.values() for endpoint in one.endpoints)
    await app.deployment.aclose()


async def run_struck_at_send(app: Application, n: int, how: str) -> int:
    """Run one exchange, and strike while its nth message is being sent. Returns how many were sent."""
    client = Client()

    async def send(message: Any) -> None:
        if len(client.sent) == n:
            asyncio.get_running_loop().call_soon(strike)
        await client.send(message)

    def strike() -> None:
        if how == "cancel":
            task.cancel()
        for exchange in list(app.ledger.live.values()) if how == "interrupt" else []:
            exchange.interrupt(StoppedByOperator())

    coroutine = app(scope("POST", (b"accept", b"text/event-stream")), client.receive, send)
    task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
    async with asyncio.timeout(20):
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
    assert not app.ledger.live
    return len(client.sent)


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_cancellation_in_the_wait_for_an_endpoint_leaves_nothing(
    leaks: LeakCheck, serve: Serve, how: str
) -> None:
    dead = await serve(answer)
    dead.stop_listening()
    config = {
        "log": {"access": "off"},
        "routes": [{"path": "/*", "upstream": "up", "timeouts": {"available": "30ms"}}],
        "upstreams": {"up": {"endpoints": [dead.url], "client": "native"}},
    }
    app = create_app(parse_config(json.dumps(config), name="test"))
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    (upstream,) = app.deployment.upstreams.values()
    struck = 0
    while await run_struck_at(app, struck, how):
        assert not upstream._roster.watchers, "nobody stands in line"
        struck += 1
    assert struck > 3
    assert ended[-1].error.error == "destination_unavailable"
    assert not upstream._roster.watchers
    await app.deployment.aclose()


async def count_all(conn: Conn) -> None:
    """Read whatever is sent, and answer."""
    await conn.read_request()
    await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_cancellation_of_a_mirrored_request_leaves_nothing(leaks: LeakCheck, serve: Serve, how: str) -> None:
    upstream, shadow = await serve(answer), await serve(count_all)
    config = {
        "log": {"access": "off"},
        "routes": [{"name": "r", "path": "/*", "upstream": "up", "mirror": {"upstream": "shadow"}}],
        "upstreams": {
            "up": {"endpoints": [upstream.url], "client": "native"},
            "shadow": {"endpoints": [shadow.url], "client": "native"},
        },
    }
    app = create_app(parse_config(json.dumps(config), name="test"))
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)
    struck = 0
    while await run_struck_at(app, struck, how):
        struck += 1
    assert struck > 5
    assert {exchange.route: exchange.end for exchange in ended[-2:]} == {"r": "complete", "r~mirror": "complete"}
    assert all(endpoint.active == 0 for one in app.deployment.upstreams.values() for endpoint in one.endpoints)
    await app.deployment.aclose()
