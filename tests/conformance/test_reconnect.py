"""Event streams that break are asked for again: the client sees no break and no event twice."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.connection import PeerEnded
from tests.doubles.stack import Config, route
from tests.doubles.upstream import Conn, Script, response, stream_head


def event(number: int) -> bytes:
    return b"data: %d\nid: %d\n\n" % (number, number)


def reconnecting(upstream: str, **reconnect: object) -> Config:
    return route(upstream, reconnect={"backoff": "10ms", **reconnect}, keepalive="off")


def breaking(*chunks: bytes) -> Script:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        for chunk in chunks:
            await conn.send_chunk(chunk)
        conn.close()

    return script


def ending(*chunks: bytes) -> Script:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        for chunk in (*chunks, b""):
            await conn.send_chunk(chunk)
        conn.close()

    return script


def refusing(status: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(status=status, headers=[("Connection", "close")]))
        conn.close()

    return script


async def test_a_broken_stream_goes_on_after_its_last_id_and_nothing_comes_twice(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(
        [
            breaking(event(1), event(2) + b"data: half of 3"),
            breaking(event(3) + b"da", b"ta: 4\r\nid: 4\r\n\r\n"),
            ending(event(5)),
        ]
    )
    proxy = await stack([reconnecting(upstream.url)])
    client = await dial(proxy.url)
    answer = await client.get("/a", headers=[("Last-Event-ID", "0")])
    assert answer.complete
    assert answer.body == event(1) + event(2) + event(3) + b"data: 4\r\nid: 4\r\n\r\n" + event(5)
    assert [head.get("last-event-id") for head in upstream.requests] == [b"0", b"2", b"4"]
    assert (await proxy.end_of()).end == "complete"


async def test_a_stream_whose_last_event_had_no_id_is_cut(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(breaking(event(1), b"data: 2\n\n"))
    proxy = await stack([reconnecting(upstream.url)])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    with pytest.raises(PeerEnded):
        await client.read_body_until(b"never")
    assert bytes(client.decoded) == event(1) + b"data: 2\n\n"
    assert len(upstream.requests) == 1
    assert (await proxy.end_of()).end == "upstream_truncated"


async def test_refused_attempts_count_and_then_the_stream_is_cut(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve([breaking(event(1)), refusing("503 Busy"), breaking(), refusing("500 No")])
    proxy = await stack([reconnecting(upstream.url, attempts=3)])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    with pytest.raises(PeerEnded):
        await client.read_body_until(b"never")
    assert bytes(client.decoded) == event(1)
    assert len(upstream.requests) == 4


async def test_an_event_between_gives_all_attempts_back(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve([breaking(event(n)) for n in range(1, 5)] + [ending(event(5))])
    proxy = await stack([reconnecting(upstream.url, attempts=1)])
    client = await dial(proxy.url)
    answer = await client.get("/")
    assert answer.complete
    assert answer.body == b"".join(map(event, range(1, 6)))


async def test_204_is_the_end(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve([breaking(event(1)), refusing("204 No Content")])
    proxy = await stack([reconnecting(upstream.url)])
    client = await dial(proxy.url)
    answer = await client.get("/")
    assert answer.complete
    assert answer.body == event(1)


async def test_an_answer_that_begins_again_is_skipped_up_to_the_last_event(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve([breaking(event(1), event(2), event(3)), ending(*map(event, range(1, 6)))])
    proxy = await stack([reconnecting(upstream.url)])
    client = await dial(proxy.url)
    answer = await client.get("/")
    assert answer.complete
    assert answer.body == b"".join(map(event, range(1, 6)))


async def test_an_answer_that_never_comes_to_the_last_event_is_cut(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve([breaking(event(1), event(2)), ending(event(1), event(7))])
    proxy = await stack([reconnecting(upstream.url)])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    with pytest.raises(PeerEnded):
        await client.read_body_until(b"never")
    assert bytes(client.decoded) == event(1) + event(2)


async def test_a_good_end_is_asked_for_again_only_where_that_is_said(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve([ending(event(1)), ending(event(2)), refusing("204 No Content")])
    proxy = await stack([reconnecting(upstream.url, on=["truncated", "end"])])
    client = await dial(proxy.url)
    answer = await client.get("/")
    assert answer.complete
    assert answer.body == event(1) + event(2)
    assert len(upstream.requests) == 3


async def test_post_and_other_types_are_left_alone(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(breaking(event(1)))
    proxy = await stack([reconnecting(upstream.url)])
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"")
    await client.read_head()
    with pytest.raises(PeerEnded):
        await client.read_body_until(b"never")
    assert len(upstream.requests) == 1


async def test_keepalives_go_on_while_the_upstream_is_asked_again(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def slow(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        await conn.send(stream_head())
        await conn.send_chunk(event(2))
        await conn.send_chunk(b"")

    upstream = await serve([breaking(event(1)), slow])
    proxy = await stack([reconnecting(upstream.url) | {"keepalive": "50ms"}])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(b": keepalive\n")
    (await upstream.connection(1)).go.set()
    answer = await client.read_rest()
    assert answer.complete
    assert answer.body.endswith(event(2))
    assert (await proxy.end_of()).keepalives > 0


async def test_with_resume_the_kept_stream_has_no_break(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve([breaking(event(1), b"data: 2"), ending(event(2))])
    proxy = await stack([reconnecting(upstream.url) | {"resume": {"ids": "off"}}])
    client = await dial(proxy.url)
    first = await client.get("/")
    assert first.body == event(1) + event(2)
    cursor = first.get("x-stream-cursor")
    assert cursor is not None
    again = await client.get("/", headers=[("Last-Event-ID", cursor[:-1].decode() + "1")])
    assert again.body == event(2)
