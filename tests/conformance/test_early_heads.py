"""``keepalive.before_headers``: a request for events whose upstream is slow is answered before the upstream is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.stack import Config, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, answering, response, stream_head

quirk = pytest.mark.quirk

COMMENT = b": keepalive\n\n"
EVENTS = b"data: 1\n\ndata: 2\n\n"
ASKS = [("Accept", "text/event-stream")]
UNAVAILABLE = response(b"later", status="503 Service Unavailable")
LIMITED = b'{"error":{"message":"Slow down","type":"rate_limit_error","code":"limit"}}'


def early(upstream: str, **keys: Any) -> Config:
    """A route that answers after 50 ms and sends a comment every 50 ms."""
    return route(upstream, **({"keepalive": {"interval": "50ms", "before_headers": "50ms"}} | keys))


async def slow(conn: Conn) -> None:
    """Answer with two events once the test lets it."""
    await conn.read_request()
    await conn.stall()
    await conn.send(stream_head())
    await conn.send_chunk(EVENTS)
    await conn.send_chunk(b"")


def slowly(answer: bytes) -> Any:
    """Answer with these bytes once the test lets it."""

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        await conn.send(answer)

    return script


async def ask(client: RawClient, **keys: Any) -> None:
    await client.request("/", **({"headers": ASKS} | keys))


async def let_go(upstream: Upstream) -> None:
    (await upstream.connection()).go.set()


async def test_a_slow_answer_follows_comments_as_if_nothing_had_been(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url)])
    client = await dial(proxy.url)
    await ask(client)
    head = await client.read_head()
    assert (head.status, head.get("content-type")) == (200, b"text/event-stream")
    assert head.get("x-accel-buffering") == b"no"
    assert head.get("cache-control") == b"no-cache, no-transform"
    assert head.get("x-request-id")
    assert head.get("via") == b"1.1 streamproxy"
    assert head.get("date")
    await client.read_body_until(COMMENT * 3)
    await let_go(upstream)
    answer = await client.read_rest()
    assert answer.complete
    assert answer.body.replace(COMMENT, b"") == EVENTS
    exchange = await proxy.end_of()
    assert (exchange.status, exchange.end, exchange.events) == (200, "complete", 2)
    assert exchange.response_bytes == len(EVENTS)
    assert exchange.keepalives >= 3


async def test_an_answer_in_time_is_the_upstreams_own(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(UNAVAILABLE))
    proxy = await stack([early(upstream.url, keepalive={"before_headers": "20s"})])
    client = await dial(proxy.url)
    await ask(client)
    answer = await client.read_response()
    assert (answer.status, answer.body) == (503, b"later")


async def test_a_request_for_anything_else_is_never_answered_early(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url, protocol="openai")])
    client = await dial(proxy.url)
    body = json.dumps({"model": "m", "stream": False}).encode()
    await ask(client, method="POST", body=body, headers=[("Accept", "*/*"), ("Content-Type", "application/json")])
    await upstream.request()
    later = await dial(proxy.url)
    await ask(later)
    await later.read_head()
    await later.read_body_until(COMMENT * 3)
    assert sorted(exchange.status for exchange in proxy.app.ledger.live.values()) == [0, 200]
    later.close()
    await let_go(upstream)
    answer = await client.read_response()
    assert COMMENT not in answer.body


async def test_a_body_that_asks_for_a_stream_is_enough(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url, protocol="openai")])
    client = await dial(proxy.url)
    body = json.dumps({"model": "m", "stream": True}).encode()
    await ask(client, method="POST", body=body, headers=[("Content-Type", "application/json")])
    assert (await client.read_head()).status == 200
    await client.read_body_until(COMMENT)
    await let_go(upstream)
    assert (await client.read_rest()).body.replace(COMMENT, b"") == EVENTS


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(UNAVAILABLE, id="status"),
        pytest.param(response(b"{}", headers=[("Content-Type", "application/json")]), id="media"),
        pytest.param(b"HTTP/1.1 nonsense\r\n\r\n", id="malformed", marks=quirk("h2", reason="HTTP/2 can't say it")),
        pytest.param(b"", id="closed"),
    ],
)
async def test_what_is_no_stream_of_events_is_told_in_an_event(
    stack: StartStack, serve: Serve, dial: Connect, answer: bytes
) -> None:
    upstream = await serve(slowly(answer))
    proxy = await stack([early(upstream.url)])
    client = await dial(proxy.url)
    await ask(client)
    assert (await client.read_head()).status == 200
    await client.read_body_until(COMMENT)
    await let_go(upstream)
    rest = await client.read_rest()
    assert not rest.complete
    said = rest.body.replace(COMMENT, b"")
    assert said.startswith(b"event: error\ndata: {")
    assert said.endswith(b"}\n\n")
    exchange = await proxy.end_of()
    assert exchange.status == 200
    assert exchange.error is not None


async def test_the_error_object_of_the_upstream_is_passed_on(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(
        slowly(response(LIMITED, status="429 Too Many Requests", headers=[("Content-Type", "application/json")]))
    )
    proxy = await stack([early(upstream.url, protocol="openai")])
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    await client.read_body_until(COMMENT)
    await let_go(upstream)
    rest = await client.read_rest()
    data = rest.body.replace(COMMENT, b"").partition(b"data: ")[2]
    assert json.loads(data)["error"] == json.loads(LIMITED)["error"]
    assert not rest.complete


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({"max_streams": 1}, 503),
        ({"max_streams_per_client": 1}, 429),
        ({"requests": {"rate": "1/1h", "burst": 1}}, 429),
    ],
    ids=["places", "a client's places", "quota"],
)
async def test_nothing_of_a_body_is_read_of_a_request_that_is_refused(
    stack: StartStack, serve: Serve, dial: Connect, limits: Config, status: int
) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url, protocol="openai", limits=limits)])
    first, second = await dial(proxy.url), await dial(proxy.url)
    await ask(first)
    await upstream.request()
    await ask(second, method="POST", headers=[("Content-Type", "application/json"), ("Content-Length", "100")])
    answer = await second.read_response("POST")  # and the body never comes
    assert answer.status == status
    await let_go(upstream)
    await first.read_response()


async def test_comments_go_on_while_the_upstreams_error_comes_slowly(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def halting(conn: Conn) -> None:
        await conn.read_request()
        head = response(LIMITED, status="429 Too Many Requests", headers=[("Content-Type", "application/json")])
        await conn.stall()
        await conn.send(head[:-10])
        conn.go.clear()
        await conn.stall()
        await conn.send(head[-10:])

    upstream = await serve(halting)
    proxy = await stack([early(upstream.url, protocol="openai")])
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    await client.read_body_until(COMMENT)
    await let_go(upstream)
    conn = await upstream.connection()
    await until(lambda: not conn.go.is_set(), "the error to begin")
    for _ in range(3):
        await client.read_body_until(COMMENT)
    await let_go(upstream)
    rest = await client.read_rest()
    assert json.loads(rest.body.replace(COMMENT, b"").partition(b"data: ")[2])["error"]["code"] == "limit"
    assert not rest.complete


async def test_retries_and_fallbacks_go_on_behind_it(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bad, good = await serve(slowly(UNAVAILABLE)), await serve(slow)
    upstreams = {"main": {"endpoints": [bad.url]}, "spare": {"endpoints": [good.url]}}
    proxy = await stack([early("main", fallback=["spare"])], upstreams=upstreams)
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    await client.read_body_until(COMMENT)
    await let_go(bad)
    await let_go(good)
    rest = await client.read_rest()
    assert rest.complete
    assert rest.body.replace(COMMENT, b"") == EVENTS
    assert (await proxy.end_of()).upstream == "spare"


async def test_comments_go_on_behind_the_gate(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def silent(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(EVENTS)
        await conn.send_chunk(b"")

    upstream = await serve(silent)
    proxy = await stack([early(upstream.url, retry={"until": "first_event"})])
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    await client.read_body_until(COMMENT * 2)
    await let_go(upstream)
    assert (await client.read_rest()).body.replace(COMMENT, b"") == EVENTS


async def test_one_that_waits_in_the_queue_is_answered(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url, limits={"max_streams": 1, "queue": 5})])
    first, second = await dial(proxy.url), await dial(proxy.url)
    await ask(first)
    await upstream.request()
    await ask(second)
    await second.read_head()
    await second.read_body_until(COMMENT)
    await let_go(upstream)
    await first.read_response()
    await until(lambda: len(upstream.requests) == 2)
    upstream.connections[-1].go.set()
    assert (await second.read_rest()).body.replace(COMMENT, b"") == EVENTS


@pytest.mark.parametrize("limit", ["first_byte", "total"])
async def test_a_timeout_is_told_in_an_event(stack: StartStack, serve: Serve, dial: Connect, limit: str) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url, timeouts={limit: "1s"})])
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    rest = await client.read_rest()
    assert not rest.complete
    assert b"http_response_timeout" in rest.body
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.status) == ("timeout", 200)


async def test_a_client_that_leaves_frees_the_upstream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url)])
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    client.close()
    exchange = await proxy.end_of()
    assert exchange.end == "client_disconnect"
    await until(lambda: not upstream.open_connections)


async def test_a_byte_order_mark_behind_comments_is_taken_out(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(slowly(stream_head() + b"8\r\n\xef\xbb\xbfdata:\r\n3\r\n1\n\n\r\n0\r\n\r\n"))
    proxy = await stack([early(upstream.url)])
    client = await dial(proxy.url)
    await ask(client)
    await client.read_head()
    await client.read_body_until(COMMENT)
    await let_go(upstream)
    assert (await client.read_rest()).body.replace(COMMENT, b"") == b"data:1\n\n"


async def test_a_page_of_an_allowed_origin_may_read_it(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(slow)
    proxy = await stack([early(upstream.url, cors={"origins": ["https://a.example"]})])
    client = await dial(proxy.url)
    await ask(client, headers=[*ASKS, ("Origin", "https://a.example")])
    assert (await client.read_head()).get("access-control-allow-origin") == b"https://a.example"
    await let_go(upstream)
    assert (await client.read_rest()).complete
