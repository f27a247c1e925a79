"""What users of WebSocket through a proxy complain of most, each under every server: as a tunnel and as messages.

The rest of the list: that a reload cuts sockets is tested with the running program (``integration/test_websocket.py``),
and that a 101 which is none opens a way past the routes in ``test_websocket_hostile.py``.
"""

from __future__ import annotations

import pytest
import websockets
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus

from streamproxy.wire.websocket import accept_of
from tests.conformance.conftest import StartStack
from tests.conformance.test_websocket_messages import CHAT, closed, dialled, echo, upstream_of
from tests.conftest import Connect, Serve
from tests.doubles.stack import route
from tests.doubles.upstream import Conn
from tests.doubles.websocket import HANDSHAKE, KEY, SWITCH, WORLD

pytestmark = [
    pytest.mark.quirk("http2", reason="HTTP/2 has no Upgrade; clients open an HTTP/1.1 connection"),
    pytest.mark.quirk("user", "httpx", "h2", reason="the native client makes its upgrades, or nobody does"),
]

MEBIBYTE = 1 << 20


def switched(key: bytes | None, fields: bytes = b"") -> bytes:
    """The 101 to a handshake with this key."""
    return SWITCH.replace(accept_of(KEY), accept_of(key or b"")) % fields


@pytest.mark.parametrize(("offered", "chosen"), [(["v0", "chat"], "chat"), (["v0"], None), ([], None)])
async def test_the_subprotocol_that_the_upstream_chooses_is_echoed_and_no_other(
    stack: StartStack, offered: list[str], chosen: str | None
) -> None:
    def choose(connection: ServerConnection, protocols: object) -> websockets.Subprotocol | None:
        return CHAT if "chat" in offered else None

    async with upstream_of(echo, select_subprotocol=choose) as url:
        proxy = await stack(url)
        subprotocols = [websockets.Subprotocol(name) for name in offered] or None
        async with dialled(proxy, subprotocols=subprotocols) as client:
            assert client.subprotocol == chosen
            await client.send("spoken")
            assert await client.recv() == "spoken"


@pytest.mark.parametrize("parts", [1, 64])
async def test_a_message_of_more_than_a_mebibyte_passes_both_ways(stack: StartStack, parts: int) -> None:
    async with upstream_of(echo) as url:
        proxy = await stack(url)
        async with dialled(proxy, compression=None) as client:
            piece = b"x" * (MEBIBYTE // parts + 1)
            await client.send([piece] * parts if parts > 1 else piece)
            assert await client.recv() == piece * parts


async def test_an_upstreams_close_comes_to_the_client_before_the_client_says_a_word(stack: StartStack) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.close(4003, "go away")

    async with upstream_of(handler) as url:
        proxy = await stack(url)
        async with dialled(proxy) as client:
            close = (await closed(client)).rcvd
        assert close is not None
        assert (close.code, close.reason) == (4003, "go away")
        assert not proxy.app.ledger.live or (await proxy.end_of()).end == "complete"


async def test_an_upstream_that_closes_and_keeps_its_connection_is_not_waited_for(
    stack: StartStack, serve: Serve
) -> None:
    async def script(conn: Conn) -> None:
        key = (await conn.read_head()).get("sec-websocket-key")
        await conn.send(switched(key) + b"\x88\x02\x03\xe8")
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    async with dialled(proxy, subprotocols=None) as client:
        close = (await closed(client)).rcvd
    assert close is not None
    assert close.code == 1000
    assert (await (await upstream.connection()).wait_ended()).how == "eof"
    await proxy.end_of()


async def test_a_handshake_that_the_upstream_never_answers_has_a_time_out(stack: StartStack, serve: Serve) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.read_all()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"first_byte": "200ms"})])
    with pytest.raises(InvalidStatus) as caught:
        await dialled(proxy)
    assert caught.value.response.status_code == 504


async def test_an_upstream_that_never_answers_a_ping_is_kept(stack: StartStack, serve: Serve) -> None:
    async def script(conn: Conn) -> None:
        key = (await conn.read_head()).get("sec-websocket-key")
        await conn.send(switched(key))
        for _ in range(6):
            await conn.read_until(b"\x89\x80")  # the client's own answers come between
        await conn.send(WORLD)
        await conn.stall()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, websocket={"ping": "50ms"})])
    async with dialled(proxy, subprotocols=None) as client:
        assert await client.recv() == "world"
        (await upstream.connection()).go.set()


@pytest.mark.quirk("stock", "hypercorn", reason="the server has pings of its own")
async def test_a_client_that_never_answers_a_ping_is_kept(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(switched(KEY))
        await conn.stall()
        await conn.send(WORLD)

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, websocket={"ping": "50ms"})])
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"")
    await client.read_raw_head()
    for _ in range(6):
        assert await client.read_exactly(2) == b"\x89\x00"
    (await upstream.connection()).go.set()
    assert await client.read_exactly(len(WORLD)) == WORLD
