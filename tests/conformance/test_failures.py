"""Every failure has one name, one status, and an end that does not look like another."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.connection import PeerEnded
from tests.doubles.stack import route
from tests.doubles.upstream import Conn, FullBacklog, Script, answering, response, stream_head

quirk = pytest.mark.quirk


async def test_an_error_says_what_it_is_and_nothing_of_the_inside(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"")))
    proxy = await stack(upstream.url)
    upstream.stop_listening()
    client = await dial(proxy.url)
    answer = await client.get(headers=[("X-Request-Id", "r-1")])
    problem = json.loads(answer.body)
    assert (answer.status, answer.get("proxy-status")) == (502, b"streamproxy; error=connection_refused")
    assert answer.get("content-type") == b"application/problem+json"
    assert (problem["status"], problem["request_id"]) == (502, "r-1")
    assert {"type", "title", "detail"} <= set(problem)
    assert b"127.0.0.1" not in answer.body
    assert proxy.metric("streamproxy_upstream_errors_total", error="connection_refused") == 1


async def test_a_name_that_does_not_exist_is_a_dns_error(stack: StartStack, dial: Connect) -> None:
    proxy = await stack("http://no-such-host.invalid:1")
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.status, answer.get("proxy-status")) == (502, b"streamproxy; error=dns_error")


async def test_a_connection_that_is_not_accepted_times_out(stack: StartStack, dial: Connect) -> None:
    async with FullBacklog() as nobody:
        proxy = await stack([route(nobody.url, timeouts={"connect": "50ms"})])
        client = await dial(proxy.url)
        answer = await client.get()
        assert (answer.status, answer.get("proxy-status")) == (504, b"streamproxy; error=connection_timeout")


async def test_a_head_that_does_not_come_times_out(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"first_byte": "50ms"})])
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.status, answer.get("proxy-status")) == (504, b"streamproxy; error=http_response_timeout")
    assert (await proxy.end_of()).end == "timeout"
    assert (await client.get()).status == 504  # the connection with the client goes on


async def test_the_total_time_out_holds_before_the_head_too(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"total": "50ms"})])
    client = await dial(proxy.url)
    assert (await client.get()).status == 504


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_leaves_before_the_head(
    stack: StartStack, serve: Serve, dial: Connect, how: str
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        getattr(conn, how)()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.status, answer.get("proxy-status")) == (502, b"streamproxy; error=connection_terminated")
    assert proxy.metric("streamproxy_disconnects_total", side="upstream", phase="head") == 1


GARBAGE = {
    "no http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "status": b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
    "high status": b"HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n",
    "old and chunked": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 101 + b"\r\n",
    "huge": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
}
H11_FORGIVES = ["folded"]


UNSAYABLE = ["no http", "length and coding", "another coding", "folded", "space before colon", "high status"]
UNSAYABLE += ["old and chunked"]  # by HTTP/2, which has binary frames for them


@pytest.mark.parametrize("name", GARBAGE)
async def test_a_malformed_or_ambiguous_head_is_a_protocol_error(
    stack: StartStack, serve: Serve, dial: Connect, name: str
) -> None:
    if name in H11_FORGIVES and stack.client in ("httpx", "user"):
        pytest.skip("h11, beneath httpx, takes it")
    if name in UNSAYABLE and stack.client == "h2":
        pytest.skip("HTTP/2 can't say it")

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(GARBAGE[name])
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.status, answer.get("proxy-status")) == (502, b"streamproxy; error=http_protocol_error")


def cut(head: bytes, part: bytes, how: str) -> Script:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(head + part)
        await conn.stall()
        if how == "stay":
            await conn.wait_ended()
        else:
            getattr(conn, how)()

    return script


CHUNKED = stream_head()
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
BARE = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "part", "how"),
    [
        (CHUNKED, b"9\r\ndata: 1\n\n\r\n", "close"),
        (CHUNKED, b"9\r\ndata: 1\n\n\r\n", "reset"),
        (CHUNKED, b"9\r\ndata: 1\n\n\r\nff\r\npart", "close"),
        pytest.param(
            *(CHUNKED, b"9\r\ndata: 1\n\n\r\nzz\r\n", "stay"), marks=quirk("h2", reason="HTTP/2 has no chunks")
        ),
        (SIZED, b"data: 1\n\n", "close"),
        (SIZED, b"data: 1\n\n", "reset"),
        (BARE, b"data: 1\n\n", "reset"),
    ],
)
async def test_a_response_that_did_not_finish_never_looks_finished(
    stack: StartStack,
    serve: Serve,
    dial: Connect,
    caplog: pytest.LogCaptureFixture,
    head: bytes,
    part: bytes,
    how: str,
) -> None:
    upstream = await serve(cut(head, part, how))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    assert (await client.read_head()).status == 200
    if how != "stay":
        assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
    upstream.connections[0].go.set()
    assert not (await client.read_rest()).complete
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error, exchange.phase) == (
        "upstream_truncated",
        "http_response_incomplete",
        "body",
    )
    assert proxy.metric("streamproxy_disconnects_total", side="upstream", phase="body") == 1
    assert not [record for record in caplog.records if record.exc_info and record.levelno >= logging.ERROR]


async def test_an_http10_client_sees_a_cut_stream_as_a_reset(stack: StartStack, serve: Serve, dial: Connect) -> None:
    if stack.server != "uvicorn":
        pytest.skip("a stock server ends the body in good order")
    upstream = await serve(cut(CHUNKED, b"9\r\ndata: 1\n\n\r\n", "close"))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    await client.read_head()
    assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
    upstream.connections[0].go.set()
    assert not (await client.read_rest()).complete


async def test_an_upstream_that_goes_silent_is_cut_off(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"idle": "300ms"}, keepalive="10ms")])
    client = await dial(proxy.url)
    answer = await client.get()
    assert not answer.complete
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error) == ("timeout", "connection_read_timeout")
    assert exchange.keepalives >= 1  # which are no activity of the upstream


async def test_a_client_that_takes_nothing_is_cut_off(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head("application/octet-stream"))
        for _ in range(1000):
            await conn.send_chunk(b"x" * 65536)

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"write": "100ms"})])
    client = await dial(proxy.url, receive_buffer=4096)
    await client.request("/")
    await client.read_head()
    client.stop_reading()
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error) == ("timeout", "connection_write_timeout")
    await (await upstream.connection()).wait_ended()
    client.go_on_reading()
    assert not (await client.read_rest()).complete


async def test_a_body_that_stalls_gets_408(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, timeouts={"request": "50ms"})])
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf")
    answer = await client.read_response()
    assert (answer.status, answer.get("proxy-status")) == (408, b"streamproxy; error=http_request_error")


@pytest.mark.parametrize("where", ["between", "inside"])
async def test_an_error_event_is_sent_between_events_only(
    stack: StartStack, serve: Serve, dial: Connect, where: str
) -> None:
    part = b"data: 1\n\n" if where == "between" else b"data: 1\n\ndata: 2\n"
    upstream = await serve(cut(CHUNKED, b"%x\r\n%s\r\n" % (len(part), part), "close"))
    proxy = await stack([route(upstream.url, on_truncation="error_event")])
    client = await dial(proxy.url)
    await client.request("/", headers=[("X-Request-Id", "r-9")])
    await client.read_head()
    assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
    upstream.connections[0].go.set()
    answer = await client.read_rest()
    assert not answer.complete
    if where == "inside":
        assert b"error" not in answer.body
        return
    event, data = answer.body.split(b"\n")[:2]
    assert event == b"event: error"
    problem = json.loads(data.removeprefix(b"data: "))
    assert (problem["code"], problem["request_id"]) == ("http_response_incomplete", "r-9")


async def test_a_pooled_connection_that_died_idle_costs_no_request(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"ok"))
        await conn.stall()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    for number in range(10):
        assert (await client.get()).body == b"ok"
        conn = upstream.connections[number]
        conn.go.set()
        await conn.wait_ended()


async def test_a_fault_of_our_own_is_a_500_with_its_traceback_in_the_log_only(
    stack: StartStack, serve: Serve, dial: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)

    class Faulty:
        def stream(self, *args: object, **options: object) -> None:
            raise ZeroDivisionError("secret inside")

    (group,) = proxy.app.deployment.upstreams.values()
    monkeypatch.setattr(group.endpoints[0], "client", Faulty())
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.status, answer.get("proxy-status")) == (500, b"streamproxy; error=proxy_internal_error")
    assert b"secret" not in answer.body
    assert "ZeroDivisionError" in caplog.text


AMBIGUOUS = {
    "length and coding": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "another coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\nHost: x\n\n",
    "nul": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@quirk("http2", reason="HTTP/2 has other malformed requests, in the tests of its protocol")
@quirk("stock", "hypercorn", reason="its parser takes some of these or answers in its own way")
@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_a_malformed_or_ambiguous_request_is_refused_and_the_connection_closed(
    stack: StartStack, serve: Serve, dial: Connect, name: str
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(AMBIGUOUS[name])
    answer = await client.read_response()
    assert (answer.status, answer.get("proxy-status")) == (400, b"streamproxy; error=http_request_error")
    assert (await client.wait_ended()).how == "eof"
    if name == "bad chunk":
        await proxy.end_of()  # its exchange had begun
    else:
        assert not upstream.requests
    assert proxy.metric("streamproxy_requests_total", code="400") == 1


@quirk("stock", "hypercorn", reason="has no such limit")
@pytest.mark.parametrize("extra", [b"X: " + b"a" * 9000, b"\r\n".join(b"X-%d: 1" % n for n in range(101))])
async def test_a_head_over_the_limit_gets_431(stack: StartStack, serve: Serve, dial: Connect, extra: bytes) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, server={"max_header_size": "8KiB"})
    client = await dial(proxy.url)
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\n\r\n")
    assert (await client.read_response()).status == 431


@quirk("stock", "hypercorn", reason="has no such limit")
async def test_a_slow_head_gets_408(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, server={"head_timeout": "200ms"})
    client = await dial(proxy.url)
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
    assert (await client.read_response()).status == 408


@quirk("http2", reason="a client of HTTP/2 waits for SETTINGS before it asks")
@quirk("stock", "hypercorn", reason="has no such limit, or refuses at it")
async def test_past_max_connections_clients_wait_and_are_served_later(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, server={"max_connections": 2})
    first, second = await dial(proxy.url), await dial(proxy.url)
    assert (await first.get()).status == (await second.get()).status == 200
    third = await dial(proxy.url)
    await third.request("/")
    waiting = asyncio.ensure_future(third.read_response())
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    first.close()
    assert (await waiting).status == 200


async def test_an_operator_can_end_a_stream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    from streamproxy.errors import StoppedByOperator

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
    next(iter(proxy.app.ledger.live.values())).interrupt(StoppedByOperator())
    assert not (await client.read_rest()).complete
    assert (await proxy.end_of()).end == "cancelled"
    await (await upstream.connection()).wait_ended()


async def test_a_websocket_is_refused_where_it_is_off(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, websocket="off")])
    client = await dial(proxy.url)
    await client.send(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    if stack.server == "uvicorn":
        answer = await client.read_response()
        assert (answer.status, answer.get("proxy-status")) == (501, b"streamproxy; error=http_request_error")
        ended = await proxy.end_of()
        assert (ended.status, ended.end) == (501, "rejected")
    else:
        with suppress(PeerEnded):
            assert (await client.read_raw_head()).status != 101
    assert not upstream.requests
