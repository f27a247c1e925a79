"""Responses over HTTP/2: their order, their flow, and their ends."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from streamproxy.errors import ClientLeft, ExchangeAborted
from tests.doubles.until import until
from tests.unit.server.harness import Receive, Scope, Send, body_message, hello, read_body, start_message
from tests.unit.server.http2.conftest import Connect, Start

MEGABYTE = b"x" * 1_000_000
SSE = (b"content-type", b"text/event-stream")


def connection_of(scope: Scope) -> Any:
    return scope["extensions"]["streamproxy.connection"]


async def test_an_event_is_a_frame_of_its_own_at_once(start: Start, h2: Connect) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [SSE])
        await go.wait()
        for number in range(5):
            assert down.push(b"data: %d\n\n" % number, b"ignored: it is framed for HTTP/1.1") is True
        down.write(b"", False)

    client = await h2((await start(app)).url)
    stream = await client.request()
    await client.started(stream)
    go.set()
    answer = await client.response(stream)
    assert answer.order == ["Headers", *["Data"] * 6]
    assert bytes(answer.body) == b"".join(b"data: %d\n\n" % number for number in range(5))


async def test_an_event_beside_downloads_is_not_late(start: Start, h2: Connect) -> None:
    """The library would send streams one after the other, the older first."""
    tick = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        if scope["path"] == "/download":
            while True:
                await send(body_message(MEGABYTE[:65_536], more=True))
        while True:
            await tick.wait()
            tick.clear()
            await send(body_message(b"tick", more=True))

    client = await h2((await start(app)).url)
    client.grant(0, 1 << 30)
    downloads = [await client.request("GET", "/download") for _ in range(4)]
    for stream in downloads:
        client.grant(stream, 1 << 30)
    events = await client.request("GET", "/events")
    await client.started(events)
    for number in range(1, 6):
        before = sum(len(client.streams[one].body) for one in downloads)
        tick.set()
        await client.wait(lambda number=number: len(client.streams[events].body) >= 4 * number, "the event")  # type: ignore[misc]
        between = sum(len(client.streams[one].body) for one in downloads) - before
        assert between < 16 * 1024 * 1024  # what lies in buffers on the way, of loopback's size


async def test_the_wishes_of_a_client_for_an_order_are_ignored(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await send(body_message(MEGABYTE))

    client = await h2((await start(app)).url)
    # Both ask for all or nothing, the first more urgently.
    first = await client.request("GET", "/", [("priority", "u=0")])
    second = await client.request("GET", "/", [("priority", "u=7")])
    client.grant(0, 1 << 24)
    for stream in (first, second):
        client.grant(stream, 1 << 22)
    await client.response(second)
    order = [frame.stream_id for frame in client.frames if type(frame).__name__ == "DataFrame"]
    assert order.index(second) < len(order) // 4  # in turn, and not behind the other


async def test_a_stream_that_is_not_read_holds_itself_and_no_other(start: Start, h2: Connect) -> None:
    held: list[int] = []
    full = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/held":
            await hello(scope, receive, send)
            return
        down = connection_of(scope)
        down.begin(200, [])
        sent = 0
        while down.push(b"x" * 8192, b""):
            sent += 8192
        held.append(sent + 8192)
        full.set()
        await down.drained()
        down.write(b"end", False)

    client = await h2((await start(app)).url)
    client.generous = False
    slow = await client.request("GET", "/held")
    await full.wait()
    # The window took 65,535, and about the write limit is held.
    assert held[0] <= 65_535 + 65_536 + 2 * 8192
    client.grant(0, 1 << 20)  # the client reads its other streams
    other = await client.response(await client.request("GET", "/other"))
    assert other.complete
    client.grant(slow, 1 << 20)
    answer = await client.response(slow)
    assert answer.body.endswith(b"end")
    assert len(answer.body) == held[0] + 3


async def test_an_unread_upload_blocks_no_sibling(start: Start, h2: Connect) -> None:
    hold = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/unread":
            await hold.wait()
        body = await read_body(receive)
        await send(start_message(200))
        await send(body_message(b"%d" % len(body)))

    client = await h2((await start(app)).url)
    unread = [await client.request("POST", "/unread", body=b"u" * 65_535) for _ in range(20)]
    answer = await client.response(await client.request("POST", "/read", body=b"r" * 65_535))
    assert bytes(answer.body) == b"65535"
    hold.set()
    for stream in unread:
        assert bytes((await client.response(stream)).body) == b"65535"


async def test_the_window_of_streams_that_are_gone_is_given_back(start: Start, h2: Connect) -> None:
    """16 MiB is the connection's window: 40 MiB of bodies that nobody reads must pass it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            await asyncio.Event().wait()

    client = await h2((await start(app)).url)
    sent = 65_535
    for number in range(640):
        stream = await client.request("POST", "/", body=b"u" * 65_000, end=False)
        sent += 65_000
        client.reset(stream)
        if number % 64 == 0:
            await client.pong()
    await client.pong()
    assert client.windows[0] + 65_535 - (sent - 65_535) > 1 << 22


async def test_a_window_is_not_lost_when_a_frame_is_cut_by_a_reset(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start_message(200))
        await send(body_message(b"early"))

    server = await start(app)
    client = await h2(server.url)
    client.generous = False  # its updates would come in the middle of a frame
    for _ in range(1000):  # 16 MB, of which half would be lost; and the window is 16
        stream = await client.request("POST", "/", end=False)
        frame = (16_000).to_bytes(3, "big") + b"\x00\x00" + stream.to_bytes(4, "big") + b"u" * 16_000
        client.raw(frame[:9000])
        answer = await client.response(stream)
        await client.wait(lambda answer=answer: answer.reset is not None, "RST_STREAM")  # type: ignore[misc]
        client.raw(frame[9000:])
    await client.pong()
    session: Any = server.connection.session._connection
    assert session.local_window_size >= 1 << 23  # what is not given back yet is less than half of it


async def test_an_early_answer_is_whole_and_then_reset_without_an_error(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(413))
        await send(body_message(b"too large"))

    client = await h2((await start(app)).url)
    stream = await client.request("POST", "/", body=b"x" * 1000, end=False)
    answer = await client.response(stream)
    await client.wait(lambda: answer.reset is not None, "RST_STREAM")
    assert (answer.status, bytes(answer.body), answer.ended, answer.reset) == (413, b"too large", True, 0)
    assert answer.order == ["Headers", "Data", "RstStream"]
    assert (await client.response(await client.request("GET", "/next"))).complete


@pytest.mark.parametrize("end_alone", [False, True])
async def test_an_early_answer_waits_for_the_client_to_take_it(end_alone: bool, start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await send(body_message(b"x" * 100, more=end_alone))
        if end_alone:
            await send(body_message())

    client = await h2((await start(app)).url, window=100 if end_alone else 50)
    client.generous = False
    stream = await client.request("POST", "/", body=b"x", end=False)
    answer = client.streams[stream]
    await client.wait(lambda: len(answer.body) >= 50, "what the window takes")
    await client.pong()
    assert (answer.ended, answer.reset) == (False, None)
    client.grant(stream, 100)
    await client.wait(lambda: answer.reset is not None, "RST_STREAM")
    assert (len(answer.body), answer.ended, answer.reset) == (100, True, 0)


async def test_an_unfinished_response_is_reset_behind_what_was_sent(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, SSE))
        await send(body_message(b"data: 1\n\n", more=True))
        await send(body_message(b"event: error\ndata: {}\n\n", more=True))
        raise ExchangeAborted

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert bytes(answer.body) == b"data: 1\n\nevent: error\ndata: {}\n\n"
    assert (answer.ended, answer.reset) == (False, 2)


async def test_a_reset_waits_for_what_was_queued_before_it(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, SSE))
        await send(body_message(b"x" * 30, more=True))
        raise ExchangeAborted

    client = await h2((await start(app)).url, window=10)
    client.generous = False
    stream = await client.request()
    await client.wait(lambda: len(client.streams[stream].body) == 10)
    await client.pong()
    assert client.streams[stream].reset is None
    client.grant(stream, 100)
    answer = await client.response(stream)
    assert (len(answer.body), answer.ended, answer.reset) == (30, False, 2)


async def test_a_reset_does_not_wait_for_ever(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, SSE))
        await send(body_message(b"x" * 30, more=True))
        raise ExchangeAborted

    client = await h2((await start(app, linger=0.05)).url, window=10)
    client.generous = False
    answer = await client.response(await client.request())
    assert (len(answer.body), answer.ended, answer.reset) == (10, False, 2)


@pytest.mark.parametrize("begun", [False, True])
async def test_an_application_that_fails_leaves_nothing_that_looks_finished(
    begun: bool, start: Start, h2: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send(start_message(200))
        raise ValueError("broken")

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.reset, answer.ended) == ((2, False) if begun else (None, True))
    assert answer.status == (200 if begun else 500)
    assert "the application failed" in caplog.text


async def test_a_body_unlike_its_length_is_a_fault(start: Start, h2: Connect, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, (b"content-length", b"5")))
        await send(body_message(b"abc"))

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.ended, answer.reset) == (False, 2)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_a_body_end_with_their_head(
    method: str, status: int, start: Start, h2: Connect
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(status, (b"content-length", b"7"), (b"x-a", b"1")))
        await send(body_message(b"dropped"))

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request(method))
    assert answer.order == ["Headers"]
    assert answer.status == status
    assert answer.get("content-length") == (None if status == 204 else b"7")
    assert answer.get("x-a") == b"1"


async def test_fields_of_the_connection_are_left_out_and_the_rest_is_kept(start: Start, h2: Connect) -> None:
    fields = [(b"Set-Cookie", b"a"), (b"Connection", b"close"), (b"set-cookie", b"b"), (b"Keep-Alive", b"1")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(299, *fields, (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c")))
        await send(body_message())

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert answer.head == [(b":status", b"299"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]


@pytest.mark.parametrize("field", [(b"x a", b"1"), (b"x-a", b"1\r\nx-b: 2"), (b"x-a", b"\x00"), (b":status", b"200")])
async def test_a_field_that_is_not_valid_is_a_fault(
    field: tuple[bytes, bytes], start: Start, h2: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, field))

    client = await h2((await start(app)).url)
    assert (await client.response(await client.request())).status == 500


async def test_trailers_and_interim_responses_pass(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        assert down.takes_trailers
        down.informational(103, [(b"link", b"</a>")])
        down.begin(200, [])
        down.push(b"body", b"")
        down.finish([(b"grpc-status", b"0"), (b"connection", b"x")])

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert answer.interim == [[(b":status", b"103"), (b"link", b"</a>")]]
    assert (answer.status, bytes(answer.body), answer.trailers) == (200, b"body", [(b"grpc-status", b"0")])
    assert answer.ended


async def test_trailers_by_plain_asgi(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send(start_message(200) | {"trailers": True})
        await send(body_message(b"body"))
        await send({"type": "http.response.trailers", "headers": [(b"x-t", b"1")]})

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (bytes(answer.body), answer.trailers) == (b"body", [(b"x-t", b"1")])
    assert answer.interim[0][0] == (b":status", b"103")


async def test_trailers_without_a_body(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [(b"content-type", b"application/grpc")])
        down.finish([(b"grpc-status", b"5")])

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.trailers, answer.ended) == ([(b"grpc-status", b"5")], True)


@pytest.mark.parametrize("phase", ["before the head", "in the body", "held"])
async def test_a_reset_is_a_disconnect_at_once(phase: str, start: Start, h2: Connect) -> None:
    begun, left = asyncio.Event(), asyncio.Event()
    at: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)

        def gone() -> None:
            at.append(time.monotonic())
            left.set()

        down.on_disconnect = gone
        if phase != "before the head":
            down.begin(200, [])
            down.push(b"x", b"")
        if phase == "held":
            while down.push(b"x" * 8192, b""):
                pass
            begun.set()
            with pytest.raises(ClientLeft):
                await down.drained()
        begun.set()
        await left.wait()
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(ClientLeft):
            await send(start_message(200) if phase == "before the head" else body_message(b"x"))

    client = await h2((await start(app)).url)
    client.generous = False
    stream = await client.request()
    await begun.wait()
    sent = time.monotonic()
    client.reset(stream)
    await left.wait()
    assert at[0] - sent < 0.1
    await client.pong()
    assert not client.goaways


async def test_a_client_that_goes_away_has_left_every_stream(start: Start, h2: Connect) -> None:
    begun, left = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.release()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.release()

    client = await h2((await start(app)).url)
    for _ in range(20):
        await client.request()
    for _ in range(20):
        await begun.acquire()
    client.connection.close()
    for _ in range(20):
        await left.acquire()


async def test_all_who_wait_for_a_stream_to_drain_are_told(start: Start, h2: Connect) -> None:
    waiting = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [])
        while down.push(b"x" * 8192, b""):
            pass
        drains = [asyncio.ensure_future(down.drained()) for _ in range(2)]
        asyncio.get_running_loop().call_soon(waiting.set)
        await asyncio.gather(*drains)
        down.write(b"end", False)

    client = await h2((await start(app)).url, window=0)
    stream = await client.request()
    await waiting.wait()
    client.grant(stream, 1 << 20)
    client.grant(0, 1 << 20)
    answer = await client.response(stream)
    assert (answer.body[-3:], answer.ended) == (b"end", True)


async def test_a_client_that_takes_no_bytes_holds_each_stream_to_its_limit(start: Start, h2: Connect) -> None:
    """TCP itself is full: what is held is held in the streams' queues, whatever the windows say."""
    full = asyncio.Semaphore(0)
    held: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [])
        while down.push(b"x" * 8192, b""):
            pass
        held.append(down._session.queued(down.id))
        full.release()
        await down.drained()

    server = await start(app)
    client = await h2(server.url, window=1 << 30, receive_buffer=4096)
    client.grant(0, 1 << 30)
    await client.pong()
    client.connection.stop_reading()
    for _ in range(10):
        await client.request()
    for _ in range(10):
        await full.acquire()
    assert max(held) <= 65_536 + 8192
    assert server.connection.transport.get_write_buffer_size() <= 3 * 32_768


async def test_what_a_client_sends_that_takes_nothing_is_not_read_for_ever(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        while True:
            await send(body_message(b"x" * 65_536, more=True))

    server = await start(app)
    client = await h2(server.url, window=1 << 30, receive_buffer=4096)
    client.grant(0, 1 << 30)
    await client.request()
    client.connection.stop_reading()
    await until(lambda: server.connection.flow.paused, "the transport to be full")
    for number in range(400):
        client.send(*client.head(client.fields(headers=[("x-a", f"{number:04}" * 500)])))
    await until(lambda: not server.connection.flow.reading, "the server to read no more")
    client.connection.go_on_reading()
    await until(lambda: server.connection.flow.reading, "the server to read on")


async def test_little_lies_in_the_kernel(start: Start, h2: Connect) -> None:
    server = await start(hello)
    await h2(server.url)
    connection: Any = server.connection.transport.get_extra_info("socket")
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 131_072
