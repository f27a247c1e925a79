"""hypercorn as an engine: HTTP/1.1 and nothing else, with targets as our own server has them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streamproxy.config import Address
from streamproxy.server.engines import EngineSettings, hypercorn_engine
from streamproxy.server.sockets import bind, close, url_of
from streamproxy.wire.http2.frames import PREFACE
from tests.conftest import Connect
from tests.unit.server.harness import App, Receive, Scope, Send, body_message, start_message


class Recorder:
    """An application that keeps its scopes and answers 204."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{step}"
                await send({"type": f"lifespan.{step}.complete"})
            return
        self.scopes.append(scope)
        await send(start_message(204))
        await send(body_message())


@asynccontextmanager
async def running(app: App) -> AsyncIterator[str]:
    listener = bind(Address(host="127.0.0.1", port=0))
    url = url_of(listener)
    settings = EngineSettings(65536, 10.0, 10.0, 100, lambda status, reason: None)
    engine = hypercorn_engine(app, [listener], settings)  # type: ignore[arg-type]  # an application
    await engine.start()
    try:
        yield url
    finally:
        engine.drain()
        await engine.stop()
        close(listener)


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        (b"/a%2Fb?c", b"/a%2Fb", b"c", b"a"),
        (b"http://b.example:81/c?d=%20", b"/c", b"d=%20", b"b.example:81"),
        (b"HTTP://b.example", b"/", b"", b"b.example"),
    ],
)
async def test_a_target_in_absolute_form_goes_on_as_a_path_with_its_host(
    dial: Connect, target: bytes, path: bytes, query: bytes, host: bytes
) -> None:
    app = Recorder()
    async with running(app) as url:
        client = await dial(url)
        await client.send(b"GET " + target + b" HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n")
        assert (await client.read_response()).status == 204
        client.close()
    (scope,) = app.scopes
    assert (scope["raw_path"], scope["query_string"]) == (path, query)
    assert [value for name, value in scope["headers"] if name == b"host"] == [host]
    assert (b"x", b"y") in scope["headers"]


@pytest.mark.parametrize(
    "raw", [PREFACE, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_http2_in_clear_text_and_odd_targets_are_refused(dial: Connect, raw: bytes) -> None:
    app = Recorder()
    async with running(app) as url:
        client = await dial(url)
        await client.send(raw)
        assert (await client.read_response()).status == 400
        assert (await client.wait_ended()).how in ("eof", "reset")
    assert not app.scopes


async def test_an_upgrade_to_http2_is_not_made_and_the_request_goes_on(dial: Connect) -> None:
    app = Recorder()
    async with running(app) as url:
        client = await dial(url)
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABk\r\n\r\n"
        )
        answer = await client.read_response()
        assert answer.status == 204
        client.close()
    assert [scope["http_version"] for scope in app.scopes] == ["1.1"]


@pytest.mark.parametrize(
    "field", [b"Sec-WebSocket-Protocol: a, \xff", b"Sec-WebSocket-Extensions: \x80", b"Connection: \xe9"]
)
async def test_a_handshake_with_a_field_that_is_not_ascii_is_a_400(
    dial: Connect, caplog: pytest.LogCaptureFixture, field: bytes
) -> None:
    app = Recorder()
    async with running(app) as url:
        client = await dial(url)
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + field + b"\r\n\r\n"
        )
        assert (await client.read_response()).status == 400
    assert app.scopes == []
    assert not [record for record in caplog.records if record.exc_info]
