"""Floods, slow clients, and the ends of connections over HTTP/2."""

from __future__ import annotations

import asyncio
import time

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
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


async def test_a_preface_that_is_none_ends_the_connection(start: Start) -> None:
    server = await start(hello)
    raw = await connect(server.url)
    raw.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    data, _ = await raw.read_all()
    assert data.endswith(b"\x00\x00\x00\x01")  # GOAWAY, PROTOCOL_ERROR
    await raw.aclose()


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


async def test_a_refused_request_is_one_too_and_its_connection_not_idle(start: Start, h2: Connect) -> None:
    server = await start(hello, head_timeout=0.1)
    client = await h2(server.url)
    client.send(*client.head([*client.fields(), *[(b"x-%d" % number, b"1") for number in range(101)]]))
    assert (await client.response(1)).status == 431
    await asyncio.sleep(0.15)  # longer than a connection may last that asks for nothing
    assert (await client.response(await client.request())).complete


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
