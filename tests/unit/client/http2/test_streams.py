"""What our HTTP/2 client does with the frames of an upstream."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from streamproxy.client.http2 import Http2Client
from streamproxy.errors import (
    BadResponse,
    ConnectionTerminated,
    ExchangeError,
    ResponseIncomplete,
    UpstreamBusy,
)
from tests.conftest import Serve
from tests.doubles.until import until
from tests.unit.client.http2.conftest import OK, Frames, MakeClient, speaking

_HOST = [(b"Host", b"up.test")]


async def fetch(client: Http2Client, url: str, method: str = "GET", **keys: Any) -> bytes:
    async with client.stream(method, url, headers=_HOST, **keys) as response:
        return b"".join([chunk async for chunk in response.source])  # type: ignore[attr-defined]


async def test_a_request_is_said_in_the_words_of_http_2(serve: Serve, http2: MakeClient) -> None:
    seen: list[Any] = []

    async def script(up: Frames) -> None:
        stream, fields = await up.request()
        seen.extend(fields)
        await up.answer(stream, b"ok")

    upstream = await serve(speaking(script))
    client = http2(upstream.url)
    headers = [*_HOST, (b"X-A", b"1"), (b"Connection", b"te"), (b"TE", b"trailers"), (b"Keep-Alive", b"x")]
    async with client.stream("GET", upstream.url, headers=headers, extensions={"target": b"/p?q"}) as response:
        assert (response.status_code, response.http_version) == (200, "2")
    assert seen == [
        (b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"up.test"), (b":path", b"/p?q"),
        (b"x-a", b"1"), (b"te", b"trailers"),
    ]  # fmt: skip


async def test_a_cancel_resets_its_stream_and_no_other(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        first, _ = await up.request()
        await up.send(up.head(first, OK))
        second, _ = await up.request()
        await up.send(up.head(second, OK))
        reset = await up.next(RstStreamFrame)
        assert (reset.stream_id, reset.error_code) == (first, 8)
        await up.send(DataFrame(second, b"still here", flags=["END_STREAM"]))

    upstream = await serve(speaking(script))
    client = http2(upstream.url)
    async with client.stream("GET", upstream.url, headers=_HOST) as first:
        assert first.status_code == 200
        second = client.stream("GET", upstream.url, headers=_HOST)
        await second.__aenter__()
    assert await second.source.read() == b"still here"
    await second.__aexit__(None, None, None)
    assert len(upstream.connections) == 1


async def test_goaway_lets_running_streams_end(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, OK), GoAwayFrame(0, last_stream_id=stream))
        await up.conn.stall()
        await up.send(DataFrame(stream, b"the rest", flags=["END_STREAM"]))

    async def second(up: Frames) -> None:
        stream, _ = await up.request()
        await up.answer(stream, b"new")

    upstream = await serve([speaking(script), speaking(second)])
    client = http2(upstream.url)
    async with client.stream("GET", upstream.url, headers=_HOST) as response:
        await until(lambda: upstream.connections[0].ended or not await_new(client))
        assert await fetch(client, upstream.url) == b"new"
        upstream.connections[0].go.set()
        assert [chunk async for chunk in response.source] == [b"the rest"]  # type: ignore[attr-defined]


async def test_settings_behind_a_goaway_are_no_fault(
    serve: Serve, http2: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """All in one read, in which the session ends: nothing may be asked of it then. No exception reaches the loop."""

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        body = DataFrame(stream, b"all", flags=["END_STREAM"])
        await up.send(up.head(stream, OK), body, GoAwayFrame(0, last_stream_id=stream), SettingsFrame(0))

    upstream = await serve(speaking(script))
    assert await fetch(http2(upstream.url), upstream.url) == b"all"
    await until(lambda: upstream.connections[0].ended)
    assert caplog.text == ""


async def test_a_head_behind_the_news_that_the_upstream_is_too_busy_begins_nothing(
    serve: Serve, http2: MakeClient
) -> None:
    """All in one read: however it is cut, the request has failed, and may go elsewhere."""

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(GoAwayFrame(0, last_stream_id=stream, error_code=0xB), up.head(stream, OK))

    upstream = await serve(speaking(script))
    with pytest.raises(UpstreamBusy):
        async with http2(upstream.url).stream("GET", upstream.url, headers=_HOST):
            pytest.fail("the response has begun")


def await_new(client: Http2Client) -> bool:
    """Whether the client would still join its first connection."""
    return bool(client.pool._shared)


async def test_a_slow_reader_holds_its_own_stream_and_no_other(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        slow, _ = await up.request()
        await up.send(up.head(slow, OK), *(DataFrame(slow, bytes(16_383)) for _ in range(4)))
        fast, _ = await up.request()
        await up.answer(fast, b"quick")
        assert not [frame for frame in up.frames if isinstance(frame, WindowUpdateFrame) and frame.stream_id == slow]
        await up.next(WindowUpdateFrame, slow)  # now that it was read
        await up.send(DataFrame(slow, b"end", flags=["END_STREAM"]))

    upstream = await serve(speaking(script))
    client = http2(upstream.url)
    async with client.stream("GET", upstream.url, headers=_HOST) as response:
        assert await fetch(client, upstream.url) == b"quick"
        body = b"".join([chunk async for chunk in response.source])  # type: ignore[attr-defined]
    assert len(body) == 4 * 16_383 + 3


async def test_a_large_buffer_widens_the_window_of_its_stream(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        update = await up.next(WindowUpdateFrame, stream)
        assert update.window_increment == 1_000_000 - 65_535
        await up.answer(stream, b"ok")

    upstream = await serve(speaking(script))
    assert await fetch(http2(upstream.url), upstream.url, extensions={"buffer": 1_000_000}) == b"ok"


async def test_chunks_are_pushed_in_the_read(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, OK))
        await up.conn.stall()
        for part in (b"1", b"2", b"3"):
            await up.send(DataFrame(stream, part))
        trailers = up.head(stream, [(b"x-sum", b"6")], end=True)
        await up.send(trailers)

    upstream = await serve(speaking(script))
    pushed: list[bytes] = []

    def sink(chunk: bytes, framed: bytes) -> bool:
        pushed.append(chunk)
        return True

    async with http2(upstream.url).stream("GET", upstream.url, headers=_HOST) as response:
        assert response.source.pipe(sink)
        upstream.connections[0].go.set()
        await response.source.change()
        assert b"".join(pushed) == b"123"
        assert response.source.ended
        assert response.source.trailers == [(b"x-sum", b"6")]


async def test_trailers_have_as_many_fields_at_most_as_behind_chunks(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        for count in (101, 100):
            stream, _ = await up.request()
            await up.send(up.head(stream, OK), DataFrame(stream, b"body"))
            await up.send(up.head(stream, [(b"x-%d" % number, b"1") for number in range(count)], end=True))

    upstream = await serve(speaking(script))
    client = http2(upstream.url)
    with pytest.raises(ResponseIncomplete) as cut:
        await fetch(client, upstream.url)
    assert cut.value.note == "more than 100 trailer fields"
    async with client.stream("GET", upstream.url, headers=_HOST) as response:
        assert [chunk async for chunk in response.source] == [b"body"]  # type: ignore[attr-defined]
        assert len(response.source.trailers) == 100
    assert len(upstream.connections) == 1


async def test_informational_responses_pass(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, [(b":status", b"103"), (b"link", b"</a>")]))
        await up.answer(stream)

    upstream = await serve(speaking(script))
    seen: list[Any] = []
    extensions = {"informational": lambda status, headers: seen.append((status, headers))}
    await fetch(http2(upstream.url), upstream.url, extensions=extensions)
    assert seen == [(103, [(b"link", b"</a>")])]


@pytest.mark.parametrize(
    "fields",
    [
        [(b"x-a", b"1")],
        [(b":status", b"200"), (b"X-Upper", b"1")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"2x0")],
        [(b":status", b"101")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
    ],
)
async def test_a_malformed_head_ends_its_own_stream_only(
    serve: Serve, http2: MakeClient, fields: list[tuple[bytes, bytes]]
) -> None:
    async def script(up: Frames) -> None:
        bad, _ = await up.request()
        await up.send(up.head(bad, fields))
        good, _ = await up.request()
        await up.answer(good, b"ok")

    upstream = await serve(speaking(script))
    client = http2(upstream.url)
    with pytest.raises(BadResponse):
        await fetch(client, upstream.url)
    assert await fetch(client, upstream.url) == b"ok"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("body", [b"123", b"12345"])
async def test_a_body_of_another_length_than_announced_is_incomplete(
    serve: Serve, http2: MakeClient, body: bytes
) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, [*OK, (b"content-length", b"4")]))
        await up.conn.stall()
        await up.send(DataFrame(stream, body, flags=["END_STREAM"]))

    upstream = await serve(speaking(script))
    async with http2(upstream.url).stream("GET", upstream.url, headers=_HOST) as response:
        upstream.connections[0].go.set()
        with pytest.raises(ResponseIncomplete):
            [chunk async for chunk in response.source]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200"), ("GET", b"204"), ("GET", b"304")])
@pytest.mark.parametrize("late", [b"", b"data: 1\n\n"])
async def test_a_response_without_a_body_is_complete_with_its_head_and_its_stream_is_cancelled(
    serve: Serve, http2: MakeClient, method: str, status: bytes, late: bytes
) -> None:
    """A handler of GET that serves HEAD too may go on for ever, and say nothing of it."""

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, [(b":status", status), (b"content-type", b"text/event-stream")]))
        reset = await up.next(RstStreamFrame)
        assert (reset.stream_id, reset.error_code) == (stream, 8)
        if late:
            await up.send(DataFrame(stream, late))
        again, _ = await up.request()
        await up.answer(again, b"ok")

    upstream = await serve(speaking(script))
    client = http2(upstream.url)
    assert await fetch(client, upstream.url, method) == b""
    assert await fetch(client, upstream.url) == b"ok"
    assert len(upstream.connections) == 1


async def test_a_reset_after_the_head_is_an_incomplete_response(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, OK), DataFrame(stream, b"some"), RstStreamFrame(stream, error_code=2))

    upstream = await serve(speaking(script))
    with pytest.raises(ResponseIncomplete):
        await fetch(http2(upstream.url), upstream.url)


async def test_enhance_your_calm_is_an_upstream_that_is_busy(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(RstStreamFrame(stream, error_code=0xB))

    upstream = await serve(speaking(script))
    with pytest.raises(UpstreamBusy):
        await fetch(http2(upstream.url), upstream.url)


async def test_a_silent_connection_that_answers_no_ping_is_dead(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        await up.request()
        ping = await up.next(PingFrame)
        assert not ping.flags

    upstream = await serve(speaking(script))
    with pytest.raises(ConnectionTerminated, match="closed before it answered"):
        await fetch(http2(upstream.url, silence=0.05, answer=0.05), upstream.url, "POST", content=b"")


async def test_an_answer_to_a_ping_that_came_while_the_process_stood_still_counts(
    serve: Serve, http2: MakeClient
) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        ping = await up.next(PingFrame)
        # The answer is in the client's socket when the loop, which is the client's too, stands still. A stopped process
        # comes back with its timers, before it reads.
        answer = PingFrame(0, ping.opaque_data, flags=["ACK"]).serialize()
        os.write(up.conn.transport.get_extra_info("socket").fileno(), answer)
        time.sleep(0.19)  # seconds: longer than ``answer``, and than a timer is ever late
        (connection,) = client.pool._open
        connection._watch()  # type: ignore[attr-defined]  # of an HTTP/2 connection
        await up.answer(stream, b"late")

    upstream = await serve(speaking(script))
    client = http2(upstream.url, silence=0.05, answer=0.05)
    assert await fetch(client, upstream.url) == b"late"


async def test_a_silent_connection_that_answers_pings_lives(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        for _ in range(3):
            ping = await up.next(PingFrame)
            await up.send(PingFrame(0, ping.opaque_data, flags=["ACK"]))
        await up.answer(stream, b"late")

    upstream = await serve(speaking(script))
    assert await fetch(http2(upstream.url, silence=0.02, answer=0.5), upstream.url) == b"late"


@pytest.mark.parametrize("flood", ["ping", "settings", "informational", "reset"])
async def test_a_flood_ends_the_connection(serve: Serve, http2: MakeClient, flood: str) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        while True:
            if flood == "ping":
                frames: list[Any] = [PingFrame(0, b"12345678")] * 100
            elif flood == "settings":
                frames = [SettingsFrame(0)] * 100
            elif flood == "reset":
                frames = [RstStreamFrame(1, error_code=0)] * 100
            else:
                frames = [up.head(stream, [(b":status", b"103"), (b"x", b"y" * 500)]) for _ in range(20)]
            await up.send(*frames)
            await asyncio.sleep(0)  # the client reads in the same loop, and the kernel takes a lot of small frames

    upstream = await serve(speaking(script))
    with pytest.raises(ExchangeError):
        await fetch(http2(upstream.url), upstream.url)


async def test_an_upload_is_held_by_the_window_and_ends_with_trailers(serve: Serve, http2: MakeClient) -> None:
    sent = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 10_000
            yield bytes(10_000)

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        got = 0
        while got < 65_535:
            got += len((await up.next(DataFrame, stream)).data)
        assert sent < 300_000
        await up.send(WindowUpdateFrame(0, window_increment=1 << 24))
        await up.send(WindowUpdateFrame(stream, window_increment=1 << 24))
        while got < 1_000_000:
            got += len((await up.next(DataFrame, stream)).data)
        _, trailers = await up.request()
        assert trailers == [(b"x-sum", b"1")]
        await up.answer(stream, b"ok")

    upstream = await serve(speaking(script))
    extensions = {"trailers": lambda: [(b"X-Sum", b"1")]}
    assert await fetch(http2(upstream.url), upstream.url, "POST", content=content(), extensions=extensions) == b"ok"


async def test_any_number_of_slow_readers_leave_room_for_another_stream(serve: Serve, http2: MakeClient) -> None:
    slow = 300
    piece = 16_384

    async def script(up: Frames) -> None:
        window = 65_535
        stream = 0
        for number in range(slow + 1):
            while True:
                frame = await up.frame()
                if isinstance(frame, HeadersFrame):
                    stream = frame.stream_id
                    up.decoder.decode(frame.data, raw=True)
                    break
                if isinstance(frame, WindowUpdateFrame) and not frame.stream_id:
                    window += frame.window_increment
            await up.send(up.head(stream, OK))
            if number == slow:
                break
            for size in (piece, piece, piece, piece - 1):
                size = min(size, window)
                window -= size
                await up.send(DataFrame(stream, bytes(size)))
        while window < 5:
            window += (await up.next(WindowUpdateFrame, 0)).window_increment
        await up.send(DataFrame(stream, b"quick", flags=["END_STREAM"]))

    upstream = await serve(speaking(script, MAX_CONCURRENT_STREAMS=1000))
    client = http2(upstream.url)
    async with AsyncExitStack() as stack:
        for _ in range(slow):
            await stack.enter_async_context(client.stream("GET", upstream.url, headers=_HOST))
        async with asyncio.timeout(5):
            assert await fetch(client, upstream.url) == b"quick"
    assert len(upstream.connections) == 1
