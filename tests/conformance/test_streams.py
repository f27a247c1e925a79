"""Streams: every read goes on at once, keepalives cut nothing, backpressure reaches the upstream, leaving too."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.conftest import StartStack
from tests.conformance.pulse import Pulse, silent_stream
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.stack import route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, FullBacklog, answering, response, stream_head, streaming

quirk = pytest.mark.quirk


async def test_an_event_arrives_before_the_next_is_sent(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        for number in range(5):
            await conn.send_chunk(b"data: %d\n\n" % number)
            await conn.stall()
            conn.go.clear()
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    head = await client.read_head()
    assert head.get("content-type") == b"text/event-stream"
    for number in range(5):
        assert await client.read_body_until(b"\n\n") == b"data: %d\n\n" % number
        upstream.connections[0].go.set()
    assert (await client.read_rest()).complete


async def test_the_head_arrives_before_the_first_byte_of_the_body(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    assert (await client.read_head()).status == 200
    upstream.connections[0].go.set()
    assert (await client.read_rest()).complete


async def test_an_idle_stream_gets_keepalives_and_loses_no_byte(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(b"data: 1\r\n\r\n")
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, keepalive="20ms")])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    for _ in range(3):
        assert await client.read_body_until(b"\n\n") == b": keepalive\n\n"
    upstream.connections[0].go.set()
    rest = (await client.read_rest()).body
    assert rest.replace(b": keepalive\n\n", b"") == b"data: 1\r\n\r\n"
    exchange = await proxy.end_of()
    assert exchange.keepalives >= 3
    assert (exchange.response_bytes, exchange.events) == (len(b"data: 1\r\n\r\n"), 1)
    assert proxy.metric("streamproxy_keepalives_total", route="r0") == exchange.keepalives


async def test_a_keepalive_never_stands_inside_an_event(stack: StartStack, serve: Serve, dial: Connect) -> None:
    pieces = [b"da", b"ta: 1\n", b"data: 2", b"\n", b"\n"]

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        for piece in pieces:
            await conn.send_chunk(piece)
            await pulse.intervals()  # a keepalive would be due
        await conn.stall()
        await conn.send_chunk(b"")

    upstream, silent = await serve(script), await serve(silent_stream)
    keepalive = {"interval": "10ms", "comment": "k"}
    silent_route = route(silent.url, keepalive=keepalive) | {"path": "/silent"}
    proxy = await stack([silent_route, route(upstream.url, keepalive=keepalive)])
    pulse = await Pulse.start(proxy, dial)
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    seen = await client.read_body_until(b"data: 2\n\n")
    seen += await client.read_body_until(b": k\n\n")
    upstream.connections[0].go.set()
    body = seen + (await client.read_rest()).body
    assert body.replace(b": k\n\n", b"") == b"".join(pieces)
    assert b"data: 1\ndata: 2\n\n" in body


async def test_after_an_id_a_keepalive_is_a_comment_alone(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"id: 7\ndata: x\n\n")
        await conn.stall()
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, keepalive="20ms")])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(b"data: x\n\n")
    assert await client.read_body_until(b"\n") == b": keepalive\n"
    assert (await client.read_body_until(b"\n")).startswith(b": keepalive")
    upstream.connections[0].go.set()
    await client.read_rest()


@pytest.mark.parametrize(
    "head",
    [
        stream_head("application/json"),
        stream_head("text/event-stream", ("Content-Encoding", "gzip")),
        stream_head("text/event-stream").replace(b"200 OK", b"503 No"),
    ],
)
async def test_only_plain_event_streams_get_keepalives(
    stack: StartStack, serve: Serve, dial: Connect, head: bytes
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(head)
        await pulse.intervals(8)
        await conn.send_chunk(b"done")
        await conn.send_chunk(b"")

    upstream, silent = await serve(script), await serve(silent_stream)
    silent_route = route(silent.url, keepalive="10ms") | {"path": "/silent"}
    proxy = await stack([silent_route, route(upstream.url, keepalive="10ms")])
    pulse = await Pulse.start(proxy, dial)
    client = await dial(proxy.url)
    assert (await client.get()).body == b"done"


async def test_a_client_that_takes_nothing_stops_the_upstream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    sent = 0
    stopped = asyncio.Event()

    async def script(conn: Conn) -> None:
        nonlocal sent
        await conn.read_head()
        await conn.send(stream_head("application/octet-stream"))
        while not stopped.is_set():
            writing = asyncio.ensure_future(conn.send_chunk(b"x" * 65536))
            done, _ = await asyncio.wait({writing}, timeout=1.0)
            if not done:
                stopped.set()
            await writing
            sent += 65536
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, buffer="64KiB")])
    client = await dial(proxy.url, receive_buffer=4096)
    await client.request("/")
    await client.read_head()
    client.stop_reading()
    async with asyncio.timeout(20):
        await stopped.wait()
    # What the kernel holds between three sockets (Linux lets one grow to 32 MiB), and what the proxy may.
    assert sent < 64 * 2**20
    client.go_on_reading()
    answer = await client.read_rest()
    assert answer.complete
    assert len(answer.body) == sent
    assert (await proxy.end_of()).backpressure > 0


async def test_a_client_that_takes_nothing_and_leaves_counts_as_backpressure(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        while True:
            await conn.send_chunk(b"x" * 65536)

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, buffer="64KiB")])
    client = await dial(proxy.url, receive_buffer=4096)
    await client.request("/")
    await client.read_head()
    client.stop_reading()
    name, seen = "streamproxy_backpressure_seconds_total", [0.0]

    def grown() -> float:
        seen.append(proxy.metric(name, route="r0"))
        return seen[-1]

    await until(grown, holds=lambda seconds: seconds >= 0.1)
    assert len(proxy.ended) == 0, "the wait counts while it goes on"
    assert seen == sorted(seen)
    client.reset()
    exchange = await proxy.end_of()
    assert proxy.metric(name, route="r0") == exchange.backpressure >= seen[-1]


async def leave(client: object, how: str) -> None:
    getattr(client, how)()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_leaving_between_chunks_closes_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect, how: str
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(b"\n\n")
    await leave(client, how)
    await (await upstream.connection()).wait_ended()
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.phase, exchange.status) == ("client_disconnect", "body", 200)
    assert proxy.metric("streamproxy_disconnects_total", route="r0", side="client", phase="body") == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_leaving_while_the_head_is_waited_for_closes_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect, how: str
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"prompt")
    await upstream.request()
    await leave(client, how)
    await (await upstream.connection()).wait_ended()
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.phase, exchange.status) == ("client_disconnect", "head", 499)
    assert proxy.metric("streamproxy_requests_total", route="r0", code="499") == 1


async def test_leaving_in_the_middle_of_an_upload_closes_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        assert await conn.read_exactly(4) == b"half"
        await conn.stall()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf")
    conn = await upstream.connection()
    conn.go.set()
    await upstream.request()
    await until(lambda: next(iter(proxy.app.ledger.live.values())).request_bytes)
    client.close()
    await conn.wait_ended()
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.phase) == ("client_disconnect", "request")


async def test_leaving_while_connecting_ends_the_exchange(stack: StartStack, dial: Connect) -> None:
    async with FullBacklog() as nobody:
        proxy = await stack(nobody.url)
        client = await dial(proxy.url)
        await client.request("/")
        await until(lambda: proxy.app.ledger.live)
        client.close()
        exchange = await proxy.end_of()
        assert exchange.end == "client_disconnect"
        assert exchange.phase == "connect" or stack.client == "user"


async def test_leaving_while_held_by_backpressure_closes_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head("application/octet-stream"))
        for _ in range(1000):
            await conn.send_chunk(b"x" * 65536)

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url, receive_buffer=4096)
    await client.request("/")
    await client.read_head()
    client.stop_reading()
    await until(lambda: any(exchange.response_bytes > 100_000 for exchange in proxy.app.ledger.live.values()))
    client.reset()
    await (await upstream.connection()).wait_ended()
    assert (await proxy.end_of()).end == "client_disconnect"


async def test_on_disconnect_continue_reads_the_upstream_to_its_end(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.stall()
        for _ in range(100):
            await conn.send_chunk(b"data: 2\n\n")
        await conn.send_chunk(b"")

    upstream, quick = await serve(script), await serve(answering(response(b"quick")))
    proxy = await stack(
        [route(quick.url) | {"path": "/quick"}, route(upstream.url, on_disconnect="continue")],
    )
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(b"\n\n")
    client.close()
    for number in range(3):  # the close came before these did, and has ended nothing
        assert (await fetch(f"{proxy.url}/quick")).body == b"quick"
        await proxy.end_of(number)
    assert [exchange.route for exchange in proxy.ended] == ["r0"] * 3
    upstream.connections[0].go.set()
    exchange = await proxy.end_of(3)
    assert exchange.end == "client_disconnect"
    assert exchange.events == 101


@quirk("stock", reason="does not tell the application while a pipelined request waits")
@quirk("hypercorn", reason="does not read while a pipelined request waits")
async def test_leaving_with_a_pipelined_request_behind_is_noticed(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
    await upstream.request()
    client.close()
    await (await upstream.connection()).wait_ended()
    assert (await proxy.end_of()).end == "client_disconnect"


@quirk("http2", reason="requests are not pipelined but multiplexed")
async def test_pipelined_requests_are_answered_in_order(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        while True:
            head = await conn.read_head()
            await conn.send(response(head.target))

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5)))
    assert [(await client.read_response()).body for _ in range(5)] == [b"/%d" % number for number in range(5)]


async def test_live_bytes_show_while_a_stream_runs(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.stall()
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(b"\n\n")
    assert proxy.metric("streamproxy_response_bytes_total", route="r0") == 9
    assert proxy.metric("streamproxy_streams_active", route="r0") == 1
    assert proxy.metric("streamproxy_events_total", route="r0") == 1
    upstream.connections[0].go.set()
    await client.read_rest()
    await proxy.end_of()
    assert proxy.metric("streamproxy_response_bytes_total", route="r0") == 9
    assert proxy.metric("streamproxy_streams_active", route="r0") == 0
    assert proxy.metric("streamproxy_ttfb_seconds_count", route="r0") == 1


async def test_a_stream_of_many_events_comes_whole(stack: StartStack, serve: Serve, dial: Connect) -> None:
    events = [b"id: %d\ndata: %s\n\n" % (number, b"x" * (number % 50)) for number in range(500)]
    upstream = await serve(streaming(*events))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.body, answer.complete) == (b"".join(events), True)
    assert (await proxy.end_of()).events == 500


async def test_ndjson_lines_are_counted(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b'{"a":1}\n{"a"', b':2}\n{"a":3}', content_type="application/x-ndjson"))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.get()
    assert (await proxy.end_of()).events == 3


async def test_a_response_without_a_body_needs_no_stream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)
