"""Streams that clients come back to, against clients and upstreams that do what nobody should."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.conftest import Start
from tests.conftest import Connect, Serve
from tests.doubles.stack import Config, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head, streaming

SSE = ("Content-Type", "text/event-stream")


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


def resumable(upstream: str, **resume: object) -> Config:
    return route(upstream, resume={"ids": "off", **resume}, keepalive="off")


def stream_of(begin: bytes | None) -> str:
    assert begin is not None
    return begin.rpartition(b"/")[0].decode()


async def open_ended(conn: Conn) -> None:
    """Two events, and the end when the test says so."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(event(1) + event(2))
    await conn.stall()
    await conn.send_chunk(b"")


async def test_head_with_a_cursor_is_answered_from_what_is_kept_and_waits_for_nothing(
    start: Start, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(open_ended)
    proxy = await start([resumable(upstream.url) | {"methods": ["POST"]}])  # which do not hold for cursors
    first, asks = await dial(proxy.url), await dial(proxy.url)
    await first.request("/", method="POST", body=b"")
    stream = stream_of((await first.read_head()).get("x-stream-cursor"))
    await first.read_body_until(event(2))
    for place, status in ((0, 200), (1, 200)):
        await asks.request("/", method="HEAD", headers=[("Last-Event-ID", f"{stream}/{place}")])
        answer = await asks.read_response("HEAD")
        assert (answer.status, answer.body) == (status, b"")
    (await upstream.connection()).go.set()
    assert (await first.read_rest()).complete
    await until(lambda: [one for one in proxy.ended if one.method == "POST"], "its end")
    await asks.request("/", method="HEAD", headers=[("Last-Event-ID", f"{stream}/2")])
    assert (await asks.read_response("HEAD")).status == 204
    assert (await asks.get("/", headers=[("Last-Event-ID", f"{stream}/1")])).body == event(2)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("field", [("Range", "bytes=5-"), ("If-Range", '"a"'), ("Accept-Encoding", "gzip, br")])
async def test_a_cursor_brings_whole_events_whatever_else_is_asked_for(
    start: Start, serve: Serve, dial: Connect, field: tuple[str, str]
) -> None:
    upstream = await serve(streaming(event(1), event(2)))
    proxy = await start([resumable(upstream.url)])
    client = await dial(proxy.url)
    stream = stream_of((await client.get("/")).get("x-stream-cursor"))
    answer = await client.get("/", headers=[("Last-Event-ID", f"{stream}/1"), field])
    assert (answer.status, answer.body, answer.get("content-encoding")) == (200, event(2), None)


@pytest.mark.parametrize(
    "answer",
    [
        response(event(1), status="206 Partial Content", headers=[SSE, ("Content-Range", "bytes 0-8/18")]),
        response(b"\x1f\x8b", headers=[SSE, ("Content-Encoding", "gzip")]),
        response(event(1), headers=[("Content-Type", "text/event-streams")]),
    ],
)
async def test_what_is_not_whole_or_not_plain_has_no_cursor(
    start: Start, serve: Serve, dial: Connect, answer: object
) -> None:
    upstream = await serve(answering(answer))  # type: ignore[arg-type]
    proxy = await start([resumable(upstream.url)])
    assert (await (await dial(proxy.url)).get("/")).get("x-stream-cursor") is None


@pytest.mark.parametrize("place", ["999999999999999", "3"])
async def test_a_place_that_a_finished_stream_never_had_is_gone_at_once(
    start: Start, serve: Serve, dial: Connect, place: str
) -> None:
    upstream = await serve(streaming(event(1), event(2)))
    proxy = await start([resumable(upstream.url)])
    client = await dial(proxy.url)
    stream = stream_of((await client.get("/")).get("x-stream-cursor"))
    assert (await client.get("/", headers=[("Last-Event-ID", f"{stream}/{place}")])).status == 410
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "tail", ["", "/", "/-1", "/00", "/01", "/+1", "/1.0", "/1/1", "/1000000000000000", "/٣", "/1;a", "%2F1", "/0x1"]
)
async def test_what_is_no_cursor_goes_to_the_upstream_as_it_is(
    start: Start, serve: Serve, dial: Connect, tail: str
) -> None:
    upstream = await serve(streaming(event(1), event(2)))
    proxy = await start([resumable(upstream.url)])
    client = await dial(proxy.url)
    stream = stream_of((await client.get("/")).get("x-stream-cursor"))
    value = (stream + tail).encode().decode("latin-1")
    answer = await client.get("/", headers=[("Last-Event-ID", value)])
    assert answer.body == event(1) + event(2)  # a stream of its own, from the beginning
    assert stream_of(answer.get("x-stream-cursor")) != stream
    assert upstream.requests[1].get("last-event-id") == value.encode("latin-1")


async def test_of_several_ids_the_cursor_in_a_field_counts(start: Start, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(event(1), event(2), event(3)))
    proxy = await start([resumable(upstream.url)])
    client = await dial(proxy.url)
    stream = stream_of((await client.get("/")).get("x-stream-cursor"))
    fields = [("Last-Event-ID", "42"), ("Last-Event-ID", f"{stream}/2"), ("Last-Event-ID", f"{stream}/0")]
    answer = await client.get(f"/?last_event_id={stream}/1&last_event_id=x", headers=fields)
    assert answer.body == event(3)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("ids", ["off", "on"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
async def test_a_stream_in_single_bytes_is_the_same_from_every_cursor(
    start: Start, serve: Serve, dial: Connect, ends: bytes, ids: str
) -> None:
    lines = b"\xef\xbb\xbfdata: 1||: note||\xef\xbb\xbfdata: none||data: 2|event: e||id: a\0b|data: 3||data: unfin"
    whole = lines.replace(b"|", ends)

    async def bytewise(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        for at in range(len(whole)):
            await conn.send_chunk(whole[at : at + 1])
            await asyncio.sleep(0)
        await conn.send_chunk(b"")

    upstream = await serve(bytewise)
    proxy = await start([resumable(upstream.url, ids=ids)])
    client = await dial(proxy.url)
    first = await client.get("/")
    stream = stream_of(first.get("x-stream-cursor"))
    places = [len(whole[: whole.index(mark)]) for mark in (b"\xef", b": note", b"id: a", b"data: unfin")]
    for number, place in enumerate(places):
        answer = await client.get("/", headers=[("Last-Event-ID", f"{stream}/{number}")])
        assert first.body.endswith(answer.body)
        if ids == "off":
            assert answer.body == whole[place:]
    assert (await client.get("/", headers=[("Last-Event-ID", f"{stream}/4")])).status == 410
    assert len(upstream.requests) == 1


async def test_an_event_larger_than_what_may_be_kept_passes_and_its_place_is_gone(
    start: Start, serve: Serve, dial: Connect
) -> None:
    large = b"data: " + b"x" * 100_000 + b"\n\n"

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        for chunk in (event(1) + large, event(3), event(4)):
            await conn.send_chunk(chunk)
            await conn.stall()
            conn.go.clear()
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await start([resumable(upstream.url, max_bytes=5000)])
    client = await dial(proxy.url)
    await client.request("/")
    stream = stream_of((await client.read_head()).get("x-stream-cursor"))
    for chunk in (event(1) + large, event(3), event(4)):
        assert await client.read_body_until(chunk[-9:]) == chunk
        (await upstream.connection()).go.set()
    assert (await client.read_rest()).complete
    for place in (0, 1):
        assert (await client.get("/", headers=[("Last-Event-ID", f"{stream}/{place}")])).status == 410
    assert (await client.get("/", headers=[("Last-Event-ID", f"{stream}/3")])).body == event(4)
