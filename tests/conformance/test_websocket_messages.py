"""WebSocket as its users see it: the same messages, closes and refusals under every server.

The ``websockets`` library stands at both ends. Under our own server the proxy tunnels bytes, under the others it relays
messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamproxy.errors import StoppedByShutdown
from streamproxy.wire.websocket import accept_of
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response
from tests.doubles.websocket import KEY, SWITCH

pytestmark = [
    pytest.mark.quirk("h2", reason="handshakes go over HTTP/1.1 connections, as those of native"),
    pytest.mark.quirk("http2", reason="HTTP/2 has no Upgrade; clients open an HTTP/1.1 connection"),
    pytest.mark.quirk("user", reason="httpx's shape has no word for a connection that leaves HTTP"),
]

CHAT = websockets.Subprotocol("chat")

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def upstream_of(handler: Handler, **options: Any) -> AsyncIterator[str]:
    """A WebSocket server; its URL."""
    async with listen(handler, "127.0.0.1", 0, max_size=None, subprotocols=[CHAT], **options) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def dialled(proxy: RunningStack, **options: Any) -> connect:
    options.setdefault("subprotocols", [CHAT])
    return connect(proxy.url.replace("http:", "ws:"), max_size=None, proxy=None, **options)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def closed(connection: ClientConnection | ServerConnection) -> ConnectionClosed:
    async with asyncio.timeout(15):
        while True:
            try:
                await connection.recv()
            except ConnectionClosed as error:
                return error


async def test_messages_pass_both_ways_whatever_their_size_and_kind(stack: StartStack) -> None:
    async with upstream_of(echo) as url:
        proxy = await stack(url)
        async with dialled(proxy, subprotocols=["v0", CHAT]) as client:
            assert client.subprotocol == "chat"
            for message in ("text", b"binary", "", b"", "é" * 1_500_000, b"x" * 5_000_000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(["in ", "parts"])
            assert await client.recv() == "in parts"
            exchange = next(iter(proxy.app.ledger.live.values()))
            assert (exchange.status, exchange.protocol, exchange.events) == (101, "websocket", 7)
        ended = await proxy.end_of()
        for side in ("client", "upstream"):
            assert proxy.metric("streamproxy_websocket_messages_total", direction=side) == 7
    if proxy.engine.__class__.__name__ != "HypercornEngine":
        assert (ended.end, ended.phase) == ("complete", "body")


@pytest.mark.quirk("hypercorn", reason="it does not tell the application what a client's Close frame says")
async def test_the_client_s_close_reaches_the_upstream(stack: StartStack) -> None:
    seen: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        seen.set_result(await closed(connection))

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        async with dialled(proxy) as client:
            await client.close(4001, "enough")
        close = (await seen).rcvd
        assert close is not None
        assert (close.code, close.reason) == (4001, "enough")
        assert (await proxy.end_of()).end == "complete"


async def test_the_upstream_s_close_reaches_the_client(stack: StartStack) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send("last")
        await connection.close(4002, "over")

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        async with dialled(proxy) as client:
            assert await client.recv() == "last"
            close = (await closed(client)).rcvd
        assert close is not None
        assert (close.code, close.reason) == (4002, "over")
        assert (await proxy.end_of()).end == "complete"


async def test_a_lost_upstream_never_looks_like_a_good_end(stack: StartStack) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        async with dialled(proxy) as client:
            await client.send("go")
            close = (await closed(client)).rcvd
        assert close is None or close.code == 1011
        assert (await proxy.end_of()).end == "upstream_truncated"


async def test_a_lost_client_is_a_lost_connection_for_the_upstream(stack: StartStack) -> None:
    seen: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        seen.set_result(await closed(connection))

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        client = await dialled(proxy)
        client.transport.abort()
        assert (await seen).rcvd is None
        assert (await proxy.end_of()).end == "client_disconnect"


async def test_a_refusal_of_the_upstream_is_relayed(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(answering(response(b"no entry", status="403 Forbidden")))
    proxy = await stack(upstream.url)
    with pytest.raises(InvalidStatus) as caught:
        await dialled(proxy)
    assert caught.value.response.status_code == 403
    assert caught.value.response.body == b"no entry"
    assert (await proxy.end_of()).status == 403


async def test_a_route_can_refuse_websocket(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, websocket="off")])
    with pytest.raises(InvalidStatus) as caught:
        await dialled(proxy)
    assert caught.value.response.status_code == 501
    assert not upstream.requests


async def test_a_handshake_is_authenticated_like_a_request(stack: StartStack) -> None:
    async with upstream_of(echo) as url:
        proxy = await stack([route(url, auth={"bearer": {"tokens": ["s3cret"]}})])
        with pytest.raises(InvalidStatus) as caught:
            await dialled(proxy)
        assert caught.value.response.status_code == 401
        async with dialled(proxy, additional_headers={"Authorization": "Bearer s3cret"}) as client:
            await client.send("in")
            assert await client.recv() == "in"


async def test_a_socket_takes_a_place_as_long_as_it_lives(stack: StartStack) -> None:
    async with upstream_of(echo) as url:
        proxy = await stack([route(url, limits={"max_streams": 1})])
        async with dialled(proxy):
            with pytest.raises(InvalidStatus) as caught:
                await dialled(proxy)
            assert caught.value.response.status_code == 503
        await proxy.end_of(1)
        async with dialled(proxy) as client:
            await client.send("again")
            assert await client.recv() == "again"


async def test_a_handshake_goes_to_another_endpoint_when_one_is_down(stack: StartStack) -> None:
    async with upstream_of(echo) as url:
        upstreams = {"up": {"endpoints": ["http://127.0.0.1:1", url], "balance": "round_robin"}}
        proxy = await stack([route("up", retry={"attempts": 2})], upstreams=upstreams)
        for _ in range(2):
            async with dialled(proxy) as client:
                await client.send("here")
                assert await client.recv() == "here"


async def test_a_silent_socket_is_given_up_after_idle(stack: StartStack) -> None:
    async with upstream_of(echo) as url:
        proxy = await stack([route(url, timeouts={"idle": "300ms"})])
        async with dialled(proxy) as client:
            close = (await closed(client)).rcvd
        assert close is None or close.code != 1000
        ended = await proxy.end_of()
        assert (ended.end, ended.error.error) == ("timeout", "connection_read_timeout")


async def test_each_side_s_pings_are_answered(stack: StartStack) -> None:
    answered = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await (await connection.ping(b"up"))
        answered.set()
        await connection.wait_closed()

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        async with dialled(proxy) as client:
            await (await client.ping(b"down"))
            await answered.wait()


async def test_a_stopping_proxy_says_so_to_both_sides(stack: StartStack) -> None:
    seen: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        seen.set_result(await closed(connection))

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        async with dialled(proxy) as client:
            next(iter(proxy.app.ledger.live.values())).interrupt(StoppedByShutdown())
            close = (await closed(client)).rcvd
        assert close is not None
        assert close.code == 1012
        at_upstream = (await seen).rcvd
        assert at_upstream is not None
        assert at_upstream.code == 1001
        assert (await proxy.end_of()).end == "shutdown"


async def test_an_upstream_waits_for_a_client_that_takes_nothing(stack: StartStack) -> None:
    sent = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        for _ in range(100):
            await connection.send(bytes(1_000_000))
            sent += 1

    async with upstream_of(handler, compression=None) as url:
        proxy = await stack(url)
        async with dialled(proxy, max_queue=1, compression=None) as client:
            exchange = next(iter(proxy.app.ledger.live.values()))
            await until(lambda: exchange.blocked_since, "the client to be waited for")
            assert sent < 60
            for _ in range(100):
                assert len(await client.recv()) == 1_000_000
            assert exchange.events == 100


@pytest.mark.quirk("uvicorn", reason="a tunnel passes what the upstream sends")
@pytest.mark.parametrize(
    "frames", [b"\x83\x00", b"\x81\x02\xff\xff", b"\x81\x80\0\0\0\0"], ids=["opcode", "UTF-8", "mask"]
)
async def test_frames_that_are_none_end_a_relay_of_messages(stack: StartStack, serve: Serve, frames: bytes) -> None:
    async def script(conn: Conn) -> None:
        request = await conn.read_head()
        key = request.get("sec-websocket-key") or b""
        await conn.send(SWITCH.replace(accept_of(KEY), accept_of(key)) % b"" + frames)
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    async with dialled(proxy) as client:
        close = (await closed(client)).rcvd
    assert close is None or close.code == 1011
    ended = await proxy.end_of()
    assert (ended.end, ended.error.error) == ("error", "http_protocol_error")


@pytest.mark.quirk("uvicorn", reason="a tunnel leaves extensions to the two ends")
async def test_an_extension_is_never_offered_to_the_upstream_of_messages(stack: StartStack, serve: Serve) -> None:
    async def script(conn: Conn) -> None:
        request = await conn.read_head()
        assert request.get("sec-websocket-extensions") is None
        key = request.get("sec-websocket-key") or b""
        head = SWITCH.replace(accept_of(KEY), accept_of(key))
        await conn.send(head % b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    with pytest.raises(InvalidStatus) as caught:
        await dialled(proxy)
    assert caught.value.response.status_code == 502


@pytest.mark.quirk("uvicorn", reason="a tunnel leaves the subprotocol to the two ends")
@pytest.mark.parametrize("chosen", [b"other", b"chat, chat", b"chat\r\nSec-WebSocket-Protocol: chat", b"", b"ch\xe9t"])
async def test_a_subprotocol_that_was_not_offered_is_no_answer_of_a_websocket(
    stack: StartStack, serve: Serve, chosen: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 6455 section 4.1. Some servers fail when they are told of such a choice."""

    async def script(conn: Conn) -> None:
        key = (await conn.read_head()).get("sec-websocket-key") or b""
        head = SWITCH.replace(accept_of(KEY), accept_of(key))
        await conn.send(head % (b"Sec-WebSocket-Protocol: " + chosen + b"\r\n"))
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    with pytest.raises(InvalidStatus) as caught:
        await dialled(proxy, subprotocols=["v0", CHAT])
    assert caught.value.response.status_code == 502
    ended = await proxy.end_of()
    assert (ended.end, ended.error.error) == ("error", "http_protocol_error")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.quirk("stock", reason="says nothing to such a handshake, and does not ask the application")
@pytest.mark.parametrize(
    ("fields", "body"),
    [(b"Content-Length: 5\r\n", b"hello"), (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")],
    ids=["a length", "chunks"],
)
async def test_a_handshake_with_a_body_is_the_clients_mistake(
    stack: StartStack, serve: Serve, dial: Connect, fields: bytes, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its server takes it for a handshake, and hands out no body that could be sent on."""
    upstream = await serve(answering(response(b"plain")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(
        b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + fields + b"\r\n" + body
    )
    assert (await client.read_response()).status < 500
    assert proxy.metric("streamproxy_requests_total", route="r0", method="GET", code="500") in (None, 0)
    assert not [record for record in caplog.records if record.exc_info]
