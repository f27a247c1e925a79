"""Chunks that are handed to a sink in the read that brings them."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy.client.http1 import Stream
from streamproxy.errors import ResponseIncomplete
from tests.conftest import Serve
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, stream_head
from tests.unit.client.http1.asking import ask, fetch, until
from tests.unit.client.http1.conftest import MakeClient


class Taker:
    """A sink that remembers, and says yes while it may."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.got: list[tuple[bytes, bytes]] = []
        self.most = most

    def __call__(self, chunk: bytes, framed: bytes) -> bool:
        self.got.append((chunk, framed))
        return len(self.got) < self.most

    @property
    def body(self) -> bytes:
        return b"".join([chunk for chunk, _ in self.got])


async def said(conn: Conn, data: bytes) -> None:
    """Say something, and wait until the test asks for more."""
    await conn.send(data)
    await conn.stall()
    conn.go.clear()


async def push_to_the_end(answer: Stream, taker: Taker) -> None:
    """What a relay does: take what is there, push while nothing is, wait for what ends the push."""
    while True:
        while (chunk := answer.ready()) is not None:
            taker(chunk, b"")
        if answer.ended:
            return
        answer.pipe(taker)
        await answer.change()


async def turns(count: int) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_read_that_is_one_chunk_is_pushed_with_its_framing(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head())
        await said(conn, b"3\r\none\r\n")
        await said(conn, b"003\r\ntwo\r\n")  # padded, so not as it would be written
        await said(conn, b"1\r\na\r\n1\r\nb\r\n")
        await said(conn, b"A\r\n0123")
        await said(conn, b"456789\r\n")
        await conn.send(b"0\r\nx: y\r\n\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    taker = Taker()
    client = native(upstream)
    async with guarded("the chunks"), ask(client) as answer:
        conn = upstream.connections[0]
        assert answer.ready() is None
        assert answer.pipe(taker)
        changed = answer.change()
        expected = [(b"one", b"3\r\none\r\n"), (b"two", b""), (b"ab", b""), (b"0123", b""), (b"456789", b"")]
        for count in range(len(expected)):
            conn.go.set()
            await until(lambda count=count: len(taker.got) > count)
            assert not asyncio.isfuture(changed) or not changed.done()  # nobody was woken
        assert taker.got == expected
        conn.go.set()
        await changed
        assert (answer.ready(), answer.ended, answer.trailers) == (None, True, [(b"x", b"y")])
    assert client.idle == 1


async def test_what_comes_with_the_end_waits_for_the_reader(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head())
        await conn.send(b"2\r\nhi\r\n0\r\n\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    taker = Taker()
    async with guarded("the end"), ask(native(upstream)) as answer:
        answer.pipe(taker)
        upstream.connections[0].go.set()
        await answer.change()
        assert (taker.got, answer.ready(), answer.ready(), answer.ended) == ([], b"hi", None, True)


@pytest.mark.parametrize("ending", [b"", b"zz\r\n", b"2\r\nhiX"])
async def test_a_fault_ends_the_push_behind_what_came_before(ending: bytes, serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head())
        await conn.send(b"2\r\nhi\r\n" + ending)

    upstream = await serve(script)
    taker = Taker()
    async with guarded("the fault"), ask(native(upstream)) as answer:
        answer.pipe(taker)
        changed = answer.change()
        upstream.connections[0].go.set()
        await changed
        body = taker.body
        while True:
            try:
                chunk = answer.ready()
            except ResponseIncomplete:
                break
            if chunk is None:
                await answer.change()
            else:
                body += chunk
        assert body == (b"hihi" if ending.endswith(b"X") else b"hi")
        assert not answer.ended


async def test_a_sink_that_takes_no_more_is_asked_no_more(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head())
        await said(conn, b"1\r\na\r\n")
        await said(conn, b"1\r\nb\r\n")
        await said(conn, b"1\r\nc\r\n")
        await conn.send(b"0\r\n\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    taker = Taker(most=1)
    async with guarded("the chunks"), ask(native(upstream)) as answer:
        conn = upstream.connections[0]
        answer.pipe(taker)
        changed = answer.change()
        conn.go.set()
        await changed
        assert taker.got == [(b"a", b"1\r\na\r\n")]
        conn.go.set()
        connection = answer._connection
        assert connection is not None
        await until(lambda: connection.chunks)
        assert not answer.pipe(taker)  # what waits goes first
        assert answer.ready() == b"b"
        taker.most = 100
        assert answer.pipe(taker)
        changed = answer.change()
        conn.go.set()
        await until(lambda: len(taker.got) == 2)
        conn.go.set()
        await changed
        assert (taker.body, answer.ended) == (b"ac", True)


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "sized"])
async def test_a_flood_is_held_by_a_sink_that_takes_no_more(chunked: bool, serve: Serve, native: MakeClient) -> None:
    total, piece = 32 << 20, 1 << 18

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head() if chunked else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // piece):
            await conn.send(b"%x\r\n%b\r\n" % (piece, b"x" * piece) if chunked else b"x" * piece)
        if chunked:
            await conn.send(b"0\r\n\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    client = native(upstream, buffer=65536)
    async with guarded("the body"), ask(client) as answer:
        upstream.connections[0].go.set()
        connection = answer._connection
        assert connection is not None
        size = 0
        largest = 0
        while not answer.ended:
            taker = Taker(most=1 + size % 3)
            while (chunk := answer.ready()) is not None:
                taker(chunk, b"")
            if not answer.ended and answer.pipe(taker):
                await answer.change()
                await turns(5)  # the loop could read on
                if not answer.ended and size:  # the first reads are not bounded yet
                    assert sum(map(len, connection.chunks)) <= 65536
                    largest = max(largest, *(len(chunk) for chunk, _ in taker.got), 0)
            size += len(taker.body)
        while (chunk := answer.ready()) is not None:  # came behind what the last sink took
            size += len(chunk)
        assert size == total
        assert largest <= 262144


async def test_a_closed_stream_pushes_nothing_more(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head())
        await conn.send(b"1\r\na\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    taker = Taker()
    client = native(upstream)
    async with ask(client) as answer:
        answer.pipe(taker)
    assert not answer.pipe(taker)
    upstream.connections[0].go.set()
    await until(lambda: client.active == 0)
    await asyncio.sleep(0)
    assert taker.got == []


async def test_a_push_that_is_taken_back_leaves_the_chunks_to_be_pulled(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await said(conn, stream_head())
        await conn.send(b"1\r\na\r\n0\r\n\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    taker = Taker()
    client = native(upstream)
    async with guarded("the chunk"), ask(client) as answer:
        answer.pipe(taker)
        answer.pipe(None)
        upstream.connections[0].go.set()
        assert [chunk async for chunk in answer.aiter_raw()] == [b"a"]
    assert taker.got == []
    assert client.idle == 1


async def test_a_connection_that_pushed_serves_the_next_request(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        while True:
            await conn.read_head()
            await conn.send(stream_head())
            for number in range(3):
                await conn.send_chunk(b"%d" % number)
                await turns(1)
            await conn.send(b"0\r\n\r\n")

    upstream = await serve(script)
    client = native(upstream)
    for _ in range(3):
        taker = Taker()
        async with guarded("the end"), ask(client) as answer:
            await push_to_the_end(answer, taker)
        assert taker.body == b"012"
    assert (await fetch(client)).body == b"012"
    assert len(upstream.connections) == 1
