"""What the application sees of requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Connect
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import (
    GET,
    Receive,
    Scope,
    Send,
    body_message,
    hello,
    read_body,
    start_message,
    turns,
    wired,
)


class Recorder:
    """An application that keeps what it was called with and answers 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[Scope, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests.append((scope, await read_body(receive)))
        await send(start_message(204))
        await send(body_message())


async def test_the_scope_says_what_was_sent(start: Start, dial: Connect) -> None:
    app = Recorder()
    server = await start(app, app_state={"shared": 1})
    client = await dial(server.url)
    await client.send(b"PUT /a%20b%2Fc//d?x=1&y HTTP/1.1\r\nHost: A.example\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    await client.read_response()
    scope, body = app.requests[0]
    host, port = client.socket.getsockname()
    connection = scope["extensions"].pop("streamproxy.connection")
    assert connection.target == b"/a%20b%2Fc//d?x=1&y"
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": "/a b/c//d",
        "raw_path": b"/a%20b%2Fc//d",
        "query_string": b"x=1&y",
        "root_path": "",
        "headers": [(b"host", b"A.example"), (b"x-a", b"1"), (b"x-a", b"2")],
        "client": (host, port),
        "server": client.socket.getpeername(),
        "state": {"shared": 1},
        "extensions": {"http.response.early_hint": {}},
    }
    assert body == b""


async def test_an_empty_query_survives_in_the_target(start: Start, dial: Connect) -> None:
    app = Recorder()
    server = await start(app)
    client = await dial(server.url)
    await client.send(b"GET /a? HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.read_response()
    scope = app.requests[0][0]
    assert (scope["raw_path"], scope["query_string"]) == (b"/a", b"")
    assert scope["extensions"]["streamproxy.connection"].target == b"/a?"


@pytest.mark.parametrize("own", [False, True])
async def test_the_task_of_a_request_is_the_one_that_the_application_runs_in(own: bool) -> None:
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        made.append("task")
        return asyncio.Task(work, loop=loop, **options)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        assert connection.task is asyncio.current_task()
        connections.append(connection)
        await hello(scope, receive, send)

    connections: list[Any] = []
    if own:
        asyncio.get_running_loop().set_task_factory(factory)
    protocol, transport = wired(app)
    protocol.data_received(GET)
    await turns()
    assert transport.data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert made == ["task"] * own
    assert not hasattr(connections[0], "task")  # it holds the request, which would hold it
    protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("reads", "whole"),
    [
        pytest.param([b"abcde"], b"abcde", id="in-one-read"),
        pytest.param([b"ab", b"cde"], b"abcde", id="in-two"),
        pytest.param([b"abc"], None, id="not-yet"),
    ],
)
async def test_a_body_that_has_come_can_be_taken_whole_and_is_given_once(
    reads: list[bytes], whole: bytes | None
) -> None:
    taken: list[bytes | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        assert receive == connection.receive
        taken.extend([connection.take_body(), connection.take_body()])
        if taken[0] is None:
            assert await read_body(receive) == b"abcde"
        else:
            left.append(asyncio.ensure_future(receive()))
        await send(start_message(204))
        await send(body_message())

    left: list[asyncio.Task[Any]] = []
    protocol, transport = wired(app)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    for read in reads:
        protocol.data_received(read)
    await turns()
    if whole is None:
        protocol.data_received(b"de")
        await turns()
    assert taken == [whole, None]
    assert transport.data.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert [await task for task in left] == [{"type": "http.disconnect"}] * len(left)
    protocol.connection_lost(None)


async def test_no_request_sees_the_scope_of_another(start: Start, dial: Connect) -> None:
    app = Recorder()
    server = await start(app, app_state={"shared": 1})
    client = await dial(server.url)
    for path in (b"/a", b"/b"):
        await client.send(b"GET %b HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (path, path))
        await client.read_response()
    (first, _), (second, _) = app.requests
    assert (first["path"], second["path"]) == ("/a", "/b")
    assert (first["headers"][1], second["headers"][1]) == ((b"x", b"/a"), (b"x", b"/b"))
    assert [first[key] is second[key] for key in ("state", "extensions", "headers")] == [False] * 3


async def test_a_target_in_absolute_form_goes_on_as_a_path_with_its_host(start: Start, dial: Connect) -> None:
    app = Recorder()
    server = await start(app)
    client = await dial(server.url)
    await client.send(b"GET http://b.example:81/c?d HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.read_response()
    await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.read_response()
    (first, _), (second, _) = app.requests
    assert (first["raw_path"], first["query_string"], first["headers"]) == (b"/c", b"d", [(b"host", b"b.example:81")])
    assert (second["method"], second["path"]) == ("OPTIONS", "*")


async def test_a_unix_socket_has_no_client_address(start: Start, dial: Connect, tmp_path: Path) -> None:
    app = Recorder()
    server = await start(app, path=tmp_path / "s")
    client = await dial(server.url)
    await client.send(GET)
    await client.read_response()
    assert app.requests[0][0]["client"] is None


async def test_a_root_path_stands_before_the_path(start: Start, dial: Connect) -> None:
    app = Recorder()
    server = await start(app, root_path="/root")
    client = await dial(server.url)
    await client.send(b"GET /a%20b HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.read_response()
    scope = app.requests[0][0]
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/root", "/root/a b", b"/root/a%20b")


REQUESTS = (
    b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: u\r\n\r\n"
    b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /4 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi"
)


async def feed(pieces: list[bytes]) -> list[tuple[str, bytes, list[tuple[bytes, bytes]]]]:
    app = Recorder()
    protocol, transport = wired(app)
    for piece in pieces:
        protocol.data_received(piece)
        await turns(1)
    await turns(20)
    assert transport.data.count(b"HTTP/1.1 204 No Content\r\n") == 4
    protocol.connection_lost(None)
    return [(scope["path"], body, scope["headers"]) for scope, body in app.requests]


EXPECTED = [
    ("/1", b"hello", [(b"host", b"a"), (b"content-length", b"5")]),
    ("/2", b"abcde", [(b"host", b"a"), (b"transfer-encoding", b"chunked")]),
    ("/3", b"", [(b"host", b"a")]),
    ("/4", b"hi", [(b"host", b"a"), (b"connection", b"upgrade"), (b"upgrade", b"h2c"), (b"content-length", b"2")]),
]


async def test_requests_are_the_same_cut_at_any_byte() -> None:
    for at in range(len(REQUESTS) + 1):
        assert await feed([piece for piece in (REQUESTS[:at], REQUESTS[at:]) if piece]) == EXPECTED


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, len(REQUESTS) - 1), unique=True, max_size=40).map(sorted))
def test_requests_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    pieces = [REQUESTS[a:b] for a, b in zip([0, *cuts], [*cuts, len(REQUESTS)], strict=True)]
    with asyncio.Runner() as runner:
        assert runner.run(feed(pieces)) == EXPECTED


async def test_pipelined_requests_are_answered_in_order_one_at_a_time(start: Start, dial: Connect) -> None:
    running: list[str] = []
    most = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        running.append(scope["path"])
        most = max(most, len(running))
        await asyncio.sleep(0)
        await send(start_message(200, (b"content-length", b"2")))
        running.remove(scope["path"])
        await send(body_message(scope["raw_path"]))

    server = await start(app)
    client = await dial(server.url)
    await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(9)))
    assert [(await client.read_response()).body for _ in range(9)] == [b"/%d" % number for number in range(9)]
    assert most == 1
    assert server.state.total_requests == 9


async def test_a_flood_of_pipelined_requests_is_held_by_its_own_connection(start: Start, dial: Connect) -> None:
    gate = asyncio.Event()
    app = Recorder()

    async def gated(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await app(scope, receive, send)

    server = await start(gated, max_header_size=1000)
    client = await dial(server.url)
    one = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    client.write(one * 200)
    await until(lambda: server.state.connections and not server.connection.flow.reading)
    assert client.taken < len(one) * 200  # the rest waits at the client
    gate.set()
    for _ in range(200):
        assert (await client.read_response()).status == 204
    assert [len(body) for _, body in app.requests] == [100_000] * 200


async def test_what_follows_connection_close_is_ignored(start: Start, dial: Connect) -> None:
    app = Recorder()
    server = await start(app)
    client = await dial(server.url)
    await client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    data, ended = await client.read_all()
    assert data == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    assert ended.how == "eof"
    assert [scope["path"] for scope, _ in app.requests] == ["/1"]


async def test_a_large_upload_is_held_back_until_the_application_takes_it(start: Start, dial: Connect) -> None:
    gate = asyncio.Event()
    total = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal total
        await gate.wait()
        more = True
        while more:
            message = await receive()
            total += len(message["body"])
            more = message["more_body"]
        await send(start_message(204))
        await send(body_message())

    server = await start(app)
    client = await dial(server.url)
    size = 32 * 1024 * 1024
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    client.write(b"x" * size)
    await until(lambda: server.state.connections and not server.connection.flow.reading)
    assert client.taken < size
    gate.set()
    assert (await client.read_response()).status == 204
    assert total == size


async def test_100_continue_is_sent_when_the_application_wants_the_body(start: Start, dial: Connect) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await hello(scope, receive, send)

    server = await start(app)
    client = await dial(server.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    await until(lambda: server.state.tasks)
    assert not client.buffer
    gate.set()
    assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hi")
    answer = await client.read_response()
    assert (answer.body, answer.get("connection")) == (b"/ hi", None)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_100_continue_is_not_sent_to_who_does_not_wait_for_it(start: Start, dial: Connect, raw: bytes) -> None:
    server = await start(hello)
    client = await dial(server.url)
    await client.send(raw)
    answer = await client.read_response()
    assert (answer.status, answer.interim) == (200, [])


async def test_an_answer_without_the_awaited_100_closes_the_connection(start: Start, dial: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(413, (b"content-length", b"0")))
        await send(body_message())

    server = await start(app)
    client = await dial(server.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    answer = await client.read_response()
    assert (answer.status, answer.interim, answer.get("connection")) == (413, [], b"close")
    assert (await client.wait_ended()).how == "eof"


async def early(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading the request's body."""
    await send(start_message(200, (b"content-length", b"5")))
    await send(body_message(b"early"))


@pytest.mark.parametrize(
    "upload",
    [
        (b"Content-Length: 60000\r\n\r\n", b"x" * 60000),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"5000\r\n" + b"x" * 0x5000 + b"\r\n0\r\n\r\n"),
    ],
)
async def test_a_small_rest_of_an_unread_body_is_skipped(
    start: Start, dial: Connect, upload: tuple[bytes, bytes]
) -> None:
    server = await start(early)
    client = await dial(server.url)
    for _ in range(2):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + upload[0])
        assert (await client.read_response()).body == b"early"
        await client.send(upload[1])
    await client.send(GET)
    assert (await client.read_response()).body == b"early"


@pytest.mark.parametrize(
    "upload",
    [
        (b"Content-Length: 5000000\r\n\r\n", b"x" * 5_000_000),
        (b"Transfer-Encoding: chunked\r\n\r\n", (b"5000\r\n" + b"x" * 0x5000 + b"\r\n") * 200),
    ],
)
async def test_a_large_rest_of_an_unread_body_ends_the_connection_without_losing_the_response(
    start: Start, dial: Connect, upload: tuple[bytes, bytes]
) -> None:
    server = await start(early)
    client = await dial(server.url)
    client.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + upload[0] + upload[1])
    answer = await client.read_response()
    assert (answer.body, answer.complete) == (b"early", True)
    assert (await client.wait_ended()).how == "eof"


async def test_a_skipped_body_that_turns_out_malformed_ends_the_connection() -> None:
    protocol, transport = wired(early)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await turns()
    answered = transport.data
    protocol.data_received(b"3\r\nabc\r\n")
    assert not transport.ended
    protocol.data_received(b"nonsense\r\n")
    assert transport.ended
    protocol.data_received(GET)
    await turns()
    assert transport.data == answered
    protocol.connection_lost(None)


async def test_a_shutdown_while_a_body_is_skipped_closes_after_it() -> None:
    protocol, transport = wired(early)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    await turns()
    protocol.shutdown()
    assert not transport.closed
    protocol.data_received(b"abc")
    assert transport.closed
    protocol.connection_lost(None)


async def test_receive_hands_over_what_came_and_then_the_end() -> None:
    messages: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            messages.append(message)
            if not message["more_body"]:
                break

    protocol, _ = wired(app)
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
    await turns()
    protocol.data_received(b"cd")
    protocol.data_received(b"ef")
    await turns()
    assert [(m["body"], m["more_body"]) for m in messages] == [(b"ab", True), (b"cd", True), (b"ef", False)]
    protocol.connection_lost(None)


@pytest.mark.parametrize("chunked", [False, True])
async def test_tiny_reads_of_a_body_cost_no_more_than_their_bytes(chunked: bool) -> None:
    read = asyncio.Event()
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read.wait()
        bodies.append(await read_body(receive))
        await send(start_message(204))
        await send(body_message())

    protocol, transport = wired(app)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 40000"
    protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
    numbers = [b"%04d" % number for number in range(10_000)]
    for number in numbers:
        protocol.data_received(b"4\r\n%b\r\n" % number if chunked else number)
    cycle = protocol._cycle
    assert cycle is not None
    assert cycle._pieces is not None
    assert len(cycle._pieces) <= 64
    assert cycle.held == 40_000
    if chunked:
        protocol.data_received(b"0\r\n\r\n")
    read.set()
    await until(lambda: b"\r\n\r\n" in transport.data)
    assert bodies == [b"".join(numbers)]
    protocol.connection_lost(None)
