"""Bombs in heads and in the framing of bodies: by size, by count, and by expansion, from clients and from upstreams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import hpack
import pytest
from hyperframe.frame import ContinuationFrame, HeadersFrame

from tests.conftest import Serve
from tests.doubles.client import connect, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.http2 import connect_h2
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.faults.test_bounds import BOMB, MIB, bounded
from tests.integration.proxy import configuration, running

MUCH = 4 * MIB
COST = 16 * MIB  # the most that one of them may take
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

# What a client sends, and the status that refuses it.
REQUESTS = {
    "one field of megabytes": (HEAD + b"X: " + b"x" * MUCH, 431),
    "one name of megabytes": (HEAD + b"x" * MUCH, 431),
    "16,000 fields of no size": (HEAD + b"a:\r\n" * 16_000 + b"\r\n", 431),
    "a target of megabytes": (b"GET /" + b"x" * MUCH, 431),
    "a method of megabytes": (b"x" * MUCH, 431),
    "a chunk's size of megabytes": (CHUNKED + b"0" * MUCH, 400),
    "a chunk's extension of megabytes": (CHUNKED + b"1;" + b"x" * MUCH, 400),
    "a trailer of megabytes": (CHUNKED + b"0\r\na: " + b"x" * MUCH, 400),
    "a million trailers": (CHUNKED + b"0\r\n" + b"a: b\r\n" * MIB, 400),
}

BLOCK = hpack.Encoder().encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
FIELD = b"\x00\x01a\x01b"  # a: b, spelled out
LARGE = b"\x00\x01a\x7f\xa1\x1e" + b"x" * 4000  # a field of 4,000 bytes

# Pieces of one head over HTTP/2, and the status that refuses it; None: the connection ends.
HTTP2_REQUESTS: dict[str, tuple[list[bytes], int | None]] = {
    "200 fields": ([BLOCK + FIELD * 200], 431),
    "5,000 cookies of a byte each": ([BLOCK + b"\x60\x01b" * 5000], 431),
    "16 KiB that expand to megabytes": ([BOMB[:16_384]], None),
    "100,000 fields in continuations": ([BLOCK, *[FIELD * 3000] * 33], None),
    "megabytes in continuations": ([BLOCK, *[LARGE * 4] * 200], None),
    "a value of megabytes in continuations": ([BLOCK + b"\x00\x01a\x7f\x80\x80\x80\x04", *[b"x" * 16_384] * 200], None),
    "an integer without end": ([BLOCK + b"\x00\x01a\x7f" + b"\xff" * 10_000], None),
}


def head_of(pieces: list[bytes]) -> bytes:
    frames = [HeadersFrame(1, pieces[0], flags=["END_STREAM"]), *(ContinuationFrame(1, one) for one in pieces[1:])]
    frames[-1].flags.add("END_HEADERS")
    return b"".join(frame.serialize() for frame in frames)


async def test_a_request_that_is_a_bomb_is_refused_and_costs_little(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"ok")))
    async with running(configuration(upstream.url), tmp_path) as proxy:
        assert (await fetch(proxy.url)).body == b"ok"
        for name, (data, status) in REQUESTS.items():
            async with bounded(proxy, COST, name), await connect(proxy.url) as client:
                client.write(data)
                answer = await client.read_response()
                assert answer.status == status, (name, answer)
                await client.wait_ended()
        for name, (pieces, refused) in HTTP2_REQUESTS.items():
            async with bounded(proxy, COST, name), aclosing(await connect_h2(proxy.url)) as frames:
                frames.raw(head_of(pieces))
                if refused is None:
                    await frames.end()
                else:
                    assert (await frames.response(1)).status == refused, name
        assert (await fetch(proxy.url)).body == b"ok"
        assert {head.start for head in upstream.requests} <= {b"GET / HTTP/1.1", b"POST / HTTP/1.1"}
        assert "Traceback" not in proxy.process.output


async def test_thousands_of_small_heads_that_expand_cost_little(serve: Serve, tmp_path: Path) -> None:
    """Each names a field of 4,000 bytes sixty times by a byte, so that 16 KiB in one write become 60 MiB."""
    upstream = await serve(answering(response(b"ok")))
    async with running(configuration(upstream.url), tmp_path) as proxy:
        assert (await fetch(proxy.url)).body == b"ok"
        async with bounded(proxy, 2 * COST), aclosing(await connect_h2(proxy.url)) as client:
            large = [("x-b", "x" * 3900)]
            assert (await client.response(await client.request(headers=large))).status == 200
            heads = [client.head(client.fields(headers=large * 60)) for _ in range(250)]
            client.send(*(frame for head in heads for frame in head))
            for head in heads:
                assert (await client.response(head[0].stream_id)).status == 431
        assert len(upstream.requests) == 2


async def sending(conn: Conn, data: bytes) -> None:
    await conn.read_request()
    await conn.send(data)
    await conn.wait_ended()


async def hints(conn: Conn) -> None:
    await conn.read_request()
    for _ in range(20_000):
        await conn.send(b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"x" * 1000))


CHUNKS = stream_head("text/plain") + b"1\r\nx\r\n"
OK = b"HTTP/1.1 200 OK\r\n"

# What an upstream sends, and whether a client has a head before the end.
RESPONSES = {
    "one field of megabytes": (OK + b"X: " + b"x" * MUCH, False),
    "16,000 fields of no size": (OK + b"a:\r\n" * 16_000 + b"\r\n", False),
    "a reason of megabytes": (b"HTTP/1.1 200 " + b"x" * MUCH, False),
    "no line at all": (b"x" * MUCH, False),
    "a chunk's size of megabytes": (CHUNKS + b"0" * MUCH, True),
    "a chunk's extension of megabytes": (CHUNKS + b"1;" + b"x" * MUCH, True),
    "a trailer of megabytes": (CHUNKS + b"0\r\na: " + b"x" * MUCH, True),
    "a million trailers": (CHUNKS + b"0\r\n" + b"a: b\r\n" * MIB, True),
}


@pytest.mark.parametrize("client", ["native", "httpx"])
async def test_a_response_that_is_a_bomb_is_an_error_and_costs_little(
    serve: Serve, tmp_path: Path, client: str
) -> None:
    def script(data: bytes) -> Callable[[Conn], Awaitable[None]]:
        return lambda conn: sending(conn, data)

    good, hinting = await serve(answering(response(b"ok"))), await serve(hints)
    served = {str(n): (name, await serve(script(RESPONSES[name][0]))) for n, name in enumerate(RESPONSES)}
    ends = {"good": good.url, "hints": hinting.url, **{path: upstream.url for path, (_, upstream) in served.items()}}
    upstreams = {f"u{path}": {"endpoints": [url], "client": client} for path, url in ends.items()}
    routes = [{"path": f"/{path}", "upstream": f"u{path}"} for path in ends]
    async with running(configuration(routes, upstreams=upstreams), tmp_path) as proxy:
        assert (await fetch(proxy.url + "/good")).body == b"ok"
        for path, (name, _) in served.items():
            async with bounded(proxy, COST, name):
                answer = await fetch(f"{proxy.url}/{path}")
            began = RESPONSES[name][1]
            assert (answer.status, answer.complete) == ((200, False) if began else (502, True)), (name, answer)
        async with bounded(proxy, COST, "early hints without end"), await connect(proxy.url) as one:
            await one.request("/hints")
            try:
                assert (await one.read_response()).status == 502
            except PeerEnded:
                assert one.interim  # they were passed on, so that the connection is all that can be ended
        assert (await fetch(proxy.url + "/good")).body == b"ok"
        assert "Traceback" not in proxy.process.output
