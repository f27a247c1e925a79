"""What the server offers an application beyond ASGI's head and body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streamproxy.errors import ClientLeft
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

TRAILERS = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nTE: trailers\r\nConnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"


def by_connection(steps: Callable[[Any], None]) -> App:
    """An application that takes its steps on the connection itself."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        steps(scope["extensions"]["streamproxy.connection"])

    return app


def by_messages(*messages: Message) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def wire(request: bytes, app: App) -> bytes:
    protocol, transport = wired(app)
    protocol.data_received(request)
    await turns()
    protocol.connection_lost(None)
    return transport.data


async def test_a_reason_phrase_is_the_upstreams_where_it_is_one() -> None:
    for reason, line in [
        (b"Fine, thanks", b"HTTP/1.1 200 Fine, thanks\r\n"),
        (b"Sch\xf6n", b"HTTP/1.1 200 Sch\xf6n\r\n"),
        (b"", b"HTTP/1.1 200 OK\r\n"),
        (b"a\r\nX: y", b"HTTP/1.1 200 OK\r\n"),
    ]:

        def steps(connection: Any, reason: bytes = reason) -> None:
            connection.begin(200, [], True, reason)
            connection.write(b"", False)

        assert (await wire(GET, by_connection(steps))).startswith(line)


async def test_any_status_of_three_digits_is_sent() -> None:
    def steps(connection: Any) -> None:
        connection.begin(999, [(b"content-length", b"0")], True, b"Odd")
        connection.write(b"", False)

    assert await wire(GET, by_connection(steps)) == b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n"


async def test_a_pushed_chunk_that_is_framed_is_written_as_it_is() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.begin(200, [])
        assert connection.push(b"a", b"1\r\na\r\n") is True
        await turns(1)
        assert connection.push(b"bc", b"02\r\nbc\r\n") is True
        assert connection.push(b"d", b"") is True
        assert connection.push(b"e" * 3000, b"") is True
        connection.write(b"", False)

    data = await wire(GET, app)
    large = b"bb8\r\n" + b"e" * 3000 + b"\r\n"
    assert data.partition(b"\r\n\r\n")[2] == b"1\r\na\r\n02\r\nbc\r\n1\r\nd\r\n" + large + b"0\r\n\r\n"


@pytest.mark.parametrize("request_", [OLD, GET])
async def test_a_pushed_chunk_is_not_framed_where_the_response_is_not_chunked(request_: bytes) -> None:
    def steps(connection: Any) -> None:
        connection.begin(200, [(b"content-length", b"3")])
        connection.push(b"abc", b"3\r\nabc\r\n")
        connection.write(b"", False)

    assert (await wire(request_, by_connection(steps))).endswith(b"\r\n\r\nabc")


async def test_a_client_that_takes_nothing_holds_the_pushes(start: Start, dial: Connect) -> None:
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.begin(200, [])
        for count in range(400):
            if not connection.push(b"x" * 65536, b""):
                counts.append(count)
                await connection.drained()
        connection.write(b"", False)

    server = await start(app)
    client = await dial(server.url, receive_buffer=4096)
    client.stop_reading()
    await client.send(GET)
    await until(lambda: counts)
    client.go_on_reading()
    assert len((await client.read_response()).body) == 400 * 65536


async def test_a_push_after_the_client_left_says_so() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.begin(200, [])
        protocol.connection_lost(None)
        steps = (
            lambda: connection.push(b"a", b""),
            lambda: connection.write(b"a", True),
            lambda: connection.finish([(b"a", b"b")]),
            lambda: connection.informational(103, []),
            lambda: connection.begin(200, []),
        )
        for step in steps:
            with pytest.raises(ClientLeft):
                step()
        done.set()

    done = asyncio.Event()
    protocol, _ = wired(app)
    protocol.data_received(TRAILERS)
    async with asyncio.timeout(10):
        await done.wait()


@pytest.mark.parametrize("corked", [True, False])
async def test_trailers_go_behind_the_last_chunk(corked: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        assert connection.takes_trailers
        connection.begin(200, [])
        assert connection.takes_trailers
        if not corked:
            await turns(1)
        connection.write(b"a", True)
        assert connection.finish([(b"Grpc-Status", b"0"), (b"transfer-encoding", b"x"), (b"x", b"y")]) is None

    protocol, transport = wired(app)
    protocol.data_received(TRAILERS)
    await turns()
    body = transport.data.partition(b"\r\n\r\n")[2]
    assert body == b"1\r\na\r\n0\r\ngrpc-status: 0\r\nx: y\r\n\r\n"
    assert protocol._cycle is None  # and it may be asked again
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("request_", "headers", "end"),
    [
        (GET, [], b"0\r\n\r\n"),
        (TRAILERS, [(b"content-length", b"1")], b"\r\n\r\na"),
        (OLD, [], b"\r\n\r\na"),
        (HEAD, [], b"\r\n\r\n"),
    ],
)
async def test_trailers_are_dropped_where_they_would_not_arrive(
    request_: bytes, headers: list[tuple[bytes, bytes]], end: bytes
) -> None:
    def steps(connection: Any) -> None:
        connection.begin(200, headers)
        assert not connection.takes_trailers
        connection.write(b"a", True)
        connection.finish([(b"x", b"y")])

    data = await wire(request_, by_connection(steps))
    assert b"x: y" not in data
    assert data.endswith(end)


async def test_a_trailer_that_would_break_the_framing_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    def steps(connection: Any) -> None:
        connection.begin(200, [])
        connection.finish([(b"x", b"y\r\n\r\nGET / HTTP/1.1")])

    data = await wire(TRAILERS, by_connection(steps))
    assert b"GET" not in data
    assert not data.endswith(b"0\r\n\r\n")
    assert caplog.messages == ["the application failed"]


async def test_an_application_by_plain_asgi_may_send_trailers() -> None:
    offered: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offered.append("http.response.trailers" in scope["extensions"])
        await send(start_message(200) | {"trailers": True})
        await send(body_message(b"a"))
        await send({"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"b", b"2")]})

    assert (await wire(TRAILERS, app)).endswith(b"1\r\na\r\n0\r\na: 1\r\nb: 2\r\n\r\n")
    assert (await wire(GET, app)).endswith(b"1\r\na\r\n0\r\n\r\n")
    assert offered == [True, False]


async def test_trailers_that_were_not_announced_are_out_of_turn(caplog: pytest.LogCaptureFixture) -> None:
    app = by_messages(start_message(200), {"type": "http.response.trailers", "headers": []})
    assert not (await wire(TRAILERS, app)).endswith(b"0\r\n\r\n")
    assert "the application failed" in caplog.messages


async def test_informational_responses_come_before_the_head_and_nowhere_else() -> None:
    def steps(connection: Any) -> None:
        connection.informational(103, [(b"Link", b"</a>"), (b"connection", b"close"), (b"content-length", b"5")])
        connection.informational(110, [])
        connection.begin(204, [], True)
        connection.informational(103, [(b"late", b"1")])
        connection.write(b"", False)

    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 110 \r\n\r\n"
    assert await wire(GET, by_connection(steps)) == early + b"HTTP/1.1 204 No Content\r\n\r\n"
    assert (await wire(OLD, by_connection(steps))).startswith(b"HTTP/1.1 204 No Content\r\n")


@pytest.mark.parametrize("status", [100, 101, 200, 99])
async def test_only_what_is_the_applications_to_say_is_informational(status: int) -> None:
    def steps(connection: Any) -> None:
        with pytest.raises(ValueError, match="informational"):
            connection.informational(status, [])
        with pytest.raises(ValueError, match="CR, LF or NUL"):
            connection.informational(103, [(b"a", b"b\r\n")])
        connection.begin(204, [], True)
        connection.write(b"", False)

    assert (await wire(GET, by_connection(steps))).startswith(b"HTTP/1.1 204 ")


async def test_an_application_by_plain_asgi_may_send_early_hints() -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a>; rel=preload", b"</b>"]}
    data = await wire(GET, by_messages(hint, start_message(204), body_message()))
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
    assert data == early + b"HTTP/1.1 204 No Content\r\n\r\n"
