"""The flow of HTTP/2: streams share a connection in turn, and each holds nobody but itself."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from tests.doubles.until import until
from tests.unit.server.harness import Receive, Scope, Send, body_message, hello, read_body, start_message
from tests.unit.server.http2.conftest import Connect, Start, connection_of

MEGABYTE = b"x" * 1_000_000
SSE = (b"content-type", b"text/event-stream")


class Counted:
    """A transport that keeps what is written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)


def counted(connection: Any) -> Counted:
    connection.transport = Counted(connection.transport)
    only: Counted = connection.transport
    return only


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


async def test_streams_that_send_in_one_turn_share_a_write(start: Start, h2: Connect) -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await go.wait()
        await send(body_message(scope["raw_path"]))

    server = await start(app)
    client = await h2(server.url)
    streams = [await client.request("GET", f"/{number}") for number in range(3)]
    for stream in streams:
        await client.started(stream)
    transport = counted(server.connection)
    go.set()
    answers = [await client.response(stream) for stream in streams]
    assert [(bytes(answer.body), answer.complete) for answer in answers] == [(b"/%d" % one, True) for one in range(3)]
    assert len(transport.writes) == 1


async def test_a_stream_that_is_alone_does_not_wait_for_others(start: Start, h2: Connect) -> None:
    go = asyncio.Event()
    written: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [SSE])
        await go.wait()
        transport = counted(server.connection)
        for number in range(2):
            down.push(b"data: %d\n\n" % number, b"")
            written.append(len(transport.writes))
        down.write(b"", False)

    server = await start(app)
    client = await h2(server.url)
    stream = await client.request()
    await client.started(stream)
    go.set()
    assert (await client.response(stream)).complete
    assert written == [1, 2]


async def test_much_does_not_wait_for_the_end_of_the_turn(start: Start, h2: Connect) -> None:
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/quiet":
            await send(start_message(200))
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            return
        transport = counted(server.connection)
        down = connection_of(scope)
        down.begin(200, [])
        for _ in range(4):
            down.push(b"x" * 16_384, b"")
            sizes.append(sum(map(len, transport.writes)))
        down.write(b"", False)

    server = await start(app)
    client = await h2(server.url, window=1 << 20)
    client.grant(0, 1 << 20)
    quiet = await client.request("GET", "/quiet")
    await client.started(quiet)
    answer = await client.response(await client.request())
    assert (len(answer.body), answer.complete) == (65_536, True)
    assert sizes[0] == 0
    assert sizes[1] > 32_768
    client.reset(quiet)
    await until(lambda: not server.state.tasks, "the quiet stream to end")


async def test_what_is_complete_goes_before_the_end_of_its_connection(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/other":
            await send(start_message(200))
            await asyncio.Event().wait()
        down = connection_of(scope)
        down.begin(200, [], True)
        assert down.write(b"whole", False) is None
        server.connection._fail(11)  # what the client has sent in the same turn breaks a rule

    server = await start(app)
    client = await h2(server.url)
    await client.started(await client.request("GET", "/other"))
    stream = await client.request()
    assert await client.end() == 11
    answer = client.streams[stream]
    assert (bytes(answer.body), answer.complete) == (b"whole", True)


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
