"""What a response may look like, and what it may not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamproxy.errors import BadResponse, ConnectionTerminated, ResponseIncomplete
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, Script, answering, response, stream_head
from tests.unit.client.http1.asking import ask, body_of, fetch, read, until
from tests.unit.client.http1.conftest import MakeClient

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def saying(data: bytes, *, then: str = "close") -> Script:
    """Answers the first request with exactly these bytes, then closes, resets or stays."""

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(data)
        if then == "reset":
            await conn.stall()
            conn.reset()
        elif then == "stay":
            await conn.wait_ended()

    return script


async def test_status_headers_and_body_are_the_upstreams(serve: Serve, native: MakeClient) -> None:
    head = (
        b"HTTP/1.1 207 Odd\r\nX-B: \t1 \r\nx-a:\r\nSet-Cookie: a=1\r\nSet-Cookie: b=\xff\r\nContent-Length: 3\r\n\r\n"
    )
    answer = await fetch(native(await serve(saying(head + b"abc"))))
    assert answer.status == 207
    assert answer.headers == [
        (b"x-b", b"1"),
        (b"x-a", b""),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=\xff"),
        (b"content-length", b"3"),
    ]
    assert answer.body == b"abc"


async def test_one_read_is_one_chunk_and_comes_at_once(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        for chunk in (b"one", b"two", b"three", b""):
            await conn.send_chunk(chunk)
            await conn.stall()
            conn.go.clear()

    upstream = await serve(script)
    got = []
    async with guarded("three chunks"), ask(native(upstream)) as answer:
        async for chunk in answer.aiter_raw():
            got.append(chunk)
            upstream.connections[0].go.set()  # the next is sent only now
    assert got == [b"one", b"two", b"three"]


async def test_small_chunks_of_one_read_are_one_chunk(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(saying(CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", then="stay")))
    async with ask(client) as answer:
        assert [chunk async for chunk in answer.aiter_raw()] == [b"ab"]


async def test_a_body_whose_end_came_along_ends_without_waiting(serve: Serve, native: MakeClient) -> None:
    async with ask(native(await serve(answering(response(b"abc"))))) as answer:
        chunks = answer.aiter_raw()
        first = chunks.__anext__()
        with pytest.raises(StopIteration) as got:
            first.send(None)  # a coroutine: it must end before it suspends
        assert got.value.value == b"abc"
        with pytest.raises(StopAsyncIteration):
            chunks.__anext__().send(None)


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nConnection: keep-alive\r\n\r\n"),
    ],
)
async def test_a_response_without_a_body_ends_with_its_head_and_keeps_its_connection(
    method: str, data: bytes, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(answering(data, response(b"next")))
    client = native(upstream)
    assert (await fetch(client, method)).body == b""
    assert client.idle == 1
    assert (await fetch(client)).body == b"next"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("HEAD", CHUNKED),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_a_response_whose_upstream_may_go_on_to_a_body_costs_its_connection(
    method: str, data: bytes, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve([saying(data, then="stay"), answering(response(b"next"))])
    client = native(upstream)
    assert (await fetch(client, method)).body == b""
    assert (client.idle, client.active) == (0, 0)
    assert (await fetch(client)).body == b"next"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\nall of it",
        b"HTTP/1.0 200 OK\r\n\r\nall of it",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nall of it",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nall of it",
        CHUNKED.replace(b"OK\r\n", b"OK\r\nConnection: x, Close\r\n") + b"9\r\nall of it\r\n0\r\n\r\n",
    ],
)
async def test_a_response_that_ends_its_connection_is_whole_and_the_connection_is_not_kept(
    data: bytes, serve: Serve, native: MakeClient
) -> None:
    client = native(await serve(saying(data)))
    assert (await fetch(client)).body == b"all of it"
    assert (client.idle, client.active) == (0, 0)


async def test_http_1_0_keeps_its_connection_when_it_says_so(serve: Serve, native: MakeClient) -> None:
    data = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    client = native(await serve(answering(data)))
    await fetch(client)
    assert client.idle == 1


async def test_trailers_are_kept_apart_and_chunk_extensions_dropped(serve: Serve, native: MakeClient) -> None:
    data = CHUNKED + b'2;a=b;c="d"\r\nhi\r\n0;x\r\nX-Trailer: 1\r\nSet-Cookie: a=b\r\n\r\n'
    client = native(await serve(answering(data, response(b"next"))))
    async with ask(client) as answer:
        assert await read(answer) == (b"hi", None)
        assert answer.headers.raw == [(b"transfer-encoding", b"chunked")]
        assert answer.trailers == [(b"x-trailer", b"1"), (b"set-cookie", b"a=b")]
    async with ask(client) as answer:
        assert await read(answer) == (b"next", None)
        assert answer.trailers == []


@pytest.mark.parametrize(
    ("line", "status", "reason", "version"),
    [
        (b"HTTP/1.1 200 OK", 200, b"", "1.1"),
        (b"HTTP/1.1 200 Fine", 200, b"Fine", "1.1"),
        (b"HTTP/1.0 404 Not Found", 404, b"", "1.0"),
        (b"HTTP/1.0 404 Gone for lunch", 404, b"Gone for lunch", "1.0"),
        (b"HTTP/1.1 999 Request denied", 999, b"Request denied", "1.1"),
        (b"HTTP/1.1 600 ", 600, b"", "1.1"),
        (b"HTTP/1.1 299", 299, b"", "1.1"),
    ],
)
@pytest.mark.parametrize("split", [False, True], ids=["in one read", "in reads of a byte"])
async def test_status_reason_and_version_are_the_upstreams(
    line: bytes, status: int, reason: bytes, version: str, split: bool, serve: Serve, native: MakeClient
) -> None:
    data = line + b"\r\nContent-Length: 2\r\n\r\nok"

    async def script(conn: Conn) -> None:
        await conn.read_head()
        for at in range(0, len(data), 1 if split else len(data)):
            await conn.send(data[at : at + (1 if split else len(data))])
            await asyncio.sleep(0)
        await conn.wait_ended()

    async with ask(native(await serve(script))) as answer:
        assert (answer.status_code, answer.reason, answer.http_version) == (status, reason, version)
        assert await read(answer) == (b"ok", None)


async def test_a_chunks_size_may_have_blanks_behind_it(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(CHUNKED + b"5  \r\nhello\r\n1\t;a=b\r\n!\r\n0 \r\n\r\n")))
    assert (await fetch(client)).body == b"hello!"
    assert client.idle == 1


async def test_interim_responses_are_skipped_or_handed_on(serve: Serve, native: MakeClient) -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\n"
    client = native(await serve(answering(data + response(b"abc"))))
    seen: list[object] = []
    answer = await fetch(client, informational=lambda status, headers: seen.append((status, headers)))
    assert (answer.status, answer.body) == (200, b"abc")
    assert seen == [(103, [(b"link", b"</a>")]), (102, [])]
    assert (await fetch(client)).body == b"abc"


BAD_HEADS = {
    "no HTTP": b"ICY 200 OK\r\n\r\n",
    "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
    "101 without an upgrade": b"HTTP/1.1 101 Switching\r\n\r\n",
    "an interim response with a length": b"HTTP/1.1 150 X\r\nContent-Length: 2\r\n\r\nhi" + response(b"ok"),
    "an interim response with a coding": b"HTTP/1.1 103 X\r\nTransfer-Encoding: chunked\r\n\r\n" + response(b"ok"),
    "length with coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding with length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
    "gzip as coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": CHUNKED.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
    "coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded field": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "NUL in a field": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "101 fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    "64 KiB in one field": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\nContent-Length: 0\r\n\r\n",
    "64 KiB in many fields": b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 7000 + b"\r\n") * 10 + b"\r\n",
}


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=BAD_HEADS.keys())
async def test_a_malformed_or_ambiguous_head_is_refused(data: bytes, serve: Serve, native: MakeClient) -> None:
    client = native(await serve(saying(data, then="stay")))
    with pytest.raises(BadResponse):
        await fetch(client)
    assert (client.idle, client.active) == (0, 0)


async def test_a_head_of_nearly_64_kib_and_100_fields_is_taken(serve: Serve, native: MakeClient) -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 600) for number in range(99))
    data = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 100000\r\n\r\n" + b"z" * 100_000
    answer = await fetch(native(await serve(saying(data, then="stay"))))
    assert len(answer.headers) == 100
    assert len(answer.body) == 100_000


async def test_an_endless_row_of_interim_responses_is_refused(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(saying(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 4000, then="stay")))
    with pytest.raises(BadResponse):
        await fetch(client)


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 C\r\n\r\n"])
async def test_a_connection_that_ends_before_the_head_is_terminated(
    data: bytes, then: str, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(saying(data, then=then))
    client = native(upstream)
    asking = asyncio.ensure_future(fetch(client))
    (await upstream.connection()).go.set()
    with pytest.raises(ConnectionTerminated):
        await asking
    assert client.active == 0


CUT = {
    "sized": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
    "sized, nothing yet": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    "chunked in a chunk": CHUNKED + b"5\r\nhi",
    "chunked after a chunk": CHUNKED + b"2\r\nhi\r\n",
    "chunked before its last CRLF": CHUNKED + b"2\r\nhi\r\n0\r\n",
    "chunked in its trailers": CHUNKED + b"2\r\nhi\r\n0\r\nX: y\r\n",
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT.keys())
async def test_a_body_cut_short_is_handed_on_and_then_incomplete(data: bytes, serve: Serve, native: MakeClient) -> None:
    client = native(await serve(saying(data)))
    async with guarded("the cut"), ask(client) as answer:
        got, fault = await read(answer)
    assert isinstance(fault, ResponseIncomplete)
    assert got == (b"" if b"hi" not in data else b"hi")
    assert (client.idle, client.active) == (0, 0)


async def test_a_reset_does_not_look_like_the_end_that_a_close_is(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(saying(b"HTTP/1.1 200 OK\r\n\r\nhi", then="reset"))
    async with guarded("the reset"), ask(native(upstream)) as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"hi"
        upstream.connections[0].go.set()
        with pytest.raises(ResponseIncomplete):
            await anext(chunks)


BAD_CHUNKS = {
    "no size": b"\r\nhi\r\n",
    "not a number": b"zz\r\n",
    "a sign": b"-1\r\n",
    "0x": b"0x2\r\nhi\r\n",
    "too big": b"fffffffffffffffff\r\n",
    "longer than it said": b"2\r\nhi!\r\n",
    "bare LF": b"2\nhi\r\n",
    "space within the size": b"2 1\r\nhi\r\n",
    "NUL in the extension": b"2;\0\r\nhi\r\n",
    "an extension without an end": b"2;" + b"a" * 600_000,
    "a trailer without an end": b"0\r\nX: " + b"a" * 600_000,
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_a_malformed_chunk_ends_the_response_behind_the_good_ones(
    data: bytes, serve: Serve, native: MakeClient
) -> None:
    client = native(await serve(saying(CHUNKED + b"4\r\ngood\r\n" + data, then="stay")))
    async with guarded("the refusal"), ask(client) as answer:
        got, fault = await read(answer)
    assert isinstance(fault, ResponseIncomplete)
    assert got[:4] == b"good"
    assert (client.idle, client.active) == (0, 0)


async def test_many_small_reads_are_no_endless_trailer(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(CHUNKED)
        for _ in range(100):
            await conn.send(b"1;" + b"x" * 1000)
            await conn.send(b"\r\na\r\n")
        await conn.send(b"0\r\n\r\n")

    assert (await fetch(native(await serve(script)))).body == b"a" * 100


STRAY = [
    b"x",
    b"5\r\n",
    b"5\r\nhello\r\nzz",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"\0",
    b"x\0",
    b"0\r\n\r\n\0",
]


@pytest.mark.parametrize("stray", STRAY)
@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("GET", response(b"abc")),
        ("GET", response(b"")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"),
        ("HEAD", CHUNKED),
    ],
)
async def test_bytes_behind_a_response_cost_the_connection_and_not_the_response(
    method: str, data: bytes, stray: bytes, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve([saying(data + stray, then="stay"), answering(response(b"next"))])
    client = native(upstream)
    assert (await fetch(client, method)).body == (b"abc" if data.find(b"abc") > 0 else b"")
    assert (client.idle, client.active) == (0, 0)
    assert (await fetch(client)).body == b"next"


@pytest.mark.parametrize("own", [True, False], ids=["the client's", "the request's"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_reading_stops_above_the_buffer_and_goes_on_when_it_is_drained(
    secure: bool, own: bool, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    total = 32 << 20

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total >> 20):
            await conn.send(b"x" * (1 << 20))

    buffer, one_read = 65536, 262144  # a read is bounded once one was large
    upstream = await serve(script, tls=certificate.server_context() if secure else None)
    client = native(upstream, tls=certificate.client_context() if secure else None, buffer=buffer if own else 1 << 30)
    async with guarded("the body"), ask(client, **({} if own else {"buffer": buffer})) as answer:
        connection = answer._connection
        assert connection is not None
        await until(lambda: connection._paused)
        held = sum(map(len, connection.chunks))
        assert held <= buffer + 2 * one_read  # the read that came with the head, and the one that was too much
        for _ in range(20):
            await asyncio.sleep(0.001)  # there is more in the kernel; the loop would have read it
        assert sum(map(len, connection.chunks)) == held
        assert sum([len(chunk) async for chunk in answer.aiter_raw()]) == total


async def test_leaving_early_closes_the_connection(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(saying(CHUNKED + b"2\r\nhi\r\n", then="stay"))
    client = native(upstream)
    async with ask(client) as answer:
        assert await anext(answer.aiter_raw()) == b"hi"
    assert (client.idle, client.active) == (0, 0)
    assert (await upstream.connections[0].wait_ended()).how in ("eof", "reset")


async def test_leaving_by_an_exception_closes_the_connection(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"abc")))
    client = native(upstream)
    with pytest.raises(ZeroDivisionError):
        async with ask(client):
            raise ZeroDivisionError
    assert (client.idle, client.active) == (0, 0)


async def test_a_response_that_is_all_there_need_not_be_read_for_its_connection_to_be_kept(
    serve: Serve, native: MakeClient
) -> None:
    client = native(await serve(answering(response(b"abc"))))
    async with ask(client):
        pass
    assert client.idle == 1
    assert (await fetch(client)).body == b"abc"


async def test_a_closed_response_gives_nothing_of_the_next_one(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"first"), response(b"secret"))))
    async with ask(client) as old:
        pass
    async with ask(client) as new:
        with pytest.raises(RuntimeError):
            await anext(old.aiter_raw())
        assert await anext(new.aiter_raw()) == b"secret"


async def test_a_cancelled_wait_for_a_chunk_loses_nothing(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(b"late")
        await conn.send_chunk(b"")

    upstream = await serve(script)
    async with guarded("the chunk"), ask(native(upstream)) as answer:
        chunks = answer.aiter_raw()
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        upstream.connections[0].go.set()
        assert [chunk async for chunk in chunks] == [b"late"]


async def test_a_server_that_speaks_first_speaks_another_protocol_however_early(
    serve: Serve, native: MakeClient
) -> None:
    async def greeting(conn: Conn) -> None:
        await conn.send(b"SSH-2.0-OpenSSH_9.2\r\n")
        await conn.wait_ended()

    client = native(await serve(greeting))
    with pytest.raises(BadResponse):
        await fetch(client)
    # The same where the greeting is there before the request.
    assert client._pool.reserve()
    connection: Any = await client._connector.connect(None)
    client._pool.opened(connection)
    await until(lambda: connection.closed)
    with pytest.raises(BadResponse):
        await ask(client).enter(connection, False)
    await until(lambda: not client.active)


async def test_the_request_is_sent_as_it_was_given(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response()))
    headers = [(b"host", b"a.example"), (b"x-a", b"1"), (b"x-a", b"\xff"), (b"x-empty", b"")]
    await fetch(native(upstream), "DELETE", b"/a%2Fb//../;x+y?", headers=headers)
    assert upstream.requests[0].raw == (
        b"DELETE /a%2Fb//../;x+y? HTTP/1.1\r\nhost: a.example\r\nx-a: 1\r\nx-a: \xff\r\nx-empty: \r\n\r\n"
    )


async def test_without_a_target_the_path_and_query_of_the_url_are_asked_for(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response()))
    client = native(upstream)
    for path in ("", "/a?b=c"):
        async with client.stream("GET", upstream.url + path, headers=[(b"host", b"x")]):
            pass
    assert [head.target for head in upstream.requests] == [b"/", b"/a?b=c"]


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", b"/ HTTP/1.1\r\nx: y", []),
        ("GET", b"/a b", []),
        ("GET", b"/\0", []),
        ("G ET", b"/", []),
        ("", b"/", []),
        ("GET", b"/", [(b"x", b"a\r\nb: c")]),
        ("GET", b"/", [(b"x", b"a\nb")]),
        ("GET", b"/", [(b"x", b"a\rb")]),
        ("GET", b"/", [(b"x\0", b"a")]),
        ("GET", b"/", [(b"transfer-encoding", b"chunked")]),
        ("GET", b"/", [(b"content-length", b"5")]),
    ],
)
async def test_a_request_that_would_break_out_of_its_head_is_refused(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], native: MakeClient
) -> None:
    with pytest.raises(ValueError, match=r"."):
        ask(native("http://127.0.0.1:1"), method, target, headers=headers)


async def test_a_body_with_two_framings_is_refused(native: MakeClient) -> None:
    client = native("http://127.0.0.1:1")
    for headers in (
        [(b"Transfer-Encoding", b"chunked")],
        [(b"Content-Length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"x")],
    ):
        with pytest.raises(ValueError, match=r"."):
            ask(client, "POST", headers=headers, content=body_of(b"x"))
