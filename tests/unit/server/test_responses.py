"""What goes over the wire for what the application sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

import pytest

from streamproxy.errors import ExchangeAborted
from streamproxy.server.flow import WRITE_LIMIT
from tests.conftest import Connect
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import (
    GET,
    App,
    Message,
    Receive,
    Scope,
    Send,
    body_message,
    start_message,
    turns,
    wired,
)

OLD = b"GET / HTTP/1.0\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
TEXT = (b"content-type", b"text/plain")
SSE = (b"content-type", b"Text/Event-Stream; charset=utf-8")


def saying(*messages: Message) -> App:
    """An application that sends these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def wire(request: bytes, *messages: Message, **options: Any) -> tuple[bytes, bool]:
    """The bytes that these messages become, and whether the connection is closed then."""
    protocol, transport = wired(saying(*messages), **options)
    protocol.data_received(request)
    await turns()
    closed = transport.closed or transport.ended
    protocol.connection_lost(None)
    return transport.data, closed


@pytest.mark.parametrize(
    ("request_", "messages", "expected", "closed"),
    [
        pytest.param(
            GET,
            [start_message(200, TEXT), body_message(b"ab", more=True), body_message(b"c" * 16)],
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\nab\r\n10\r\ncccccccccccccccc\r\n0\r\n\r\n",
            False,
            id="chunked",
        ),
        pytest.param(
            GET,
            [start_message(), body_message(b"ab", more=True), body_message(b"", more=True), body_message()],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            False,
            id="an empty piece is no last chunk",
        ),
        pytest.param(
            GET,
            [start_message(200, (b"content-length", b"3")), body_message(b"ab", more=True), body_message(b"c")],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
            False,
            id="sized",
        ),
        pytest.param(
            OLD,
            [start_message(200, TEXT), body_message(b"ab", more=True), body_message(b"c")],
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nabc",
            True,
            id="HTTP/1.0 to the close",
        ),
        pytest.param(
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            [start_message(200, (b"content-length", b"3")), body_message(b"abc")],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabc",
            False,
            id="HTTP/1.0 kept",
        ),
        pytest.param(
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            [start_message(), body_message(b"abc")],
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc",
            True,
            id="HTTP/1.0 without a length is not kept",
        ),
        pytest.param(
            HEAD,
            [start_message(200, (b"content-length", b"3")), body_message(b"abc")],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            False,
            id="HEAD with a length",
        ),
        pytest.param(
            HEAD,
            [start_message(200, (b"content-length", b"3")), body_message()],
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            False,
            id="HEAD without the body",
        ),
        pytest.param(HEAD, [start_message(), body_message(b"abc")], b"HTTP/1.1 200 OK\r\n\r\n", False, id="HEAD"),
        pytest.param(
            GET,
            [start_message(204, (b"content-length", b"0")), body_message(b"abc")],
            b"HTTP/1.1 204 No Content\r\n\r\n",
            False,
            id="204",
        ),
        pytest.param(
            GET,
            [start_message(304, (b"content-length", b"3"), (b"etag", b"x")), body_message()],
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\netag: x\r\n\r\n",
            False,
            id="304",
        ),
        pytest.param(
            GET,
            [start_message(599, (b"content-length", b"0")), body_message()],
            b"HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n",
            False,
            id="a status without a phrase",
        ),
        pytest.param(
            GET,
            [
                start_message(
                    200, (b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"x", b""), (b"y", b"\xc3\xa4\xff\t ")
                ),
                body_message(b"a"),
            ],
            b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\nx: \r\ny: \xc3\xa4\xff\t \r\n"
            b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            False,
            id="order and duplicates",
        ),
        pytest.param(
            GET,
            [
                start_message(
                    200, (b"transfer-encoding", b"chunked"), (b"connection", b"keep-alive"), (b"keep-alive", b"1")
                ),
                body_message(b"a"),
            ],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            False,
            id="framing is ours",
        ),
        pytest.param(
            GET,
            [start_message(200, (b"content-length", b"0"), (b"connection", b"Close")), body_message()],
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            True,
            id="the application closes",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            [start_message(200, SSE), body_message(b"a")],
            b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\n\r\n",
            True,
            id="a stream never says close",
        ),
        pytest.param(
            OLD,
            [start_message(200, SSE), body_message(b"a")],
            b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\n\r\na",
            True,
            id="a stream never says close to HTTP/1.0",
        ),
    ],
)
async def test_messages_become_bytes(request_: bytes, messages: list[Message], expected: bytes, closed: bool) -> None:
    assert await wire(request_, *messages) == (expected, closed)


async def test_a_short_response_is_one_write() -> None:
    protocol, transport = wired(saying(start_message(200, TEXT), body_message(b"a", more=True), body_message()))
    protocol.data_received(GET)
    await turns()
    assert len(transport.writes) == 1
    protocol.connection_lost(None)


async def test_a_head_is_written_though_no_body_comes() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        await receive()
        await receive()

    protocol, transport = wired(app)
    protocol.data_received(GET)
    await turns()
    assert transport.data == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    protocol.connection_lost(None)
    await turns()


async def test_a_chunk_is_one_write_whatever_its_size() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        await gate.wait()
        for size in (1, 48 * 1024, 48 * 1024 + 1, 1_000_000):
            await send(body_message(b"x" * size, more=True))
        await send(body_message(b"y" * 100_000))

    protocol, transport = wired(app)
    protocol.data_received(GET)
    await turns()
    transport.writes.clear()
    gate.set()
    await turns()
    sizes = (1, 48 * 1024, 48 * 1024 + 1, 1_000_000)
    assert transport.writes == [
        *(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes),
        b"186a0\r\n" + b"y" * 100_000 + b"\r\n0\r\n\r\n",
    ]
    protocol.connection_lost(None)


async def test_default_headers_are_not_doubled() -> None:
    protocol, transport = wired(
        saying(start_message(200, (b"date", b"mine"), (b"content-length", b"0")), body_message())
    )
    protocol._state.default_headers = [(b"date", b"theirs"), (b"server", b"theirs")]
    protocol.data_received(GET)
    await turns()
    assert transport.data == b"HTTP/1.1 200 OK\r\nserver: theirs\r\ndate: mine\r\ncontent-length: 0\r\n\r\n"
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x y", b"a"),
        (b"", b"a"),
        (b"x:", b"a"),
        (b"x\r\n", b"a"),
        (b"content-length", b"-1"),
        (b"content-length", b"a"),
    ],
)
async def test_a_header_that_would_split_the_response_is_an_error(
    header: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    data, closed = await wire(GET, start_message(200, header), body_message())
    assert data.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"set-cookie" not in data
    assert closed
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    ("messages", "sent"),
    [
        ([body_message(b"abcd")], b""),
        ([body_message(b"ab", more=True), body_message(b"cd")], b"ab"),
        ([body_message(b"ab")], b"ab"),
        ([body_message(b"ab", more=True), body_message()], b"ab"),
        ([body_message(b"ab", more=True)], b"ab"),
    ],
)
async def test_a_body_of_another_length_is_never_passed_off_as_complete(
    start: Start, dial: Connect, messages: list[Message], sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(saying(start_message(200, (b"content-length", b"3")), *messages))
    client = await dial(server.url)
    await client.send(GET)
    answer = await client.read_response()
    assert (answer.body, answer.complete) == (sent, False)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [body_message(b"a")],
        [start_message(), start_message()],
        [start_message(), body_message(), body_message()],
        [{"type": "http.nonsense"}],
    ],
)
async def test_messages_out_of_turn_are_errors(messages: list[Message], caplog: pytest.LogCaptureFixture) -> None:
    await wire(GET, *messages)
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize("status", [100, 101, 103, 1000])
async def test_only_the_status_of_a_final_response_is_sent(status: int, caplog: pytest.LogCaptureFixture) -> None:
    data, _ = await wire(GET, start_message(status))
    assert data.startswith(b"HTTP/1.1 500 ")
    assert "ValueError" in caplog.text


async def test_an_application_that_fails_before_its_response_is_a_500(
    start: Start, dial: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a secret")

    server = await start(app)
    client = await dial(server.url)
    await client.send(GET)
    answer = await client.read_response()
    assert (answer.status, answer.complete, answer.get("connection")) == (500, True, b"close")
    assert json.loads(answer.body)["status"] == 500
    assert answer.get("proxy-status") == b"streamproxy; error=proxy_internal_error"
    assert b"secret" not in answer.body
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("streamproxy.error", logging.ERROR)
    assert "a secret" in caplog.text


async def test_an_application_that_does_not_answer_is_a_500(
    start: Start, dial: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(saying())
    client = await dial(server.url)
    await client.send(GET)
    assert (await client.read_response()).status == 500
    assert len(caplog.records) == 1


def failing(fault: BaseException | None, *messages: Message) -> App:
    """Sends, waits until that is written, and fails; or returns without an end."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        await turns(2)
        if fault is not None:
            raise fault

    return app


@pytest.mark.parametrize("fault", [ExchangeAborted("x"), ValueError("y"), None], ids=["abort", "fault", "return"])
@pytest.mark.parametrize("length", [(), ((b"content-length", b"9"),)], ids=["chunked", "sized"])
async def test_a_response_that_fails_in_its_middle_does_not_look_finished(
    start: Start,
    dial: Connect,
    fault: Exception | None,
    length: tuple[tuple[bytes, bytes], ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = await start(failing(fault, start_message(200, *length), body_message(b"begun", more=True)))
    client = await dial(server.url)
    await client.send(GET)
    answer = await client.read_response()
    assert (answer.body, answer.complete) == (b"begun", False)
    assert [record.levelname for record in caplog.records] == ([] if isinstance(fault, ExchangeAborted) else ["ERROR"])


@pytest.mark.parametrize("size", [5, 3_000_000])
async def test_a_response_that_the_close_ends_is_reset_when_it_fails(start: Start, dial: Connect, size: int) -> None:
    server = await start(failing(ExchangeAborted("x"), start_message(), body_message(b"x" * size, more=True)))
    client = await dial(server.url)
    await client.send(OLD)
    answer = await client.read_response()
    assert not answer.complete
    assert answer.ended is not None
    assert answer.ended.how == "reset"


@pytest.mark.parametrize("leaves", [False, True])
async def test_such_a_reset_comes_after_what_the_transport_held(start: Start, dial: Connect, leaves: bool) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start_message())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                while True:
                    sent += 65536
                    await send(body_message(b"x" * 65536, more=True))
        raise ExchangeAborted("x")

    server = await start(app)
    client = await dial(server.url, receive_buffer=4096)
    client.stop_reading()
    await client.send(OLD)
    await until(lambda: server.state.connections and server.connection.flow.flushing)
    if leaves:
        client.transport.write_eof()
    client.go_on_reading()
    answer = await client.read_response()
    assert answer.ended is not None
    assert answer.ended.how == "reset"
    # What the transport has flushed may still be in the kernel, and a reset takes that back.
    assert 0 < len(answer.body) < sent


async def test_an_abort_before_the_head_just_ends_the_connection(
    start: Start, dial: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start(failing(ExchangeAborted("x")))
    client = await dial(server.url)
    await client.send(GET)
    data, ended = await client.read_all()
    assert (data, ended.how) == (b"", "eof")
    assert not caplog.records


async def test_a_cancelled_application_is_no_fault(
    start: Start, dial: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/begun":
            await send(start_message())
        await asyncio.Event().wait()

    server = await start(app)
    waiting, begun = await dial(server.url), await dial(server.url)
    await waiting.send(GET)
    await begun.send(b"GET /begun HTTP/1.1\r\nHost: a\r\n\r\n")
    await begun.read_head()
    await until(lambda: len(server.state.tasks) >= 2)
    await turns()
    for task in list(server.state.tasks):
        task.cancel()
    assert (await waiting.read_response()).status == 503
    assert not (await begun.read_rest()).complete
    assert not caplog.records


async def test_an_aborted_upload_ends_its_response_without_a_reset(start: Start, dial: Connect) -> None:
    server = await start(failing(ExchangeAborted("x"), start_message(), body_message(b"begun", more=True)))
    client = await dial(server.url)
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 2_000_000)
    answer = await client.read_response()
    assert (answer.body, answer.complete) == (b"begun", False)
    assert answer.ended is not None
    assert answer.ended.how == "eof"


async def test_send_waits_for_a_client_that_does_not_read(start: Start, dial: Connect) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start_message())
        for _ in range(400):
            await send(body_message(b"x" * 65536, more=True))
            sent += 1
        await send(body_message())

    server = await start(app)
    client = await dial(server.url, receive_buffer=4096)
    client.stop_reading()
    await client.send(GET)
    await until(lambda: server.state.connections and server.connection.flow.paused)
    assert sent < 400
    client.go_on_reading()
    answer = await client.read_response()
    assert (len(answer.body), answer.complete) == (400 * 65536, True)


async def test_the_head_of_a_response_that_is_whole_goes_out_with_its_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.begin(200, [], True)
        await turns()
        written.append(transport.data)
        assert connection.write(b"a", True) is None
        assert connection.write(b"", False) is None

    written: list[bytes] = []
    protocol, transport = wired(app)
    protocol.data_received(GET)
    await turns(6)
    assert written == [b""]
    assert [write.partition(b"\r\n\r\n")[2] for write in transport.writes] == [b"1\r\na\r\n0\r\n\r\n"]
    protocol.connection_lost(None)


async def test_a_head_that_waits_for_its_body_is_written_when_it_is_uncorked() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.begin(200, [], True)
        connection.write(b"a", True)
        connection.uncork()
        written.append(transport.data.partition(b"\r\n\r\n")[2])
        connection.push(b"b", b"1\r\nb\r\n")
        connection.uncork()
        written.append(transport.data.partition(b"\r\n\r\n")[2])
        connection.write(b"", False)

    written: list[bytes] = []
    protocol, transport = wired(app)
    protocol.data_received(GET)
    await turns()
    assert written == [b"1\r\na\r\n", b"1\r\na\r\n1\r\nb\r\n"]
    assert len(transport.writes) == 3
    protocol.connection_lost(None)


async def test_an_application_that_fails_does_not_keep_the_head_that_it_began() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.begin(200, [], True)
        connection.write(b"a", True)
        raise ExchangeAborted("test")

    protocol, transport = wired(app)
    protocol.data_received(GET)
    await turns()
    assert transport.data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert transport.data.endswith(b"1\r\na\r\n")
    protocol.connection_lost(None)


async def test_the_write_limit_is_of_one_exchange_only(start: Start, dial: Connect) -> None:
    limits: list[tuple[int, int]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/small":
            scope["extensions"]["streamproxy.connection"].set_write_limit(1000)
        limits.append(server.connection.transport.get_write_buffer_limits())
        await send(start_message(204))
        await send(body_message())

    server = await start(app)
    client = await dial(server.url)
    for path in (b"/", b"/small", b"/"):
        await client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        await client.read_response()
    assert [high for _, high in limits] == [WRITE_LIMIT, 1000, WRITE_LIMIT]
