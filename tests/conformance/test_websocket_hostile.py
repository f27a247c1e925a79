"""Handshakes that are none, and upstreams whose answer is none: no byte of a client reaches an upstream unread.

A proxy that takes a refused handshake for a tunnel passes on whatever the client sends next, past its own routes and
authentication. So every case here puts a request for another path behind its handshake.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.stack import RunningStack
from tests.doubles.upstream import Conn, Upstream, answering, response
from tests.doubles.websocket import HANDSHAKE, HELLO, KEY, MASK, SWITCH, WORLD

pytestmark = [
    pytest.mark.quirk("stock", "hypercorn", reason="a server of its own reads the handshake"),
    pytest.mark.quirk("http2", reason="HTTP/2 has no Upgrade; clients open an HTTP/1.1 connection"),
    pytest.mark.quirk("user", "httpx", "h2", reason="the native client makes its upgrades, or nobody does"),
]

SECRET = b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n"
FALSE_ACCEPT = SWITCH.replace(b"Accept: s", b"Accept: t") % b""


async def chat_only(stack: StartStack, upstream: Upstream, **keys: Any) -> RunningStack:
    return await stack([{"path": "/chat", "upstream": upstream.url, **keys}])


async def never_saw_the_secret(client: RawClient, upstream: Upstream) -> None:
    """What came behind the handshake is a request like any other, for a path without a route; or it is not read."""
    if client.ended is None:
        assert (await client.read_response()).status == 404
    for conn in upstream.connections:
        assert b"secret" not in conn.buffer
    assert all(head.target == b"/chat" for head in upstream.requests)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Version: 13", b"Version: 777"), 426),
        ((b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13"), 426),
        ((KEY, b"AAAA"), 400),
        ((KEY, KEY[:-2] + b"**"), 400),
        ((KEY, KEY + b", " + KEY), 400),
    ],
    ids=["version", "two versions", "short key", "no base64", "two keys"],
)
async def test_nothing_is_smuggled_behind_a_handshake_that_the_proxy_refuses(
    stack: StartStack, serve: Serve, dial: Connect, change: tuple[bytes, bytes], status: int
) -> None:
    upstream = await serve(answering(SWITCH % b""))  # it would take anything for a handshake
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send((HANDSHAKE % b"").replace(*change) + SECRET)
    assert (await client.read_response()).status == status
    assert not upstream.connections
    await never_saw_the_secret(client, upstream)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (response(b"ok"), 502),
        (response(b"", status="204 No Content", length=False), 502),
        (response(b"old", status="426 Upgrade Required", headers=[("Sec-WebSocket-Version", "8")]), 426),
        (response(b"no", status="403 Forbidden"), 403),
        (FALSE_ACCEPT, 502),
        (SWITCH.replace(b"Upgrade: websocket", b"Upgrade: h2c") % b"", 502),
        (SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c") % b"", 502),
        (SWITCH % b"Upgrade: websocket\r\n", 502),
        (SWITCH % b"Sec-WebSocket-Accept: x\r\n", 502),
        (SWITCH.replace(b"Upgrade: websocket\r\n", b"") % b"", 502),
        (SWITCH.replace(b"Connection: Upgrade\r\n", b"") % b"", 502),
        (SWITCH.replace(b"Connection: Upgrade", b"Connection: close") % b"", 502),
        (SWITCH % b"Content-Length: 5\r\n", 502),
        (SWITCH % b"Transfer-Encoding: chunked\r\n", 502),
        (SWITCH.replace(b"HTTP/1.1", b"HTTP/1.0") % b"", 502),
        (WORLD + SWITCH % b"", 502),
        (b"\r\n" + WORLD + SWITCH % b"", 502),
    ],
    ids=[
        "200", "204", "426", "403", "false accept", "another protocol", "two protocols", "two Upgrades", "two accepts",
        "no Upgrade", "no Connection", "Connection: close", "a length", "chunks", "HTTP/1.0", "a frame before the 101",
        "an empty line and a frame",
    ],
)  # fmt: skip
async def test_nothing_is_smuggled_behind_an_answer_that_is_no_switch(
    stack: StartStack, serve: Serve, dial: Connect, answer: bytes, status: int
) -> None:
    async def script(conn: Conn) -> None:
        while True:
            await conn.read_head()
            await conn.send(answer + WORLD if b"101" in answer else answer)

    upstream = await serve(script)
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + SECRET)
    answered = await client.read_response()
    assert answered.status == status
    assert b"world" not in answered.body
    if status == 502:
        assert answered.get("proxy-status") == b"streamproxy; error=http_protocol_error"
    await never_saw_the_secret(client, upstream)
    # The connection of an answer like that carries no other request.
    await client.aclose()
    again = await dial(proxy.url)
    await again.send(HANDSHAKE % b"")
    assert (await again.read_response()).status == status
    if status == 502:
        assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    "change",
    [
        (b"Upgrade: WebSocket", b"Upgrade: h2c"),
        (b"Upgrade: WebSocket", b"Upgrade: TLS/1.0"),
        (b"Upgrade: WebSocket", b"Upgrade: websocket/13"),
        (b"Upgrade: WebSocket", b"Upgrade: h2c, websocket"),
        (b"Upgrade: WebSocket", b"Upgrade: websocket\r\nUpgrade: h2c"),
        (b"Upgrade: WebSocket", b"Upgrade: websocket\r\nUpgrade: websocket"),
        (b"Connection: keep-alive, Upgrade", b"Connection: keep-alive"),
        (b"Connection: keep-alive, Upgrade\r\n", b""),
        (b"GET /chat HTTP/1.1\r\n", b"GET /chat HTTP/1.0\r\n"),
        (b"GET /chat", b"POST /chat"),
        (b"GET /chat", b"OPTIONS /chat"),
    ],
    ids=[
        "h2c", "TLS", "a version", "a list", "two fields", "twice", "no option", "no Connection", "HTTP/1.0", "POST",
        "OPTIONS",
    ],
)  # fmt: skip
async def test_another_upgrade_is_a_plain_request_for_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect, change: tuple[bytes, bytes]
) -> None:
    upstream = await serve(answering(response(b"plain")))
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send((HANDSHAKE % b"").replace(*change) + SECRET)
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"plain")
    sent = await upstream.request()
    assert not [name for name in sent.names if name.lower().startswith((b"sec-websocket-", b"upgrade"))]
    assert b"upgrade" not in (sent.get("connection") or b"").lower()
    await never_saw_the_secret(client, upstream)


@pytest.mark.parametrize(
    ("fields", "body"),
    [(b"Content-Length: 5\r\n", b"hello"), (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")],
    ids=["a length", "chunks"],
)
async def test_a_handshake_with_a_body_is_a_plain_request(
    stack: StartStack, serve: Serve, dial: Connect, fields: bytes, body: bytes
) -> None:
    bodies: list[bytes] = []

    async def script(conn: Conn) -> None:
        head, received = await conn.read_request()
        assert head.get("upgrade") is None
        bodies.append(received)
        await conn.send(response(b"plain"))
        await conn.read_all()

    upstream = await serve(script)
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % fields + body + SECRET)
    assert (await client.read_response()).body == b"plain"
    assert bodies == [b"hello"]
    await never_saw_the_secret(client, upstream)


async def test_a_switch_that_nobody_asked_for_makes_no_tunnel(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(SWITCH % b"" + WORLD))
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send(b"GET /chat HTTP/1.1\r\nHost: x\r\n\r\n" + SECRET)
    assert (await client.read_response()).status == 502
    await never_saw_the_secret(client, upstream)


async def test_informational_responses_before_the_switch_are_no_switch(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await conn.send(SWITCH % b"")
        assert await conn.read_exactly(len(HELLO)) == HELLO
        await conn.send(WORLD)
        await conn.stall()

    upstream = await serve(script)
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + HELLO)
    assert (await client.read_head()).status == 101
    assert [head.status for head in client.interim] == [103]
    assert await client.read_exactly(len(WORLD)) == WORLD
    (await upstream.connection()).go.set()


async def test_nothing_is_smuggled_where_a_route_refuses_websocket(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(SWITCH % b""))
    proxy = await chat_only(stack, upstream, websocket="off")
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + SECRET)
    assert (await client.read_response()).status == 501
    assert not upstream.connections
    await never_saw_the_secret(client, upstream)


async def test_a_refused_handshake_leaves_frames_that_are_no_request(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"no", status="403 Forbidden")))
    proxy = await chat_only(stack, upstream)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"" + b"\x82\x86" + MASK + b"frames")
    assert (await client.read_response()).status == 403
    assert (await client.read_response()).status == 400
    await client.wait_ended()
    assert not (await upstream.connection()).buffer


@pytest.mark.parametrize(
    "keys",
    [
        {"resume": {}},
        {"share": {}},
        {"reconnect": {}},
        {"keepalive": {"before_headers": "1ms"}},
        {"retry": {"attempts": 2}},
    ],
    ids=["resume", "share", "reconnect", "early", "retry"],
)
async def test_a_handshake_on_a_route_for_events_is_a_handshake(
    stack: StartStack, serve: Serve, dial: Connect, keys: dict[str, Any]
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(SWITCH % b"" + WORLD)
        await conn.stall()

    upstream = await serve(script)
    proxy = await chat_only(stack, upstream, **keys)
    client = await dial(proxy.url)
    await client.send(HANDSHAKE % b"Accept: text/event-stream\r\nLast-Event-ID: 3\r\n" + HELLO)
    assert (await client.read_raw_head()).status == 101
    assert await client.read_exactly(len(WORLD)) == WORLD
    conn = await upstream.connection()
    assert await conn.read_exactly(len(HELLO)) == HELLO
    conn.go.set()
