"""Request bodies: framing, backpressure, early answers, Expect, and what can go wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamproxy.client.http1.request import refuse_body_fields
from streamproxy.errors import BadRequest, ClientDisconnected, ConnectionTerminated, ResponseIncomplete
from streamproxy.exchange.body import RequestBody
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import SharedTimer, TimeLimits, Timer
from streamproxy.wire.headers import Headers
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.unit.client.http1.asking import HOST, ask, body_of, fetch, read, until
from tests.unit.client.http1.conftest import MakeClient

EXPECT: Headers = [*HOST, (b"expect", b"100-continue")]


def came_whole(data: bytes) -> RequestBody:
    """A request's body that has come with its head."""

    async def never() -> Any:
        raise AssertionError("all of it is here")

    exchange, limits = Exchange("r", "r", "u", "POST", "/"), TimeLimits()
    body = RequestBody(never, exchange, Timer(limits, exchange, SharedTimer(limits)), None)
    body.came_whole(data)
    return body


def sized(size: int) -> Headers:
    return [*HOST, (b"content-length", b"%d" % size)]


async def test_a_body_of_unknown_length_is_chunked(serve: Serve, native: MakeClient) -> None:
    bodies = []

    async def script(conn: Conn) -> None:
        bodies.append(await conn.read_request())
        await conn.send(response(b"ok"))
        await conn.wait_ended()

    client = native(await serve(script))
    await fetch(client, "POST", content=body_of(b"abc", b"", b"d" * 20))
    head, body = bodies[0]
    assert head.all("transfer-encoding") == [b"chunked"]
    assert body == b"abc" + b"d" * 20
    assert client.idle == 1


async def test_a_body_of_known_length_goes_out_as_it_is(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        head, body = await conn.read_request()
        assert head.all("transfer-encoding") == []
        assert head.all("content-length") == [b"5"]
        await conn.send(response(body))
        await conn.wait_ended()

    client = native(await serve(script))
    assert (await fetch(client, "POST", headers=sized(5), content=body_of(b"ab", b"cde"))).body == b"abcde"
    assert client.idle == 1


async def test_a_body_as_bytes_goes_out_with_its_length(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        while True:
            head, body = await conn.read_request()
            assert head.all("content-length") == [b"5"]
            await conn.send(response(body))

    client = native(await serve(script))
    assert (await fetch(client, "POST", content=b"abcde")).body == b"abcde"
    assert (await fetch(client, "POST", headers=sized(5), content=b"abcde")).body == b"abcde"
    with pytest.raises(ValueError, match="Content-Length"):
        ask(client, "POST", headers=sized(4), content=b"abcde")


@pytest.mark.parametrize(
    ("headers", "reported"),
    [
        pytest.param(sized(5), ["connect", "head"], id="with-the-head"),
        pytest.param([*sized(5), (b"expect", b"100-continue")], ["connect", "head"], id="without-a-100"),
        pytest.param(HOST, ["connect", "request", "head"], id="chunked"),
    ],
)
async def test_a_body_that_has_come_goes_out_with_the_head_where_it_may(
    serve: Serve, native: MakeClient, headers: Headers, reported: list[str]
) -> None:
    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        await conn.send(response(await conn.read_body(head)))
        await conn.wait_ended()

    client = native(await serve(script))
    steps: list[str] = []
    whole = came_whole(b"abcde")
    content = whole.attempt()
    assert (await fetch(client, "POST", headers=headers, content=content, progress=steps.append)).body == b"abcde"
    assert steps == reported
    assert whole.held == 0


async def test_an_empty_body_is_complete(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"ok"))))
    assert (await fetch(client, "POST", content=body_of())).body == b"ok"
    assert (await fetch(client, "POST", headers=sized(0), content=body_of())).body == b"ok"
    assert (await fetch(client, "POST", headers=sized(0))).body == b"ok"
    assert client.idle == 1


async def test_the_body_streams_while_it_comes(serve: Serve, native: MakeClient) -> None:
    go = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield b"first"
        await go.wait()
        yield b"last"

    async def script(conn: Conn) -> None:
        await conn.read_head()
        assert await conn.read_chunk() == b"first"
        go.set()
        assert await conn.read_chunk() == b"last"
        assert await conn.read_chunk() == b""
        await conn.send(response(b"ok"))

    assert (await fetch(native(await serve(script)), "POST", content=content())).body == b"ok"


async def test_the_response_streams_while_the_body_still_comes(serve: Serve, native: MakeClient) -> None:
    echoed: list[bytes] = []
    more = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number
            await more.wait()
            more.clear()

    async def echo(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        while chunk := await conn.read_chunk():
            await conn.send_chunk(chunk)
        await conn.send_chunk(b"")
        await conn.wait_ended()

    client = native(await serve(echo))
    async with guarded("the echo"), ask(client, "POST", content=content()) as answer:
        async for chunk in answer.aiter_raw():
            echoed.append(chunk)
            more.set()
    assert echoed == [b"0", b"1", b"2", b"3", b"4"]
    assert client.idle == 1


@pytest.mark.parametrize("headers", [sized(1024 * 65536), HOST], ids=["sized", "chunked"])
async def test_the_body_waits_for_an_upstream_that_does_not_read(
    headers: Headers, serve: Serve, native: MakeClient
) -> None:
    given = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(1024):
            yield b"x" * 65536
            given += 65536

    async def script(conn: Conn) -> None:
        await conn.read_until(b"\r\n\r\n")
        conn.stop_reading()
        await conn.stall()
        conn.go_on_reading()
        size = len(conn.buffer)
        while size < 1024 * 65536:
            size += len(await conn.read_some())
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    asking = asyncio.ensure_future(fetch(native(upstream), "POST", headers=headers, content=content()))
    await upstream.connection()
    before = -1
    for _ in range(5):
        while given != before:
            before = given
            await asyncio.sleep(0.01)
    assert given < 512 * 65536
    upstream.connections[0].go.set()
    assert (await asking).body == b"ok"


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536
        await asyncio.sleep(0)


async def test_an_early_answer_is_relayed_at_once_and_ends_the_body(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"too large", status="413 Content Too Large"))
        await conn.wait_ended()

    client = native(await serve(script))
    answer = await fetch(client, "POST", content=endless())
    assert (answer.status, answer.body) == (413, b"too large")
    assert (client.idle, client.active) == (0, 0)


async def test_a_connection_with_unsent_bytes_behind_an_early_answer_is_not_kept(
    serve: Serve, native: MakeClient
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_until(b"\r\n\r\n")
        conn.stop_reading()
        await conn.send(response(b"ok"))
        await conn.stall()

    upstream = await serve(script)
    client = native(upstream)
    assert (await fetch(client, "POST", content=b"x" * (32 << 20))).body == b"ok"
    assert (client.idle, client.active) == (0, 0)
    upstream.connections[0].go.set()


async def test_an_early_answer_survives_the_reset_behind_it(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        conn.stop_reading()
        while not conn.buffer:
            conn.go_on_reading()
            await asyncio.sleep(0)
        conn.stop_reading()
        await conn.send(response(b"too large", status="413 Content Too Large", headers=[("Connection", "close")]))
        # Closing with unread bytes resets: the client's next write fails, perhaps before it has read.

    for _ in range(20):
        answer = await fetch(native(await serve(script)), "POST", content=endless())
        assert (answer.status, answer.body) == (413, b"too large")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_what_a_reset_left_in_the_kernel_is_still_read(
    secure: bool, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    """The write fails before the loop has looked at the answer, every time: the loop does not turn in between."""

    async def script(conn: Conn) -> None:
        await conn.read_head()
        conn.stop_reading()
        await conn.stall()
        conn.write(response(b"no", status="413 Content Too Large", headers=[("Connection", "close")]))
        for _ in range(3):
            await asyncio.sleep(0)  # uvloop writes at the end of a turn, and TLS behind a paused reader tells nothing
        conn.reset()

    upstream = await serve(script, tls=certificate.server_context() if secure else None)
    go = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        await go.wait()
        yield b"x"
        yield b"y"

    client = native(upstream, tls=certificate.client_context() if secure else None)
    asking = asyncio.ensure_future(fetch(client, "POST", content=content()))
    await upstream.request()
    connection = next(iter(client._pool._open))
    connection._transport.pause_reading()  # as if the loop were busy elsewhere
    upstream.connections[0].go.set()
    await upstream.connections[0].wait_lost()
    go.set()
    answer = await asking
    assert (answer.status, answer.body) == (413, b"no")


async def test_a_sized_body_that_is_too_short_or_too_long_is_refused(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()
        assert len(conn.buffer) <= 5  # the rest would be the next request

    for chunks in ([b"abc"], [b"abc", b"def"], []):
        upstream = await serve(script)
        client = native(upstream)
        with pytest.raises(BadRequest):
            await fetch(client, "POST", headers=sized(5), content=body_of(*chunks))
        assert (await upstream.connections[0].wait_ended()).how in ("eof", "reset")
        assert client.active == 0


async def test_a_fault_of_the_body_comes_out_unchanged(serve: Serve, native: MakeClient) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"abc"
        raise ClientDisconnected()

    async def script(conn: Conn) -> None:
        await conn.read_head()
        assert await conn.read_chunk() == b"abc"
        assert (await conn.wait_ended()).how in ("eof", "reset")
        assert b"0\r\n" not in conn.buffer  # no last chunk: the upstream must not take it for complete

    client = native(await serve(script))
    with pytest.raises(ClientDisconnected):
        await fetch(client, "POST", content=content())
    assert client.active == 0


async def test_a_fault_of_the_body_behind_the_head_comes_out_of_the_chunks(serve: Serve, native: MakeClient) -> None:
    go = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield b"abc"
        await go.wait()
        raise ZeroDivisionError

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"one")
        await conn.wait_ended()

    client = native(await serve(script))
    async with guarded("the fault"), ask(client, "POST", content=content()) as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"one"
        go.set()
        with pytest.raises(ZeroDivisionError):
            await anext(chunks)


async def test_a_body_nobody_waits_for_any_more_is_cancelled(serve: Serve, native: MakeClient) -> None:
    ended = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"done"))
        await conn.wait_ended()

    client = native(await serve(script))
    assert (await fetch(client, "POST", content=content())).body == b"done"
    assert (client.idle, client.active) == (0, 0)
    async with guarded("the body's end"):
        await ended.wait()


async def test_an_upstream_that_dies_while_the_body_waits_is_noticed(serve: Serve, native: MakeClient) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.Event().wait()

    async def script(conn: Conn) -> None:
        await conn.read_head()

    client = native(await serve(script))
    with pytest.raises(ConnectionTerminated):
        await fetch(client, "POST", content=content())


class Asked:
    """A body that knows whether it was asked for."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.asked = False

    def __aiter__(self) -> Asked:
        return self

    async def __anext__(self) -> bytes:
        self.asked = True
        if not self.chunks:
            raise StopAsyncIteration
        return self.chunks.pop(0)


async def test_a_body_that_expects_100_waits_for_it(serve: Serve, native: MakeClient) -> None:
    content = Asked(b"abc")

    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        assert not content.asked
        await conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await conn.read_body(head) == b"abc"
        await conn.send(response(b"ok"))
        await conn.wait_ended()

    client = native(await serve(script))
    assert (await fetch(client, "POST", headers=EXPECT, content=content)).body == b"ok"
    assert client.idle == 1


async def test_a_body_that_was_refused_before_100_is_never_asked_for(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"no", status="417 Expectation Failed"))
        await conn.wait_ended()

    content = Asked(b"abc")
    client = native(await serve(script))
    assert (await fetch(client, "POST", headers=EXPECT, content=content)).status == 417
    assert not content.asked
    assert (client.idle, client.active) == (0, 0)


async def test_a_body_whose_upstream_left_before_100_is_never_asked_for(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()

    content = Asked(b"abc")
    client = native(await serve(script))
    stream = ask(client, "POST", headers=EXPECT, content=content)
    with pytest.raises(ConnectionTerminated):
        await stream.__aenter__()
    await asyncio.sleep(0)
    assert not content.asked


@pytest.mark.parametrize(
    "before",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    ],
    ids=["twice", "behind 103", "before 103"],
)
async def test_a_body_goes_on_at_100_whatever_else_comes_before_the_answer(
    before: bytes, serve: Serve, native: MakeClient
) -> None:
    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        await conn.send(before)
        assert await conn.read_body(head) == b"abc"
        await conn.send(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"ok"))
        await conn.wait_ended()

    client = native(await serve(script))
    assert (await fetch(client, "POST", headers=EXPECT, content=body_of(b"abc"))).body == b"ok"
    assert client.idle == 1


async def test_a_body_that_was_refused_after_100_ends_with_the_answer(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await conn.read_chunk()
        await conn.send(response(b"no", status="413 Content Too Large"))
        await conn.wait_ended()

    client = native(await serve(script))
    assert (await fetch(client, "POST", headers=EXPECT, content=endless())).status == 413
    assert (client.idle, client.active) == (0, 0)


async def test_a_body_does_not_wait_for_100_for_ever(
    serve: Serve, native: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamproxy.client.http1.body.CONTINUE_TIMEOUT", 0.01)
    upstream = await serve(answering(response(b"ok")))
    assert (await fetch(native(upstream), "POST", headers=EXPECT, content=body_of(b"abc"))).body == b"ok"


async def test_an_unasked_body_is_repeated_when_its_idle_connection_has_died(serve: Serve, native: MakeClient) -> None:
    async def dying(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"ok"))
        await conn.read_head()

    async def taking(conn: Conn) -> None:
        head = await conn.read_head()
        await conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await conn.send(response(await conn.read_body(head)))

    client = native(await serve([dying, taking]))
    await fetch(client)
    assert (await fetch(client, "PUT", headers=EXPECT, content=Asked(b"abc"))).body == b"abc"


async def test_progress_tells_when_the_whole_request_is_out(serve: Serve, native: MakeClient) -> None:
    steps: list[str] = []
    go = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield b"abc"
        await go.wait()

    client = native(await serve(answering(response(b"ok"))))
    asking = asyncio.ensure_future(fetch(client, "POST", content=content(), progress=steps.append))
    await until(lambda: "request" in steps)
    assert steps == ["connect", "request"]
    go.set()
    await asking
    assert steps == ["connect", "request", "head"]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_big_upload_and_a_big_download_cross(
    secure: bool, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    size = 8 << 20

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size >> 16):
            yield b"x" * 65536

    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            await conn.send(b"y" * 65536)
        assert len(await conn.read_body(head)) == size
        await conn.wait_ended()

    upstream = await serve(script, tls=certificate.server_context() if secure else None)
    client = native(upstream, tls=certificate.client_context() if secure else None)
    async with guarded("both"), ask(client, "POST", content=content()) as answer:
        got, fault = await read(answer)
    assert (len(got), fault) == (size, None)


async def test_a_cut_response_to_an_upload_is_incomplete(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await conn.stall()
        conn.reset()

    upstream = await serve(script)
    async with ask(native(upstream), "POST", content=endless()) as answer:
        upstream.connections[0].go.set()
        got, fault = await read(answer)
    assert got == b"abc"
    assert isinstance(fault, ResponseIncomplete)


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length", b"TRANSFER-encoding"])
def test_a_field_that_announces_a_body_is_refused_where_none_follows_in_any_case(name: bytes) -> None:
    with pytest.raises(ValueError, match="without a body"):
        refuse_body_fields([(b"x", b"1"), (name, b"1")])
    refuse_body_fields([(b"x", b"1"), (b"Content-Length", b"00")])
