"""What the protocol answers by itself, without the application."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import Connect
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import GET, Receive, Scope, Send, body_message, hello, read_body, start_message

GOOD = b"Host: a\r\n\r\n"


async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a refused request reached the application")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + GOOD, 400),
        (b"GET  / HTTP/1.1\r\n" + GOOD, 400),
        (b"GET / HTTP/2.0\r\n" + GOOD, 400),
        (b"GET /a#b HTTP/1.1\r\n" + GOOD, 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n" + GOOD, 400),
        (b"GET / HTTP/1.1\r\nX : a\r\n" + GOOD, 400),
        (b"GET / HTTP/1.1\r\nX: \0\r\n" + GOOD, 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" + GOOD, 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + GOOD, 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n" + GOOD, 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + GOOD, 400),
        (b"B(EW / HTTP/1.1\r\n" + GOOD, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"CONNECT a:443 HTTP/1.1\r\n" + GOOD + b"\x16\x03", 501),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 2000 + b"\r\n" + GOOD, 431),
        (b"GET /" + b"a" * 2000, 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100 + GOOD, 431),
    ],
)
async def test_a_refused_request_never_reaches_the_application(
    start: Start, dial: Connect, raw: bytes, status: int
) -> None:
    server = await start(unreachable, max_header_size=1000)
    client = await dial(server.url)
    await client.send(raw)
    answer = await client.read_response()
    body = json.loads(answer.body)
    assert answer.status == status
    assert answer.complete
    assert answer.get("connection") == b"close"
    assert answer.get("content-type") == b"application/problem+json"
    assert answer.get("proxy-status") == b"streamproxy; error=http_request_error"
    assert answer.get("via") == b"1.1 streamproxy"
    assert (answer.get("date") or b"").endswith(b" GMT")
    assert (body["type"], body["status"]) == ("about:blank", status)
    assert body["title"]
    assert body["detail"]
    assert (await client.wait_ended()).how == "eof"
    assert server.rejected == [(status, body["detail"])]


async def test_a_refusal_is_readable_while_the_client_is_still_sending(start: Start, dial: Connect) -> None:
    server = await start(unreachable)
    client = await dial(server.url)
    await client.send(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(30):
        await client.send(b"x" * 100_000)
    answer = await client.read_response()
    assert (answer.status, answer.complete) == (400, True)
    assert (await client.wait_ended()).how == "eof"


async def test_a_client_that_never_stops_sending_is_cut_off(start: Start, dial: Connect) -> None:
    server = await start(unreachable, linger=0.05)
    client = await dial(server.url)
    await client.send(b"nonsense\r\n\r\n")
    assert (await client.read_response()).status == 400
    await client.wait_ended()
    await until(lambda: not server.state.connections)


async def test_a_bad_request_behind_a_good_one_is_answered_after_it(start: Start, dial: Connect) -> None:
    server = await start(hello)
    client = await dial(server.url)
    await client.send(GET + b"GET / HTTP/9.9\r\n" + GOOD)
    assert (await client.read_response()).body == b"/ "
    assert (await client.read_response()).status == 400
    assert (await client.wait_ended()).how == "eof"


async def test_a_bad_chunk_before_the_response_is_a_400_and_the_application_hears_of_it(
    start: Start, dial: Connect
) -> None:
    heard: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.on_disconnect = lambda: heard.append(connection.fault.detail)
        heard.append((await receive())["body"])
        heard.append((await receive())["type"])

    server = await start(app)
    client = await dial(server.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await until(lambda: heard)
    await client.send(b"x\r\n")
    answer = await client.read_response()
    assert answer.status == 400
    assert (await client.wait_ended()).how == "eof"
    assert heard == [b"abc", "A chunk's size is malformed", "http.disconnect"]
    assert not server.rejected  # the application knows, and accounts for it


async def test_a_bad_chunk_after_the_response_began_ends_it_unfinished(start: Start, dial: Connect) -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        await send(body_message(b"begun", more=True))
        try:
            await read_body(receive)
        except AssertionError:
            ended.set()

    server = await start(app)
    client = await dial(server.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.read_head()
    assert await client.read_piece() == b"begun"
    await client.send(b"nonsense\r\n")
    answer = await client.read_rest()
    assert (answer.body, answer.complete) == (b"", False)
    async with asyncio.timeout(10):
        await ended.wait()


async def test_trailers_never_become_headers(start: Start, dial: Connect) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen.append(list(scope["headers"]))
        await send(start_message(204))
        await send(body_message())

    server = await start(app)
    client = await dial(server.url)
    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Admin: yes\r\nHost: b\r\n\r\n"
    )
    assert (await client.read_response()).status == 204
    assert seen == [[(b"host", b"a"), (b"transfer-encoding", b"chunked")]]
