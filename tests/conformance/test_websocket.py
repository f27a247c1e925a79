"""WebSocket: a request like any other until the upstream's 101, and from then on a tunnel of frames.

Raw peers on both sides, so that every byte is known; the ``websockets`` library has its own tests at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen

from streamproxy.errors import StoppedByOperator
from streamproxy.process.drain import Stop, drain
from streamproxy.wire.websocket import accept_of
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.connection import PeerEnded
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, answering, response
from tests.doubles.websocket import CLIENT_CLOSE, HANDSHAKE, HELLO, KEY, MASK, SWITCH, UPSTREAM_CLOSE, WORLD

pytestmark = [
    pytest.mark.quirk("stock", "hypercorn", reason="only our own server offers the connection's bytes"),
    pytest.mark.quirk("h2", reason="handshakes go over HTTP/1.1 connections, as those of native"),
    pytest.mark.quirk("http2", reason="HTTP/2 has no Upgrade; clients open an HTTP/1.1 connection"),
    pytest.mark.quirk("user", reason="httpx's shape has no word for a connection that leaves HTTP"),
]

Talk = Callable[[Conn], Awaitable[None]]


def switching(talk: Talk, fields: bytes = b"") -> Talk:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(SWITCH % fields)
        await talk(conn)

    return script


async def until_the_end(conn: Conn) -> None:
    await conn.read_all()


async def tunnel(proxy: RunningStack, dial: Connect, fields: bytes = b"") -> RawClient:
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % fields)
    assert (await client.read_raw_head()).status == 101
    return client


async def close_in_order(client: RawClient, upstream: Upstream) -> None:
    conn = await upstream.connection()
    await client.send(CLIENT_CLOSE)
    await conn.read_until(CLIENT_CLOSE)
    await conn.send(UPSTREAM_CLOSE)
    assert (await client.read_until(UPSTREAM_CLOSE)).endswith(UPSTREAM_CLOSE)
    conn.close()


async def stalled(conn: Conn) -> None:
    await conn.stall()


async def test_bytes_pass_as_they_are_in_both_directions(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(stalled, b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x; y=1\r\n"))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"Sec-WebSocket-Protocol: chat, v2\r\nSec-WebSocket-Extensions: x; y\r\n")
    head = await client.read_raw_head()
    assert head.status == 101
    assert head.get("sec-websocket-protocol") == b"chat"
    assert head.get("sec-websocket-extensions") == b"x; y=1"
    assert head.get("sec-websocket-accept") == accept_of(KEY)
    asked = await upstream.request()
    assert (asked.get("upgrade"), asked.get("connection")) == (b"websocket", b"upgrade")
    assert (asked.get("sec-websocket-key"), asked.get("sec-websocket-version")) == (KEY, b"13")
    assert (asked.get("sec-websocket-protocol"), asked.get("sec-websocket-extensions")) == (b"chat, v2", b"x; y")
    conn = await upstream.connection()
    for byte in HELLO:
        await client.send(bytes((byte,)))
    assert await conn.read_exactly(len(HELLO)) == HELLO
    await conn.send(WORLD)
    assert await client.read_exactly(len(WORLD)) == WORLD
    exchange = next(iter(proxy.app.ledger.live.values()))
    assert (exchange.request_bytes, exchange.response_bytes, exchange.events) == (len(HELLO), len(WORLD), 1)
    for side in ("client", "upstream"):
        assert proxy.metric("streamproxy_websocket_messages_total", direction=side) == 1
    await close_in_order(client, upstream)
    ended = await proxy.end_of()
    assert (ended.status, ended.end, ended.phase, ended.protocol) == (101, "complete", "body", "websocket")


async def test_what_is_no_frame_behind_a_refused_handshake_harms_nothing(
    stack: StartStack, serve: Serve, dial: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, websocket="off")])
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + b"\xff" * 64)
    answer = await client.read_response()
    assert (answer.status, answer.get("content-type")) == (501, b"application/problem+json")
    await proxy.end_of()
    assert proxy.metric("streamproxy_requests_total", code="501") == 1
    assert "Traceback" not in caplog.text
    assert not upstream.requests


async def test_frames_behind_the_handshake_are_not_lost(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(SWITCH % b"" + WORLD)
        await conn.stall()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + HELLO)
    await client.read_raw_head()
    assert await client.read_exactly(len(WORLD)) == WORLD
    assert await (await upstream.connection()).read_exactly(len(HELLO)) == HELLO
    await close_in_order(client, upstream)


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(accept_of(KEY), accept_of(b"another")) % b"",
        SWITCH.replace(b"Sec-WebSocket-Accept", b"X") % b"",
        SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c") % b"",
        SWITCH.replace(b"Upgrade: websocket\r\n", b"") % b"",
        response(b"ok"),
    ],
    ids=["another accept", "no accept", "another protocol", "no protocol", "200"],
)
async def test_no_tunnel_is_made_of_what_is_no_switch(
    stack: StartStack, serve: Serve, dial: Connect, answer: bytes
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(answer)
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"")
    answered = await client.read_response()
    assert (answered.status, answered.get("proxy-status")) == (502, b"streamproxy; error=http_protocol_error")


async def test_a_refusal_is_relayed(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"no", status="403 Forbidden", headers=[("X-Why", "because")])))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"")
    answer = await client.read_response()
    assert (answer.status, answer.get("x-why"), answer.body) == (403, b"because", b"no")


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Version: 13", b"Version: 8", 426),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 426),
        (KEY, b"short", 400),
        (b"Sec-WebSocket-Key: " + KEY + b"\r\n", b"", 400),
        (KEY, KEY + b"\r\nSec-WebSocket-Key: " + KEY, 400),
    ],
)
async def test_a_wrong_handshake_goes_no_further(
    stack: StartStack, serve: Serve, dial: Connect, old: bytes, new: bytes, status: int
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send((HANDSHAKE % b"").replace(old, new))
    answer = await client.read_response()
    assert answer.status == status
    assert answer.get("sec-websocket-version") == (b"13" if status == 426 else None)
    assert not upstream.requests


@pytest.mark.parametrize("asked", [b"Upgrade: h2c", b"Upgrade: websocket, h2c", b"X: y"], ids=["h2c", "a list", "none"])
async def test_another_upgrade_is_dropped_and_the_request_goes_on(
    stack: StartStack, serve: Serve, dial: Connect, asked: bytes
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send((HANDSHAKE % b"").replace(b"Upgrade: WebSocket", asked))
    assert (await client.read_response()).body == b"ok"
    sent = await upstream.request()
    assert sent.get("upgrade") is None
    assert sent.get("sec-websocket-key") is None


async def test_an_upstream_that_is_lost_is_a_lost_connection(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    (await upstream.connection()).reset()
    assert (await client.read_all())[0] == b""
    assert (await proxy.end_of()).end == "upstream_truncated"


async def test_a_client_that_leaves_is_a_lost_connection(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(until_the_end))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    client.reset()
    await (await upstream.connection()).wait_ended()
    assert (await proxy.end_of()).end == "client_disconnect"


async def test_a_half_close_stays_one(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def talk(conn: Conn) -> None:
        await conn.read_all()
        await conn.send(WORLD)

    upstream = await serve(switching(talk))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    client.half_close()
    assert (await client.read_all())[0] == WORLD


async def test_an_upstream_that_never_answers_a_close_is_not_kept(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    await client.send(CLIENT_CLOSE)
    client.half_close()
    assert (await proxy.end_of()).end == "client_disconnect"


async def test_idle_counts_both_directions_together(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(until_the_end))
    proxy = await stack([route(upstream.url, timeouts={"idle": "1s"})])
    client = await tunnel(proxy, dial)
    for _ in range(12):
        await client.send(HELLO)
        await asyncio.sleep(0.1)
    assert proxy.app.ledger.live
    await client.wait_ended()
    ended = await proxy.end_of()
    assert (ended.end, ended.error.error) == ("timeout", "connection_read_timeout")


async def test_the_total_time_ends_a_tunnel(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(until_the_end))
    proxy = await stack([route(upstream.url, timeouts={"total": "1s"})])
    client = await tunnel(proxy, dial)
    await client.wait_ended()
    assert (await proxy.end_of()).end == "timeout"


async def test_a_handshake_has_a_time_out(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"first_byte": "200ms"})])
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"")
    assert (await client.read_response()).status == 504


async def test_silence_is_pinged_on_both_sides_and_pings_are_no_activity(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack([route(upstream.url, websocket={"ping": "100ms"}, timeouts={"idle": "1s"})])
    client = await tunnel(proxy, dial)
    assert await client.read_exactly(2) == b"\x89\x00"
    ping = await (await upstream.connection()).read_exactly(6)
    assert ping[:2] == b"\x89\x80"
    assert (await proxy.end_of()).end == "timeout"


async def test_a_ping_never_splits_a_frame(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack([route(upstream.url, websocket={"ping": "100ms"})])
    client = await tunnel(proxy, dial)
    conn = await upstream.connection()
    await conn.send(WORLD[:3])
    await conn.read_until(b"\x89\x80")  # the other direction is pinged all the same
    await conn.send(WORLD[3:])
    assert (await client.read_until(b"\x89\x00")).startswith(WORLD)
    await close_in_order(client, upstream)


async def test_backpressure_passes_in_both_directions(stack: StartStack, serve: Serve, dial: Connect) -> None:
    big = b"\x82\x7f" + (100_000_000).to_bytes(8, "big")
    sent = 0

    async def talk(conn: Conn) -> None:
        nonlocal sent
        await conn.send(big)
        for _ in range(100):
            await conn.send(bytes(1_000_000))
            sent += 1
        await conn.read_all()

    upstream = await serve(switching(talk))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    client.stop_reading()
    exchange = next(iter(proxy.app.ledger.live.values()))
    await until(lambda: exchange.blocked_since, "the client to be waited for")
    assert sent < 60
    client.go_on_reading()
    assert await client.read_exactly(len(big)) == big
    await client.read_exactly(100_000_000)
    assert exchange.events == 1
    client.close()


async def test_a_client_that_takes_nothing_is_given_up(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def talk(conn: Conn) -> None:
        await conn.send(b"\x82\x7f" + (1 << 30).to_bytes(8, "big"))
        while True:
            await conn.send(bytes(1_000_000))

    upstream = await serve(switching(talk))
    proxy = await stack([route(upstream.url, timeouts={"write": "300ms"})])
    client = await tunnel(proxy, dial)
    client.stop_reading()
    ended = await proxy.end_of()
    assert (ended.end, ended.error.error) == ("timeout", "connection_write_timeout")


@pytest.mark.parametrize("blocked", [False, True], ids=["open", "blocked"])
async def test_a_cancelled_tunnel_leaves_nothing(stack: StartStack, serve: Serve, dial: Connect, blocked: bool) -> None:
    async def talk(conn: Conn) -> None:
        while blocked:
            await conn.send(bytes(1_000_000))
        await conn.read_all()

    upstream = await serve(switching(talk))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    client.stop_reading()
    exchange = next(iter(proxy.app.ledger.live.values()))
    await until(lambda: bool(exchange.blocked_since) == blocked, "the client to be waited for")
    exchange.interrupt(StoppedByOperator())
    assert (await proxy.end_of()).end == "cancelled"
    await (await upstream.connection()).wait_ended()
    client.reset()  # it takes nothing, and a minute is allowed for that


async def test_the_operator_can_end_one(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(until_the_end))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    next(iter(proxy.app.ledger.live.values())).interrupt(StoppedByOperator())
    assert (await client.read_all())[0] == b"\x88\x02\x03\xe9"
    assert (await proxy.end_of()).end == "cancelled"


async def test_a_time_out_is_announced_between_frames_only(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def talk(conn: Conn) -> None:
        await conn.send(WORLD[:3])
        heard.set_result((await conn.read_all())[0])

    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    upstream = await serve(switching(talk))
    proxy = await stack([route(upstream.url, timeouts={"idle": "300ms"})])
    client = await tunnel(proxy, dial)
    assert (await client.read_all())[0] == WORLD[:3]
    assert (await heard)[:2] == b"\x88\x82"
    assert (await proxy.end_of()).end == "timeout"


async def close_frame(conn: Conn) -> None:
    await conn.send(UPSTREAM_CLOSE)
    await conn.read_all()


@pytest.mark.quirk("httpx", "h2", reason="the same sockets, and ten seconds")
async def test_a_close_that_is_never_answered_is_not_waited_for_any_longer_than_by_clients(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve([switching(until_the_end), switching(close_frame)])
    proxy = await stack([route(upstream.url, timeouts={"idle": "off"}, websocket={"ping": "2s"})])
    closing = await tunnel(proxy, dial)
    await closing.send(CLIENT_CLOSE)
    silent = await tunnel(proxy, dial)
    assert await silent.read_exactly(len(UPSTREAM_CLOSE)) == UPSTREAM_CLOSE
    for client in (closing, silent):
        assert (await client.wait_ended()).how == "eof"
        assert client.buffer == b""  # nor was anybody pinged who has said goodbye, or has heard it
    for number in range(2):
        assert (await proxy.end_of(number)).end == "client_disconnect"


@pytest.mark.quirk("httpx", "h2", reason="the same sockets, and five seconds")
async def test_a_client_that_never_answers_a_close_is_not_kept(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def talk(conn: Conn) -> None:
        await conn.send(UPSTREAM_CLOSE)
        conn.half_close()
        await conn.read_all()

    upstream = await serve(switching(talk))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    assert await client.read_exactly(4) == UPSTREAM_CLOSE
    assert (await proxy.end_of()).end == "client_disconnect"


async def test_a_lost_upstream_is_noticed_while_the_client_takes_nothing(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def talk(conn: Conn) -> None:
        with contextlib.suppress(PeerEnded):
            while True:
                await conn.send(bytes(1_000_000))

    upstream = await serve(switching(talk))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    client.stop_reading()
    exchange = next(iter(proxy.app.ledger.live.values()))
    await until(lambda: exchange.blocked_since, "the client to be waited for")
    (await upstream.connection()).reset()
    assert (await proxy.end_of()).end == "upstream_truncated"
    client.reset()


async def test_an_upstream_that_takes_nothing_is_given_up(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack([route(upstream.url, timeouts={"write": "300ms"})])
    client = await tunnel(proxy, dial)
    (await upstream.connection()).stop_reading()

    async def flood() -> None:
        with contextlib.suppress(PeerEnded):
            await client.send(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + MASK)
            while True:
                await client.send(bytes(1_000_000))

    flooding = asyncio.ensure_future(flood())
    ended = await proxy.end_of()
    assert (ended.end, ended.error.error, ended.error.title) == (
        "timeout",
        "connection_write_timeout",
        "The upstream took nothing for too long",
    )
    await flooding


async def test_a_route_that_continues_reads_on_after_the_client_left(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    go = asyncio.Event()

    async def talk(conn: Conn) -> None:
        await go.wait()
        await conn.send(WORLD + UPSTREAM_CLOSE)
        conn.close()

    upstream = await serve(switching(talk))
    proxy = await stack([route(upstream.url, on_disconnect="continue")])
    client = await tunnel(proxy, dial)
    exchange = next(iter(proxy.app.ledger.live.values()))
    client.reset()
    await until(lambda: exchange.task is None or proxy.engine.connections == 0, "the client's leaving to be noticed")
    assert proxy.app.ledger.live
    go.set()
    ended = await proxy.end_of()
    assert (ended.end, ended.events) == ("client_disconnect", 1)


async def test_a_drain_closes_between_frames_and_waits_for_the_answers(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack(upstream.url)
    client = await tunnel(proxy, dial)
    conn = await upstream.connection()
    await conn.send(WORLD[:4])
    await client.read_exactly(4)
    stop = Stop()
    task = asyncio.ensure_future(drain(proxy.app, proxy.engine, stop, delay=0, timeout=0.2))
    await conn.read_until(b"\x88\x82")
    assert len(await conn.read_exactly(6)) == 6
    await conn.send(WORLD[4:] + WORLD)
    assert await client.read_exactly(3) == WORLD[4:]
    assert await client.read_exactly(4) == b"\x88\x02\x03\xf4"
    await client.send(CLIENT_CLOSE)
    await conn.send(UPSTREAM_CLOSE)
    assert (await client.read_all())[0] == b""
    await task
    assert (await proxy.end_of()).end == "shutdown"


async def test_no_tunnel_begins_while_the_proxy_drains(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    proxy.app.ledger.draining = True
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"")
    assert (await client.read_response()).status == 503


async def test_an_upstream_behind_an_egress_proxy_refuses_handshakes(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    if stack.client in ("native", "h2"):
        pytest.skip("the native client speaks to no egress proxy")
    upstream = await serve(answering(response(b"ok")))
    upstreams = {"up": {"endpoints": [upstream.url], "proxy": "http://127.0.0.1:1"}}
    proxy = await stack([route("up")], upstreams=upstreams)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"")
    assert (await client.read_response()).status == 501
    assert not upstream.requests


@pytest.mark.quirk("httpx", reason="`http2: on` with `client: httpx` is refused")
async def test_a_socket_to_an_upstream_of_http2_goes_over_http1(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack([route("up")], upstreams={"up": {"endpoints": [upstream.url], "http2": "on"}})
    client = await tunnel(proxy, dial)
    await client.send(HELLO)
    assert await (await upstream.connection()).read_exactly(len(HELLO)) == HELLO
    await close_in_order(client, upstream)


async def test_garbage_passes_all_the_same(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(switching(stalled))
    proxy = await stack([route(upstream.url, websocket={"ping": "100ms"})])
    client = await tunnel(proxy, dial)
    noise = b"\xff" + os.urandom(5000)
    await client.send(noise)
    assert await (await upstream.connection()).read_exactly(len(noise)) == noise


# A real library at both ends.


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_websockets_talks_to_websockets(stack: StartStack) -> None:
    async with serve_websockets() as url:
        proxy = await stack(url)
        address = proxy.url.replace("http:", "ws:")
        async with connect(address, subprotocols=[websockets.Subprotocol("chat")], max_size=None, proxy=None) as client:
            assert client.subprotocol == "chat"
            for message in ("text", b"binary", "x" * 2_000_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "parts"])
            assert await client.recv() == "in parts"
            await (await client.ping())
            await client.close(4001, "enough")
        ended = await proxy.end_of()
        assert (ended.end, ended.events) == ("complete", 4)


def serve_websockets() -> _Server:
    return _Server()


class _Server:
    async def __aenter__(self) -> str:
        self._server = await listen(
            echo, "127.0.0.1", 0, max_size=None, subprotocols=[websockets.Subprotocol("chat")]
        ).__aenter__()
        return f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def __aexit__(self, *args: object) -> None:
        self._server.close()
        await self._server.wait_closed()
