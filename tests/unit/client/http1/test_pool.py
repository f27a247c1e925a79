"""Connections are kept, limited, and never cost a request when they die idle."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import pytest

from streamproxy.client.http1 import Stream
from streamproxy.errors import ConnectionTerminated, DestinationUnavailable, LimitReached, ResponseIncomplete
from tests.conftest import Serve
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.unit.client.http1.asking import HOST, ask, body_of, fetch, until
from tests.unit.client.http1.conftest import MakeClient


async def held(conn: Conn) -> None:
    """Answers a request when the test says so, again and again."""
    while True:
        await conn.read_head()
        await conn.stall()
        await conn.send(response(b"ok"))


async def test_a_connection_is_used_again(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream)
    for _ in range(5):
        assert (await fetch(client)).body == b"ok"
    assert len(upstream.connections) == 1
    assert (client.idle, client.active) == (1, 0)


async def test_the_connection_that_came_back_last_goes_first(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(held)
    client = native(upstream)
    asking = [asyncio.ensure_future(fetch(client)) for _ in range(2)]
    await upstream.request(1)
    assert client.active == 2
    pending = set(asking)
    for conn in upstream.connections:  # which of the two made it is open
        conn.go.set()
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    assert client.idle == 2
    await fetch(client)
    assert [len(conn.heads) for conn in upstream.connections] == [1, 2]


@pytest.mark.parametrize("how", ["close", "reset", "half_close", "stray byte"])
async def test_an_idle_connection_leaves_the_pool_when_its_peer_ends_it(
    how: str, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream)
    await fetch(client)
    conn = upstream.connections[0]
    if how == "stray byte":
        await conn.send(b"x")
    else:
        end: Callable[[], None] = getattr(conn, how)
        end()
    await until(lambda: not client.idle)
    assert client.active == 0
    assert (await fetch(client)).body == b"ok"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_connection_that_dies_under_a_repeatable_request_costs_nothing(
    method: str, serve: Serve, native: MakeClient
) -> None:
    async def dying(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"ok") if method != "HEAD" else response())
        await conn.read_head()
        conn.reset()

    upstream = await serve([dying, answering(response())])
    client = native(upstream)
    await fetch(client, method)
    assert (await fetch(client, method)).status == 200
    assert len(upstream.requests) == 3


async def test_a_repeated_request_is_repeated_once_and_on_a_new_connection(serve: Serve, native: MakeClient) -> None:
    async def dying(conn: Conn) -> None:
        if len(upstream.connections) < 3:
            await conn.read_head()
            await conn.stall()
            await conn.send(response(b"ok"))
        await conn.read_head()

    upstream = await serve(dying)
    client = native(upstream)
    asking = [asyncio.ensure_future(fetch(client)) for _ in range(2)]
    await upstream.request(1)
    for conn in upstream.connections:
        conn.go.set()
    await asyncio.gather(*asking)
    with pytest.raises(ConnectionTerminated):
        await fetch(client)
    assert len(upstream.connections) == 3
    assert client.active == 0


async def test_a_new_connection_that_dies_is_not_tried_again(serve: Serve, native: MakeClient) -> None:
    async def dying(conn: Conn) -> None:
        await conn.read_head()

    upstream = await serve(dying)
    with pytest.raises(ConnectionTerminated):
        await fetch(native(upstream))
    assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    ("method", "content"),
    [("POST", None), ("POST", b"a"), ("POST", [b"a"]), ("PATCH", b"a"), ("PUT", [b"a"])],
    ids=["post", "post of bytes", "post of a stream", "patch", "put of a stream"],
)
async def test_what_can_not_be_repeated_is_not_when_its_connection_dies_after_it_was_sent(
    method: str, content: bytes | list[bytes] | None, serve: Serve, native: MakeClient
) -> None:
    """Because of its method, or because the stream of its body can be read only once."""

    async def dying(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"ok"))
        await conn.read_request()

    upstream = await serve([dying, answering(response(b"ok"))])
    client = native(upstream)
    await fetch(client)
    with pytest.raises(ConnectionTerminated):
        await fetch(client, method, content=body_of(*content) if isinstance(content, list) else content)
    assert len(upstream.requests) == 2


async def test_a_request_that_died_in_the_middle_of_its_response_is_not_repeated(
    serve: Serve, native: MakeClient
) -> None:
    async def dying(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"ok"))
        await conn.read_head()
        await conn.send(b"H")

    upstream = await serve([dying, answering(response(b"ok"))])
    client = native(upstream)
    await fetch(client)
    with pytest.raises(ConnectionTerminated):
        await fetch(client)


async def test_a_post_does_not_go_out_on_a_connection_whose_close_the_loop_has_not_seen(
    serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream)
    await fetch(client, "POST", content=body_of(b"a"))
    # The close reaches the kernel while this test does not let the loop turn.
    with socket.socket(fileno=os.dup(upstream.connections[0].socket.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)
    assert client.idle == 1
    assert (await fetch(client, "POST", content=body_of(b"b"))).body == b"ok"
    assert len(upstream.connections) == 2


TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("words", [b"", TIMEOUT, TIMEOUT.replace(b"408 Request Timeout", b"400 Bad Request")])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_last_words_of_an_idle_connection_are_no_answer(
    method: str, words: bytes, serve: Serve, native: MakeClient
) -> None:
    """They are in the kernel when the next request is about to be sent, and the loop has not turned since."""
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream)
    await fetch(client)
    with socket.socket(fileno=os.dup(upstream.connections[0].socket.fileno())) as sock:
        if words:
            sock.send(words)
        sock.shutdown(socket.SHUT_RDWR)
    assert client.idle == 1
    assert (await fetch(client, method, content=b"x" if method == "POST" else None)).body == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(
    ("method", "content"), [("GET", None), ("POST", None), ("POST", b"abc")], ids=["get", "post", "post of bytes"]
)
async def test_a_408_that_crosses_a_request_on_a_used_connection_is_not_its_answer(
    method: str, content: bytes | None, serve: Serve, native: MakeClient
) -> None:
    async def dying(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"ok"))
        await conn.read_request()
        await conn.send(TIMEOUT)

    upstream = await serve([dying, answering(response(b"the answer"))])
    client = native(upstream)
    await fetch(client)
    answer = await fetch(client, method, content=content)
    assert (answer.status, answer.body) == (200, b"the answer")
    assert len(upstream.connections) == 2
    assert (client.active, client.idle) == (0, 1)


async def test_a_408_is_an_answer_on_a_fresh_connection_and_to_a_body_that_has_begun(
    serve: Serve, native: MakeClient
) -> None:
    async def slow(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"ok"))
        await conn.read_head()
        await conn.read_until(b"abc")
        await conn.send(TIMEOUT)

    assert (await fetch(native(await serve(answering(TIMEOUT))))).status == 408
    upstream = await serve(slow)
    client = native(upstream)
    await fetch(client)
    async with ask(client, "POST", content=body_of(b"abc", b"d" * 10)) as answer:
        assert answer.status_code == 408
    assert len(upstream.connections) == 1


async def test_no_more_connections_than_allowed_and_first_come_first_served(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(held)
    client = native(upstream, max_connections=2)
    asking = [asyncio.ensure_future(fetch(client, target=b"/%d" % number)) for number in range(6)]
    await upstream.request(1)
    await asyncio.sleep(0)
    assert (client.active, client._pool.waiting) == (2, 4)
    for conn in upstream.connections:
        conn.go.set()
    async with guarded("all of them"):
        await asyncio.gather(*asking)
    assert len(upstream.connections) == 2
    targets = [head.target for head in upstream.requests]
    assert sorted(targets[:2]) == [b"/0", b"/1"]  # their connections were made side by side
    assert targets[2:] == [b"/2", b"/3", b"/4", b"/5"]
    assert (client.active, client.idle) == (0, 2)


async def test_who_waits_too_long_for_a_place_is_told_so(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(held)
    client = native(upstream, max_connections=1)
    first = asyncio.ensure_future(fetch(client))
    await upstream.request()
    with pytest.raises(LimitReached) as refused:
        await fetch(client, timeout={"pool": 0.01, "connect": None})
    assert refused.value.retry_after == 1
    assert client._pool.waiting == 0
    upstream.connections[0].go.set()
    assert (await first).body == b"ok"


async def test_who_is_cancelled_in_the_queue_leaves_it(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"ok"))), max_connections=1)
    async with ask(client):
        second = asyncio.ensure_future(fetch(client))
        await asyncio.sleep(0)
        assert client._pool.waiting == 1
        second.cancel()
        await asyncio.wait([second])
        assert client._pool.waiting == 0


async def test_a_place_freed_by_a_broken_stream_goes_to_the_next(serve: Serve, native: MakeClient) -> None:
    async def broken(conn: Conn) -> None:
        await conn.read_head()
        await conn.stall()
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    upstream = await serve([broken, answering(response(b"ok"))])
    client = native(upstream, max_connections=1)
    first = asyncio.ensure_future(fetch(client))
    await upstream.request()
    second = asyncio.ensure_future(fetch(client))
    await asyncio.sleep(0)
    upstream.connections[0].go.set()
    with pytest.raises(ResponseIncomplete):
        await first
    assert (await second).body == b"ok"


async def enter(stream: Stream) -> int:
    async with stream as answer:
        return answer.status_code


@pytest.mark.parametrize("cancelled", ["before", "after"])
async def test_a_place_given_to_who_is_cancelled_in_the_same_moment_is_passed_on(
    cancelled: str, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream, max_connections=1)
    async with ask(client):
        second, third = (asyncio.ensure_future(enter(ask(client))) for _ in range(2))
        await asyncio.sleep(0)
        assert client._pool.waiting == 2
        if cancelled == "before":
            second.cancel()
    if cancelled == "after":
        second.cancel()
    async with guarded("the third"):
        assert await third == 200
    async with guarded("the second"):
        await asyncio.wait([second])
    assert second.cancelled()
    assert (client.active, client.idle, client._pool.waiting) == (0, 1, 0)


async def test_a_connection_lost_on_its_way_to_the_next_is_replaced(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream, max_connections=1)
    async with ask(client, "POST") as answer:
        connection = answer._connection
        assert connection is not None
        second = asyncio.ensure_future(enter(ask(client, "POST")))
        await asyncio.sleep(0)
    connection.eof_received()  # in the tick in which it changed hands
    async with guarded("the second"):
        assert await second == 200
    assert len(upstream.connections) == 2
    assert (client.active, client.idle) == (0, 1)


async def test_a_connection_closed_unseen_on_its_way_to_the_next_is_replaced(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream, max_connections=1)
    async with ask(client, "POST"):
        second = asyncio.ensure_future(enter(ask(client, "POST")))
        await asyncio.sleep(0)
        # The close reaches the kernel while this test does not let the loop turn.
        with socket.socket(fileno=os.dup(upstream.connections[0].socket.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
    async with guarded("the second"):
        assert await second == 200
    assert len(upstream.connections) == 2


async def test_no_more_connections_are_kept_than_allowed(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(held)
    client = native(upstream, max_idle=1)
    asking = [asyncio.ensure_future(fetch(client)) for _ in range(3)]
    await upstream.request(2)
    for conn in upstream.connections:
        conn.go.set()
    await asyncio.gather(*asking)
    assert (client.active, client.idle) == (0, 1)
    await until(lambda: len(upstream.open_connections) == 1)


async def test_idle_connections_are_closed_after_their_time(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream, idle_timeout=0.02)
    await fetch(client)
    assert client.idle == 1
    await until(lambda: not client.idle)
    assert (await upstream.connections[0].wait_ended()).how in ("eof", "reset")
    assert client.active == 0
    assert client._pool._timer is None


async def test_without_a_time_idle_connections_stay(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream, idle_timeout=float("inf"))
    await fetch(client)
    await fetch(client)
    assert len(upstream.connections) == 1
    client._pool._sweep()
    assert client.idle == 1


async def test_the_timer_goes_on_for_connections_that_came_back_later(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(held)
    client = native(upstream, idle_timeout=0.05)
    asking = [asyncio.ensure_future(fetch(client)) for _ in range(2)]
    await upstream.request(1)
    upstream.connections[0].go.set()
    await until(lambda: client.idle)
    client._pool._idle[0].idle_since -= 0.02  # as if the other had been away for longer
    upstream.connections[1].go.set()
    await asyncio.gather(*asking)
    await until(lambda: not client.idle)
    assert client.active == 0


async def test_a_connection_that_the_upstream_is_about_to_close_is_not_used(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok", headers=[("Keep-Alive", "timeout=1")])))
    client = native(upstream)
    await fetch(client)
    await fetch(client)
    assert len(upstream.connections) == 1
    client._pool._idle[0].idle_since -= 1
    await fetch(client)
    assert len(upstream.connections) == 2


async def test_closing_the_client_ends_what_still_runs(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.wait_ended()

    upstream = await serve([script, held])
    client = native(upstream, max_connections=2)
    async with ask(client) as answer:
        waiting = asyncio.ensure_future(fetch(client))
        await upstream.request(1)
        queued = asyncio.ensure_future(fetch(client))
        await asyncio.sleep(0)
        async with guarded("the client to close"):
            await client.aclose()
        with pytest.raises(ResponseIncomplete):
            await anext(answer.aiter_raw())
    with pytest.raises(ConnectionTerminated):
        await waiting
    with pytest.raises(DestinationUnavailable):
        await queued
    with pytest.raises(DestinationUnavailable):
        await fetch(client)
    assert client.active == 0


async def test_closing_twice_is_closing_once(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"ok"))))
    await fetch(client)
    await client.aclose()
    await client.aclose()
    assert client.idle == 0


async def test_progress_tells_of_a_new_connection_only(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"ok"))))
    steps: list[str] = []
    for _ in range(2):
        await fetch(client, progress=steps.append)
    assert steps == ["connect", "head", "head"]


async def test_a_client_without_extensions_works(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    async with native(upstream).stream("GET", upstream.url, headers=HOST) as answer:
        assert answer.status_code == 200
