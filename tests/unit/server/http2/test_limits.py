"""Floods, slow clients, and the ends of connections over HTTP/2."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from streamproxy.server.http2.protocol import Http2Protocol
from tests.doubles.client import connect
from tests.doubles.http2 import PREFACE
from tests.doubles.until import until
from tests.unit.server.harness import Receive, Scope, Send, body_message, hello, start_message
from tests.unit.server.http2.conftest import Connect, Start


class Counter:
    """An application that counts its runs and waits for the client to leave."""

    def __init__(self) -> None:
        self.started = 0
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started += 1
        self.running += 1
        try:
            await send(start_message(200))
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self.running -= 1


async def test_streams_that_are_reset_in_the_read_that_opened_them_start_nothing(start: Start, h2: Connect) -> None:
    app = Counter()
    server = await start(app)
    client = await h2(server.url)
    frames: list[Frame] = []
    for _ in range(900):
        (head,) = client.head(client.fields())
        frames += [head, RstStreamFrame(head.stream_id, error_code=8)]
    client.send(*frames)
    await client.pong()
    assert app.started < 100  # those whose reset came in a later read
    assert app.running == 0


async def test_rapid_resets_end_the_connection_at_a_bounded_cost(start: Start, h2: Connect) -> None:
    app = Counter()
    server = await start(app)
    client = await h2(server.url)
    begun = time.process_time()
    for _ in range(100):
        frames: list[Frame] = []
        for _ in range(100):
            (head,) = client.head(client.fields())
            frames += [head, RstStreamFrame(head.stream_id, error_code=8)]
        client.send(*frames)
    assert await client.end() == 0xB
    assert app.started <= 1100
    assert time.process_time() - begun < 5.0  # most of it the client's


async def test_a_trusted_proxy_may_reset_as_many_as_it_likes(start: Start, h2: Connect) -> None:
    server = await start(Counter(), is_trusted=lambda address: address == "127.0.0.1")
    client = await h2(server.url)
    for _ in range(30):
        frames: list[Frame] = []
        for _ in range(100):
            (head,) = client.head(client.fields())
            frames += [head, RstStreamFrame(head.stream_id, error_code=8)]
        client.send(*frames)
        await client.pong()
    assert not client.goaways


async def test_300_honest_cancellations_are_fine(start: Start, h2: Connect) -> None:
    app = Counter()
    client = await h2((await start(app)).url)
    for _ in range(300):
        stream = await client.request()
        await client.started(stream)
        client.reset(stream)
    await client.pong()
    assert app.started == 300
    assert not client.goaways


async def test_resets_that_the_client_brings_about_are_bounded(start: Start, h2: Connect) -> None:
    """The client breaks a rule on each stream, so that it is the server that resets them (CVE-2025-8671)."""
    app = Counter()
    client = await h2((await start(app)).url)
    for _ in range(30):
        frames: list[Frame] = []
        for _ in range(100):
            (head,) = client.head(client.fields())
            frames += [head, WindowUpdateFrame(head.stream_id, window_increment=1)]
            frames[-1].window_increment = 0
        client.raw(b"".join(zero_increment(frame) for frame in frames))
    assert await client.end() == 0xB
    assert app.started <= 1100


def zero_increment(frame: Frame) -> bytes:
    if isinstance(frame, WindowUpdateFrame):
        return b"\x00\x00\x04\x08\x00" + frame.stream_id.to_bytes(4, "big") + bytes(4)
    return frame.serialize()


FLOODS = {
    "PING": PingFrame(0, b"12345678").serialize(),
    "SETTINGS": SettingsFrame(0).serialize(),
    "PRIORITY": PriorityFrame(101, depends_on=3).serialize(),
    "unknown": b"\x00\x00\x00\x99\x00\x00\x00\x00\x00",
    "empty DATA": DataFrame(1, b"").serialize(),
    "WINDOW_UPDATE": WindowUpdateFrame(0, window_increment=1).serialize(),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_the_connection(kind: str, start: Start, h2: Connect) -> None:
    client = await h2((await start(Counter())).url)
    await client.request("POST", end=False)
    client.raw(FLOODS[kind] * 20_000)
    assert await client.end() == 0xB


async def test_a_flood_of_continuation_ends_the_connection(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    client.send(HeadersFrame(1, b"\x82"))
    client.raw(ContinuationFrame(1, b"\x82").serialize() * 10_000)
    assert await client.end() == 0xB


# What a client can break of RFC 9113 sections 5 and 6, and what comes of it: the code of GOAWAY, or of RST_STREAM.
HEAD = object()  # stands for the head of a request on stream 1 whose body is to follow
WHOLE = object()  # the same without a body
BROKEN: dict[str, tuple[list[Any], str, set[int]]] = {
    "4.2 a frame too large": ([b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + bytes(16_385)], "goaway", {6}),
    "4.3 a header block that is none": ([HeadersFrame(1, b"\x80", flags=["END_HEADERS"])], "goaway", {9}),
    "4.3 a table too large": ([HeadersFrame(1, b"\x3f\xe1\xff\x03", flags=["END_HEADERS"])], "goaway", {9}),
    "4.3 frames within a header block": ([HeadersFrame(1, b"\x82"), PingFrame(0, b"12345678")], "goaway", {1}),
    "5.1 DATA on an idle stream": ([DataFrame(1, b"x")], "goaway", {1}),
    "5.1 RST_STREAM on an idle stream": ([RstStreamFrame(1)], "goaway", {1}),
    "5.1 WINDOW_UPDATE on an idle stream": ([WindowUpdateFrame(1, window_increment=1)], "goaway", {1}),
    "5.1 CONTINUATION on an idle stream": ([ContinuationFrame(1, b"\x82")], "goaway", {1}),
    "5.1 DATA behind the end": ([WHOLE, DataFrame(1, b"x")], "either", {5}),
    "5.1 HEADERS behind the end": ([WHOLE, HeadersFrame(1, b"\x82", flags=["END_HEADERS"])], "either", {1, 5}),
    "5.1.1 an even stream": ([HeadersFrame(2, b"\x82", flags=["END_HEADERS"])], "goaway", {1}),
    "5.3.1 a stream that depends on itself": (
        [b"\x00\x00\x06\x01\x25\x00\x00\x00\x01" + b"\x00\x00\x00\x01\x10\x82"], "either", {1},
    ),
    "6.1 DATA on stream 0": ([b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x"], "goaway", {1}),
    "6.1 padding longer than DATA": ([HEAD, b"\x00\x00\x02\x00\x08\x00\x00\x00\x01\x05x"], "goaway", {1}),
    "6.2 HEADERS on stream 0": ([b"\x00\x00\x01\x01\x04\x00\x00\x00\x00\x82"], "goaway", {1}),
    "6.2 padding longer than HEADERS": ([b"\x00\x00\x02\x01\x0c\x00\x00\x00\x01\x05\x82"], "goaway", {1}),
    "6.3 PRIORITY on stream 0": ([b"\x00\x00\x05\x02\x00\x00\x00\x00\x00" + bytes(5)], "goaway", {1}),
    "6.3 PRIORITY of another size": ([b"\x00\x00\x04\x02\x00\x00\x00\x00\x01" + bytes(4)], "either", {6}),
    "6.4 RST_STREAM on stream 0": ([b"\x00\x00\x04\x03\x00\x00\x00\x00\x00" + bytes(4)], "goaway", {1}),
    "6.4 RST_STREAM of another size": ([HEAD, b"\x00\x00\x03\x03\x00\x00\x00\x00\x01" + bytes(3)], "goaway", {6}),
    "6.5 an acknowledgement with a payload": ([b"\x00\x00\x06\x04\x01\x00\x00\x00\x00" + bytes(6)], "goaway", {6}),
    "6.5 SETTINGS on a stream": ([b"\x00\x00\x00\x04\x00\x00\x00\x00\x01"], "goaway", {1}),
    "6.5 SETTINGS of another size": ([b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + bytes(5)], "goaway", {6}),
    "6.5.2 ENABLE_PUSH of 2": ([b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x02"], "goaway", {1}),
    "6.5.2 a window too large": ([b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x80\x00\x00\x00"], "goaway", {3}),
    "6.5.2 frames too small": ([b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x01"], "goaway", {1}),
    "6.5.2 frames too large": ([b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x01\x00\x00\x00"], "goaway", {1}),
    "6.6 PUSH_PROMISE of a client": ([HEAD, PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"])], "goaway", {1}),
    "6.7 PING on a stream": ([b"\x00\x00\x08\x06\x00\x00\x00\x00\x01" + bytes(8)], "goaway", {1}),
    "6.7 PING of another size": ([b"\x00\x00\x06\x06\x00\x00\x00\x00\x00" + bytes(6)], "goaway", {6}),
    "6.8 GOAWAY on a stream": ([b"\x00\x00\x08\x07\x00\x00\x00\x00\x01" + bytes(8)], "goaway", {1}),
    "6.9 an increment of 0": ([b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + bytes(4)], "goaway", {1}),
    "6.9 an increment of 0 on a stream": ([HEAD, b"\x00\x00\x04\x08\x00\x00\x00\x00\x01" + bytes(4)], "either", {1}),
    "6.9 WINDOW_UPDATE of another size": ([b"\x00\x00\x03\x08\x00\x00\x00\x00\x00" + bytes(3)], "goaway", {6}),
    "6.9.1 a window above its most": ([WindowUpdateFrame(0, window_increment=0x7FFFFFFF)], "goaway", {3}),
    "6.9.1 a stream's window above its most": (
        [HEAD, WindowUpdateFrame(1, window_increment=0x7FFFFFFF)], "either", {3},
    ),
    "6.9 more DATA than the window": ([HEAD, *[DataFrame(1, bytes(16_384)) for _ in range(5)]], "either", {3}),
    "6.10 CONTINUATION without HEADERS": ([WHOLE, ContinuationFrame(1, b"\x82")], "goaway", {1}),
    "6.10 CONTINUATION of another stream": ([HeadersFrame(1, b"\x82"), ContinuationFrame(3, b"\x82")], "goaway", {1}),
    "8.1 trailers that do not end": ([HEAD, HeadersFrame(1, b"\x00\x01a\x01b", flags=["END_HEADERS"])], "either", {1}),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
async def test_what_a_client_breaks_is_an_error_of_its_kind(case: str, start: Start, h2: Connect) -> None:
    frames, kind, codes = BROKEN[case]
    server = await start(Counter())
    client = await h2(server.url)
    out = b""
    for frame in frames:
        if frame is HEAD or frame is WHOLE:
            frame = client.head(client.fields("POST"), end=frame is WHOLE)[0]
        out += frame if isinstance(frame, bytes) else frame.serialize()
    client.raw(out)
    await client.wait(lambda: bool(client.goaways) or client.streams[1].reset is not None, "an error")
    if kind == "goaway" or client.goaways:
        assert await client.end() in codes
    else:
        assert client.streams[1].reset in codes


async def test_a_preface_that_is_none_ends_the_connection(start: Start) -> None:
    server = await start(hello)
    raw = await connect(server.url)
    raw.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    data, _ = await raw.read_all()
    assert data.endswith(b"\x00\x00\x00\x01")  # GOAWAY, PROTOCOL_ERROR
    await raw.aclose()


async def test_unknown_frames_settings_and_flags_are_passed_over(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    client.raw(
        b"\x00\x00\x03\xee\xff\x00\x00\x00\x00abc" + b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\xee\x00\x00\x00\x01"
    )
    client.raw(b"\x00\x00\x08\x06\xfe\x00\x00\x00\x0012345678")
    assert (await client.response(await client.request())).complete
    assert client.pings


async def test_a_client_that_says_goodbye_gets_its_responses(start: Start, h2: Connect) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await go.wait()
        await send(body_message(b"end"))

    client = await h2((await start(app)).url)
    stream = await client.request()
    await client.started(stream)
    client.send(GoAwayFrame(0, last_stream_id=0, error_code=0))
    await client.pong()
    go.set()
    assert bytes((await client.response(stream)).body) == b"end"
    async with asyncio.timeout(5):
        await client.connection.wait_ended()


@pytest.mark.parametrize("begun", [b"", PREFACE[:10], PREFACE + SettingsFrame(0).serialize()])
async def test_a_client_that_asks_for_nothing_is_let_go(begun: bytes, start: Start) -> None:
    server = await start(hello, head_timeout=0.1)
    raw = await connect(server.url)
    raw.write(begun)
    _, ended = await raw.read_all()
    assert ended.how == "eof"
    await raw.aclose()


async def test_a_head_that_does_not_end_ends_the_connection(start: Start, h2: Connect) -> None:
    server = await start(Counter(), head_timeout=0.2)
    client = await h2(server.url)
    running = await client.request()
    await client.started(running)
    client.send(*client.head(client.fields(), piece=1)[:1])
    assert await client.end() == 0xB


async def test_an_idle_connection_ends_with_goaway(start: Start, h2: Connect) -> None:
    server = await start(hello, keepalive=0.1)
    client = await h2(server.url)
    assert (await client.response(await client.request())).complete
    assert await client.end() == 0


async def test_a_stream_that_is_quiet_is_not_idle(start: Start, h2: Connect) -> None:
    server = await start(Counter(), keepalive=0.05, head_timeout=0.05)
    client = await h2(server.url)
    await client.started(await client.request())
    later = await h2(server.url)  # asks for nothing, and is let go before this one would be, were it idle
    assert await later.end() == 0
    await client.pong()


async def test_a_drain_says_so_at_once_and_lets_streams_end(start: Start, h2: Connect) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await go.wait()
        await send(body_message(b"end"))

    server = await start(app)
    client = await h2(server.url)
    stream = await client.request()
    await client.started(stream)
    server.connection.shutdown()
    first = await client.goaway()
    assert (first.error_code, first.last_stream_id) == (0, 0x7FFFFFFF)
    late = await client.request()  # it was on its way
    await client.wait(lambda: len(client.goaways) == 2, "the second GOAWAY")
    assert client.goaways[1].last_stream_id == late
    refused = await client.request()
    await client.pong()
    assert not client.streams[refused].heads
    go.set()
    for one in (stream, late):
        assert bytes((await client.response(one)).body) == b"end"
    async with asyncio.timeout(5):
        await client.connection.wait_ended()


async def test_a_drain_ends_an_idle_connection(start: Start, h2: Connect) -> None:
    server = await start(hello)
    client = await h2(server.url)
    assert (await client.response(await client.request())).complete
    server.connection.shutdown()
    assert await client.end() == 0


async def test_nothing_fails_that_is_called_after_the_end(start: Start, h2: Connect) -> None:
    """The library raises on calls after its last GOAWAY; an application knows nothing of that."""
    begun, go = asyncio.Event(), asyncio.Event()
    ends: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = scope["extensions"]["streamproxy.connection"]
        down.begin(200, [])
        begun.set()
        await go.wait()
        for step in (
            lambda: down.push(b"x", b""),
            lambda: down.write(b"x", False),
            lambda: down.finish([(b"a", b"b")]),
        ):
            try:
                step()
            except OSError as error:
                ends.append(error)
        down.set_write_limit(5)
        await receive()

    server = await start(app)
    client = await h2(server.url)
    await client.request("POST", end=False)
    await begun.wait()
    connection: Http2Protocol = server.connection
    client.raw(FLOODS["PING"] * 3000)
    await client.end()
    connection.flush()
    connection.shutdown()
    go.set()
    await until(lambda: not server.state.tasks, "the application to end")
    assert len(ends) == 3


@pytest.mark.parametrize("whole", [True, False])
async def test_refused_requests_whose_answers_are_not_taken_count_among_the_streams(
    start: Start, h2: Connect, whole: bool
) -> None:
    server = await start(Counter())
    client = await h2(server.url, window=0)
    for _ in range(10):
        frames: list[Frame] = []
        for _ in range(40):
            frames += client.head(client.fields(headers=[("host", "another.test")]), end=whole)
        client.send(*frames)
    await client.pong()
    answered = [stream for stream in client.streams.values() if stream.started and not stream.closed]
    refused = [stream for stream in client.streams.values() if stream.reset == 7]
    assert (len(answered), len(refused)) == (256, 144)
