"""Bytes that come before their time: behind a handshake that has no answer yet, and in one write with a 101.

Nothing of them is lost, no more of them is held than a connection's limits, and backpressure reaches their sender.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamproxy.wire.websocket import accept_of
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response
from tests.doubles.websocket import HANDSHAKE, HELLO, KEY, SWITCH, UPSTREAM_CLOSE, WORLD, big_frame

tunnels = pytest.mark.quirk("stock", "hypercorn", reason="only our own server offers the connection's bytes")
pytestmark = [
    pytest.mark.quirk("http2", reason="HTTP/2 has no Upgrade; clients open an HTTP/1.1 connection"),
    pytest.mark.quirk("user", "httpx", "h2", reason="the native client makes its upgrades, or nobody does"),
]

FLOOD = random.Random(1).randbytes(32 << 20)
PINGS = (b"\x89\x7d" + bytes(125)) * ((32 << 20) // 127)
KERNEL = 16 << 20  # bytes, more than the socket buffers of two connections and the proxy's own limits together
STILL = 200  # turns of the event loop, which client, proxy and upstream share, in which nothing has moved


async def standstill(moved: Callable[[], int]) -> int:
    """Waits until a number of bytes grows no more; returns it."""
    seen: list[int] = []

    def look() -> bool:
        seen.append(moved())
        return len(seen) > STILL and seen[-1] == seen[-STILL]

    await until(look, "the bytes to stand still")
    return seen[-1]


@pytest.fixture(params=["TCP", "TLS"])
def secure(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "TLS")


async def start(stack: StartStack, upstream: Upstream, certificate: Certificate) -> RunningStack:
    upstreams = {"up": {"endpoints": [upstream.url], "tls": {"ca": str(certificate.cert)}}}
    return await stack([route("up")], upstreams=upstreams)


def context(secure: bool, certificate: Certificate) -> ssl.SSLContext | None:
    return certificate.server_context() if secure else None


@tunnels
async def test_a_flood_behind_a_handshake_waits_for_the_101_and_arrives_whole(
    stack: StartStack, serve: Serve, dial: Connect, certificate: Certificate, secure: bool
) -> None:
    frame = big_frame(FLOOD, masked=True)

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.stall()
        conn.stop_reading()
        await conn.send(SWITCH % b"")
        await conn.upstream.go.wait()

    upstream = await serve(script, tls=context(secure, certificate))
    proxy = await start(stack, upstream, certificate)
    client = await dial(proxy.url)
    client.write(HANDSHAKE % b"" + frame)
    conn = await upstream.connection()
    await upstream.request()
    assert await standstill(lambda: client.taken) < KERNEL
    conn.go.set()
    assert (await client.read_raw_head()).status == 101
    assert await standstill(lambda: client.taken) < KERNEL
    conn.go_on_reading()
    assert await conn.read_exactly(len(frame)) == frame
    await until(lambda: proxy.metric("streamproxy_websocket_messages_total", direction="client") == 1, "the message")
    upstream.go.set()


@tunnels
async def test_a_flood_behind_a_101_waits_for_the_client_and_arrives_whole(
    stack: StartStack, serve: Serve, dial: Connect, certificate: Certificate, secure: bool
) -> None:
    frame = big_frame(FLOOD, masked=False)

    async def script(conn: Conn) -> None:
        await conn.read_head()
        conn.write(SWITCH % b"" + frame)
        await conn.upstream.go.wait()

    upstream = await serve(script, tls=context(secure, certificate))
    proxy = await start(stack, upstream, certificate)
    client = await dial(proxy.url)
    client.stop_reading()
    await client.send(HANDSHAKE % b"")
    exchange = await until(lambda: next(iter(proxy.app.ledger.live.values()), None), "the exchange")
    await until(lambda: exchange.blocked_since, "the client to be waited for")
    assert await standstill(lambda: exchange.response_bytes) < KERNEL
    client.go_on_reading()
    assert (await client.read_raw_head()).status == 101
    assert await client.read_exactly(len(frame)) == frame
    assert exchange.events == 1
    upstream.go.set()


@tunnels
async def test_frames_and_an_end_in_one_write_with_the_101_all_reach_the_client(
    stack: StartStack, serve: Serve, dial: Connect, certificate: Certificate, secure: bool
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        conn.write(SWITCH % b"" + WORLD + UPSTREAM_CLOSE)
        conn.close()

    upstream = await serve(script, tls=context(secure, certificate))
    proxy = await start(stack, upstream, certificate)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + HELLO)
    assert (await client.read_raw_head()).status == 101
    assert await client.read_exactly(len(WORLD + UPSTREAM_CLOSE)) == WORLD + UPSTREAM_CLOSE
    client.close()
    assert (await proxy.end_of()).events == 1


@tunnels
async def test_a_handshake_in_single_bytes_loses_nothing_behind_it(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(SWITCH % b"")
        await conn.stall()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    for byte in HANDSHAKE % b"" + HELLO * 20:
        await client.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await client.read_raw_head()).status == 101
    conn = await upstream.connection()
    assert await conn.read_exactly(len(HELLO) * 20) == HELLO * 20
    conn.go.set()


@tunnels
async def test_a_handshake_and_its_frames_wait_behind_the_request_before_them(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        while (await conn.read_request())[0].target != b"/chat":
            await conn.stall()
            await conn.send(response(b"first"))
        await conn.send(SWITCH % b"" + WORLD)
        assert await conn.read_exactly(len(HELLO) * 2) == HELLO * 2
        await conn.upstream.go.wait()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody" + HANDSHAKE % b"" + HELLO)
    await client.send(HELLO)
    conn = await upstream.connection()
    await upstream.request()
    assert len(upstream.connections) == 1
    conn.go.set()
    assert (await client.read_response()).body == b"first"
    assert (await client.read_raw_head()).status == 101
    assert await client.read_exactly(len(WORLD)) == WORLD
    exchange = next(iter(proxy.app.ledger.live.values()))
    await until(lambda: exchange.request_bytes == 2 * len(HELLO), "both frames to pass")
    upstream.go.set()


@tunnels
async def test_a_client_that_floods_and_leaves_before_the_101_is_noticed(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    client.write(HANDSHAKE % b"" + big_frame(FLOOD, masked=True))
    conn = await upstream.connection()
    await upstream.request()
    await standstill(lambda: client.taken)
    client.reset()
    await conn.wait_ended()
    assert (await proxy.end_of()).end == "client_disconnect"


@pytest.mark.quirk("uvicorn", reason="a tunnel leaves the answer to the client")
async def test_an_upstream_that_floods_pings_and_reads_no_answer_has_to_wait(stack: StartStack, serve: Serve) -> None:
    async def script(conn: Conn) -> None:
        key = (await conn.read_head()).get("sec-websocket-key") or b""
        conn.stop_reading()
        conn.write(SWITCH.replace(accept_of(KEY), accept_of(key)) % b"" + PINGS)
        await conn.upstream.go.wait()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    async with connect(proxy.url.replace("http:", "ws:"), proxy=None) as client:
        conn = await upstream.connection()
        assert await standstill(lambda: conn.taken) < KERNEL
        await client.send("still heard")
        conn.go_on_reading()
        await conn.read_until(b"\x8a\xfd")
        conn.reset()
        upstream.go.set()
        with pytest.raises(ConnectionClosed):
            await client.recv()
