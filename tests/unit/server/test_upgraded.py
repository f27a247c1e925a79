"""The client's end of a tunnel, made of a connection whose handshake was answered with 101."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamproxy.exchange.peer import has_left
from streamproxy.exchange.stream import ByteStream, Callbacks
from streamproxy.server.http1.upgraded import UpgradedConnection
from tests.conftest import Connect
from tests.doubles.certificates import Certificate
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import Receive, Scope, Send, body_message, start_message, turns, wired

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FIELDS = [(b"upgrade", b"websocket"), (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


class Tunnel:
    """An application that upgrades, and keeps what comes until it is lost."""

    def __init__(self, *, echo: bool = False, paused: bool = False) -> None:
        self.data = bytearray()
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self.made = asyncio.Event()
        self.stream: ByteStream
        self._echo = echo
        self._paused = paused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["type"], scope["method"]) == ("http", "GET")
        assert (b"upgrade", b"websocket") in scope["headers"]
        connection = scope["extensions"]["streamproxy.connection"]
        assert connection.wants_websocket
        self.stream = connection.upgrade(FIELDS)
        self.made.set()
        if not self._paused:
            self.start()
        await self.lost.wait()

    def start(self) -> None:
        self.stream.start(Callbacks(self._on_data, self.ended.set, self.lost.set))
        assert not self.data

    def _on_data(self, data: bytes) -> None:
        self.data += data
        if self._echo:
            self.stream.write(data)

    async def has(self, size: int) -> None:
        await until(lambda: len(self.data) >= size)


async def test_a_handshake_becomes_a_stream_of_bytes(start: Start, dial: Connect) -> None:
    app = Tunnel(echo=True)
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE + b"first")
    assert await client.read_exactly(len(SWITCHED) + 5) == SWITCHED + b"first"
    (connection,) = server.state.connections
    assert isinstance(connection, UpgradedConnection)
    await client.send(b"GET / HTTP/1.1\r\n\r\n\0\xff")
    assert await client.read_exactly(20) == b"GET / HTTP/1.1\r\n\r\n\0\xff"
    client.close()
    async with asyncio.timeout(10):
        await app.ended.wait()
        assert not app.lost.is_set()
        app.stream.close()
        await app.lost.wait()
    assert not server.state.connections


async def test_what_comes_before_the_start_waits(start: Start, dial: Connect) -> None:
    app = Tunnel(paused=True)
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    await client.send(b"abc")
    async with asyncio.timeout(10):
        await app.made.wait()
    app.start()
    await app.has(3)
    assert app.data == b"abc"
    client.close()


async def test_a_client_that_left_before_the_start_is_told_after_it(start: Start, dial: Connect) -> None:
    app = Tunnel(paused=True)
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    client.reset()
    await until(lambda: not server.state.connections)
    assert not app.lost.is_set()
    app.start()
    assert not app.lost.is_set()
    async with asyncio.timeout(10):
        await app.lost.wait()


async def test_either_direction_ends_by_itself(start: Start, dial: Connect) -> None:
    app = Tunnel()
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    await client.send(b"last")
    client.transport.write_eof()
    async with asyncio.timeout(10):
        await app.ended.wait()
    assert app.data == b"last"
    assert app.stream.write(b"still") is True
    assert await client.read_exactly(5) == b"still"
    assert not app.lost.is_set()
    app.stream.write_eof()
    assert (await client.wait_ended()).how == "eof"
    async with asyncio.timeout(10):
        await app.lost.wait()
    assert app.stream.write(b"nobody") is True


async def test_the_end_of_the_servers_direction_leaves_the_clients(start: Start, dial: Connect) -> None:
    app = Tunnel()
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    app.stream.write_eof()
    assert (await client.wait_ended()).how == "eof"
    await client.send(b"last")
    await app.has(4)
    assert not app.ended.is_set()
    client.close()
    async with asyncio.timeout(10):
        await app.lost.wait()
    assert app.ended.is_set()


async def test_a_half_close_behind_unread_bytes_is_no_loss(
    start: Start, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bool]()

    def look(fd: int, half_close: bool = False) -> bool:
        seen.append(has_left(fd, half_close))
        return seen[-1]

    monkeypatch.setattr("streamproxy.exchange.peer.has_left", look)
    app = Tunnel()
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    app.stream.pause()
    await client.send(b"x" * 1000)
    client.transport.write_eof()
    await until(lambda: len(seen) >= 3, "three looks of the watch")
    assert not any(seen)
    assert not app.lost.is_set()
    assert not app.data
    app.stream.resume()
    async with asyncio.timeout(10):
        await app.ended.wait()
    assert len(app.data) == 1000


async def test_a_reset_is_seen_while_nothing_is_read(start: Start, dial: Connect) -> None:
    app = Tunnel()
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    app.stream.pause()
    client.reset()
    async with asyncio.timeout(10):
        await app.lost.wait()


async def test_a_client_that_takes_nothing_holds_the_writer(start: Start, dial: Connect) -> None:
    app = Tunnel()
    server = await start(app)
    client = await dial(server.url, receive_buffer=4096)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    client.stop_reading()
    app.stream.set_write_limit(10_000)
    written = 0
    while app.stream.write(b"x" * 65536):
        written += 1
        assert written < 400
    waiting = asyncio.ensure_future(app.stream.drained())  # type: ignore[arg-type]  # a coroutine is awaitable
    await turns()
    assert not waiting.done()
    client.go_on_reading()
    async with asyncio.timeout(10):
        await waiting
    app.stream.close()
    assert len((await client.read_all())[0]) == (written + 1) * 65536


async def test_a_drain_does_not_cut_a_tunnel_and_the_servers_end_does(start: Start, dial: Connect) -> None:
    app = Tunnel(echo=True)
    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    await client.read_exactly(len(SWITCHED))
    connection: Any
    (connection,) = server.state.connections
    connection.shutdown(0.1)
    await client.send(b"abc")
    assert await client.read_exactly(3) == b"abc"
    connection.shutdown()
    assert (await client.wait_ended()).how == "eof"


async def test_a_tunnel_ends_with_its_application(start: Start, dial: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        assert (await receive())["type"] == "http.request"
        waiting = asyncio.ensure_future(receive())
        await turns(1)
        stream = connection.upgrade(FIELDS)
        assert await waiting == {"type": "http.disconnect"}
        stream.write(b"bye")

    server = await start(app)
    client = await dial(server.url)
    await client.send(HANDSHAKE)
    assert (await client.read_all())[0] == SWITCHED + b"bye"


async def test_over_tls_an_end_of_one_direction_ends_both(
    start: Start, dial: Connect, certificate: Certificate
) -> None:
    app = Tunnel(echo=True)
    server = await start(app, tls=certificate.server_context())
    client = await dial(server.url, tls=certificate.client_context())
    await client.send(HANDSHAKE + b"abc")
    assert await client.read_exactly(len(SWITCHED) + 3) == SWITCHED + b"abc"
    app.stream.write_eof()
    assert (await client.wait_ended()).how == "eof"
    async with asyncio.timeout(10):
        await app.lost.wait()


async def test_a_handshake_that_is_refused_is_a_request_like_any_other(start: Start, dial: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(501, (b"content-length", b"2")))
        await send(body_message(b"no"))

    server = await start(app)
    client = await dial(server.url)
    for _ in range(2):
        await client.send(HANDSHAKE)
        answer = await client.read_response()
        assert (answer.status, answer.body) == (501, b"no")
    await client.send(HANDSHAKE + b"\x81\x83\0\0\0\0abc")  # a frame, which is no request
    assert (await client.read_response()).status == 501
    assert (await client.read_response()).status == 400


@pytest.mark.parametrize("late", [True, False])
async def test_an_upgrade_out_of_turn_is_refused(late: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        if late:
            connection.begin(200, [])
        with pytest.raises(RuntimeError):
            connection.upgrade(FIELDS)
        if not late:
            connection.begin(200, [])
        connection.write(b"", False)

    protocol, transport = wired(app)
    protocol.data_received(HANDSHAKE if late else b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await turns()
    assert transport.data.startswith(b"HTTP/1.1 200 OK\r\n")
    protocol.connection_lost(None)
