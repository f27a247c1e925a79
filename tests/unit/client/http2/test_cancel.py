"""A request over HTTP/2 may be cancelled wherever it waits; nothing of it may be left, and its connection lives on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hyperframe.frame import DataFrame, HeadersFrame

from streamproxy.client.http2 import Http2Client
from tests.conftest import Serve
from tests.doubles.connection import PeerEnded
from tests.doubles.until import until
from tests.unit.client.http1.test_cancel import MOMENTS, foreign, run
from tests.unit.client.http2.conftest import OK, Frames, MakeClient, speaking
from tests.unit.client.http2.test_streams import fetch


async def slow_answers(up: Frames) -> None:
    """Everything comes in pieces, so that the client has to wait for each of them; resets are ignored."""
    while True:
        frame = await up.next(HeadersFrame)
        up.decoder.decode(frame.data, raw=True)
        stream = frame.stream_id
        end = DataFrame(stream, b"two", flags=["END_STREAM"])
        early = up.head(stream, [(b":status", b"103")])
        for piece in (early, up.head(stream, OK), DataFrame(stream, b"one"), end):
            if up.conn.ended is not None:
                raise PeerEnded(up.conn.ended, b"")
            up.conn.write(piece.serialize())
            await asyncio.sleep(0.001)


async def content() -> AsyncIterator[bytes]:
    for _ in range(3):
        await asyncio.sleep(0)
        yield b"x" * 100


async def everywhere(client: Http2Client, url: str, request: Callable[[], Coroutine[Any, Any, None]], how: str) -> int:
    """Cancel the request at every suspension in turn; returns how many there were."""
    n = 0
    tasks = asyncio.all_tasks()
    while await run(request, n, how):
        n += 1
        await until(lambda: client.active == 0 and client.pool.waiting == 0, "the places to be free")
        await until(lambda: not foreign(asyncio.all_tasks() - tasks), "the tasks to end")
        assert await fetch(client, url) == b"onetwo"  # no place was lost: there is only one
        assert n < 100
    return n


@pytest.mark.parametrize("how", MOMENTS)
@pytest.mark.parametrize("body", [False, True], ids=["get", "post"])
async def test_a_cancel_anywhere_leaves_nothing(serve: Serve, http2: MakeClient, body: bool, how: str) -> None:
    upstream = await serve(speaking(slow_answers))
    client = http2(upstream.url, max_connections=1)

    async def request() -> None:
        assert await fetch(client, upstream.url, "POST", content=content() if body else None) == b"onetwo"

    assert await everywhere(client, upstream.url, request, how) >= 3
    assert len(upstream.connections) <= 4  # those that were cancelled while they were made, and one for all the rest


@pytest.mark.parametrize("how", MOMENTS)
async def test_a_cancel_in_the_queue_leaves_nothing(serve: Serve, http2: MakeClient, how: str) -> None:
    upstream = await serve(speaking(slow_answers))
    client = http2(upstream.url, max_connections=1)

    async def request() -> None:
        other = asyncio.ensure_future(fetch(client, upstream.url))
        try:
            await asyncio.sleep(0)
            await fetch(client, upstream.url)
        finally:
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)

    assert await everywhere(client, upstream.url, request, how) >= 3
