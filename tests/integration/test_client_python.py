"""The Python client against a running proxy."""

from __future__ import annotations

import asyncio
import gzip

import httpx
import pytest
from streamproxy_client import StreamLost, open_stream, resume_stream

from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.upstream import Conn, stream_head
from tests.integration.test_client_js import Cutter, go, proxy_of, slowly

KEY = {"Authorization": "Bearer a"}


async def test_a_stream_survives_its_connection_and_is_asked_for_once(leaks: LeakCheck, serve: Serve) -> None:
    upstream = await serve(slowly)
    async with (
        proxy_of(upstream.url, leaks) as proxy,
        Cutter(proxy.url) as cutter,
        httpx.AsyncClient(timeout=None) as client,
    ):
        opened = open_stream(client, "POST", cutter.url, json={}, headers=KEY, backoff=0.01)
        async with opened as stream:
            conn = await upstream.connection()
            seen = []
            await go(conn)
            async for event in stream:
                seen.append(event)
                if len(seen) in (1, 3):
                    cutter.cut()
                if len(seen) < 5:
                    await go(conn)
            assert stream.cursor.endswith("/5")
        assert [(event.type, event.data) for event in seen] == [("e", f"{n}\n\u20ac") for n in range(1, 6)]
        assert cutter.connections >= 3
    assert len(upstream.requests) == 1


async def test_a_stream_that_never_was_is_given_up(leaks: LeakCheck, serve: Serve) -> None:
    upstream = await serve(slowly)
    async with proxy_of(upstream.url, leaks) as proxy, httpx.AsyncClient(timeout=None) as client:
        with pytest.raises(StreamLost) as lost:
            async with resume_stream(client, proxy.url, "A" * 24 + "/0", headers=KEY):
                pass
        assert lost.value.status == 404


async def test_an_answer_that_knows_no_cursors_is_not_taken_for_the_rest(serve: Serve) -> None:
    upstream = await serve(slowly)
    async with httpx.AsyncClient(timeout=None) as client:
        with pytest.raises(StreamLost) as lost:
            async with resume_stream(client, upstream.url, "A" * 24 + "/3"):
                pass
    assert lost.value.status == 200


async def test_stop_ends_the_answer_at_the_upstream(leaks: LeakCheck, serve: Serve) -> None:
    upstream = await serve(slowly)
    async with (
        proxy_of(upstream.url, leaks) as proxy,
        httpx.AsyncClient(timeout=None) as client,
        open_stream(client, "POST", proxy.url, json={}, headers=KEY) as stream,
    ):
        conn = await upstream.connection()
        await go(conn)
        async for event in stream:
            assert event.data.startswith("1")
            await stream.stop()
        await asyncio.wait_for(conn.wait_ended(), 30)


async def test_a_cursor_that_was_kept_takes_the_stream_up(leaks: LeakCheck, serve: Serve) -> None:
    upstream = await serve(slowly)
    async with proxy_of(upstream.url, leaks) as proxy, httpx.AsyncClient(timeout=None) as client:
        async with open_stream(client, "POST", proxy.url, json={}, headers=KEY) as stream:
            conn = await upstream.connection()
            await go(conn)
            async for _ in stream:
                break
            cursor = stream.cursor
        async with resume_stream(client, proxy.url, cursor, headers=KEY) as stream:
            for number in range(2, 6):
                await go(conn)
                async for event in stream:
                    assert event.data[0] == str(number)
                    break
    assert len(upstream.requests) == 1


async def compressed(conn: Conn) -> None:
    """Two events in gzip, asked for or not."""
    await conn.read_request()
    await conn.send(stream_head("text/event-stream", ("Content-Encoding", "gzip")))
    await conn.send_chunk(gzip.compress(b"data: 1\n\ndata: 2\n\n"))
    await conn.send_chunk(b"")


async def test_no_compression_is_asked_for_and_what_comes_in_spite_of_that_is_read(
    leaks: LeakCheck, serve: Serve
) -> None:
    upstream = await serve(compressed)
    async with (
        proxy_of(upstream.url, leaks) as proxy,
        httpx.AsyncClient() as client,
        open_stream(client, "POST", proxy.url, json={}, headers=KEY) as stream,
    ):
        assert [event.data async for event in stream] == ["1", "2"]
    (request,) = upstream.requests
    assert request.get("accept-encoding") == b"identity"


async def test_who_comes_back_waits_as_long_as_at_first(leaks: LeakCheck, serve: Serve) -> None:
    upstream = await serve(slowly)
    waits = []

    async def note(request: httpx.Request) -> None:
        waits.append((request.method, request.extensions["timeout"]["read"]))

    async with (
        proxy_of(upstream.url, leaks) as proxy,
        httpx.AsyncClient(event_hooks={"request": [note]}) as client,
        open_stream(client, "POST", proxy.url, json={}, headers=KEY, timeout=77) as stream,
    ):
        await stream.stop()
    assert waits == [("POST", 77), ("DELETE", 77)]
