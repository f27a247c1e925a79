"""Requests that are sent again, and those that must not be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import connect, fetch
from tests.doubles.stack import Config, route
from tests.doubles.upstream import Conn, FullBacklog, Script, Upstream, answering, response, stream_head

quirk = pytest.mark.quirk

RETRY: Config = {"attempts": 3, "backoff": "1ms"}
UNAVAILABLE = response(b"later", status="503 Service Unavailable")
KEY = ("Idempotency-Key", "k-1")


def pool(*upstreams: Upstream) -> Config:
    """The section of an upstream that asks these in turn and ejects none."""
    endpoints = [one.url for one in upstreams]
    return {"upstreams": {"pool": {"endpoints": endpoints, "balance": "round_robin", "outlier": "off"}}}


def pooled(**keys: Any) -> list[Config]:
    return [route("pool", **({"retry": RETRY} | keys))]


async def close_after_head(conn: Conn) -> None:
    """Take a request and close without a word."""
    await conn.read_request()


async def stalling(conn: Conn) -> None:
    """Take a request and never answer it."""
    await conn.read_request()
    await conn.wait_ended()


def echoing(bodies: list[bytes]) -> Script:
    """A script that keeps the requests' bodies."""

    async def script(conn: Conn) -> None:
        while True:
            _, body = await conn.read_request()
            bodies.append(body)
            await conn.send(response(b"echoed"))

    return script


async def test_a_refused_connection_is_tried_elsewhere(stack: StartStack, serve: Serve, dial: Connect) -> None:
    dead, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    dead.stop_listening()
    proxy = await stack(pooled(), **pool(dead, good))
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x")  # nothing of it was sent: any method
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"good")
    exchange = await proxy.end_of()
    assert (exchange.retries, exchange.endpoint, exchange.end) == (1, good.url, "complete")
    assert good.requests[0].get("host") == good.url.removeprefix("http://").encode()


@pytest.mark.parametrize("failing", [close_after_head, answering(UNAVAILABLE)], ids=["reset", "503"])
async def test_a_get_that_failed_is_tried_elsewhere(stack: StartStack, serve: Serve, failing: Script) -> None:
    bad, good = await serve(failing), await serve(answering(response(b"good")))
    proxy = await stack(pooled(), **pool(bad, good))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (200, b"good")
    assert bad.requests


async def test_without_retries_the_upstreams_answer_is_the_answer(stack: StartStack, serve: Serve) -> None:
    bad, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    proxy = await stack(pooled(retry={}), **pool(bad, good))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (503, b"later")
    assert good.requests == []


async def test_the_last_answer_is_relayed_when_the_attempts_are_used_up(stack: StartStack, serve: Serve) -> None:
    bad = [await serve(answering(UNAVAILABLE)) for _ in range(4)]
    proxy = await stack(pooled(), **pool(*bad))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (503, b"later")
    assert [len(one.requests) for one in bad] == [1, 1, 1, 0]
    assert (await proxy.end_of()).retries == 2


@pytest.mark.parametrize("failing", [close_after_head, answering(UNAVAILABLE)], ids=["reset", "503"])
async def test_a_post_that_was_sent_is_never_sent_again(
    stack: StartStack, serve: Serve, dial: Connect, failing: Script
) -> None:
    bad, good = await serve(failing), await serve(answering(response(b"good")))
    proxy = await stack(pooled(), **pool(bad, good))
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x")
    assert (await client.read_response()).status in (502, 503)
    assert (len(bad.requests), good.requests) == (1, [])


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_post_with_an_idempotency_key_is_sent_again_whole(
    stack: StartStack, serve: Serve, dial: Connect, framing: str
) -> None:
    bodies: list[bytes] = []
    bad, good = await serve(answering(UNAVAILABLE)), await serve(echoing(bodies))
    proxy = await stack(pooled(), **pool(bad, good))
    client = await dial(proxy.url)
    if framing == "length":
        await client.request("/", method="POST", headers=[KEY], body=b"one two three")
    else:
        await client.request("/", method="POST", headers=[KEY, ("Transfer-Encoding", "chunked")])
        for chunk in (b"one ", b"two ", b"three", b""):
            await client.send_chunk(chunk)
    assert (await client.read_response()).body == b"echoed"
    assert bodies == [b"one two three"]
    assert good.requests[0].chunked is (framing == "chunked")


@quirk("httpx", "user", reason="sends the whole body before it reads the head")
async def test_a_body_that_is_still_coming_goes_on_at_the_next_endpoint(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    bodies: list[bytes] = []

    async def refuses_early(conn: Conn) -> None:
        await conn.read_head()
        await conn.read_chunk()
        await conn.send(UNAVAILABLE)
        await conn.wait_ended()

    bad, good = await serve(refuses_early), await serve(echoing(bodies))
    proxy = await stack(pooled(), **pool(bad, good))
    client = await dial(proxy.url)
    await client.request("/", method="PUT", headers=[("Transfer-Encoding", "chunked")])
    await client.send_chunk(b"first ")
    await good.request()  # the second attempt has begun, and the client has not finished
    await client.send_chunk(b"second")
    await client.send_chunk(b"")
    assert (await client.read_response()).status == 200
    assert bodies == [b"first second"]


async def test_a_body_larger_than_the_buffer_is_sent_once(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bad, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    proxy = await stack(pooled(retry=RETRY | {"buffer": 1000}), **pool(bad, good))
    client = await dial(proxy.url)
    await client.request("/", method="PUT", body=b"x" * 1001)
    assert (await client.read_response()).status == 503
    assert good.requests == []


async def test_non_idempotent_allows_what_the_operator_knows_is_safe(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    bad, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    proxy = await stack(pooled(retry=RETRY | {"non_idempotent": "on"}), **pool(bad, good))
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x")
    assert (await client.read_response()).body == b"good"


async def test_only_what_the_file_names_is_tried_again(stack: StartStack, serve: Serve) -> None:
    bad, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    proxy = await stack(pooled(retry=RETRY | {"on": ["connect", "reset", 504]}), **pool(bad, good))
    assert (await fetch(proxy.url)).status == 503
    assert good.requests == []


async def test_a_stream_that_broke_after_its_head_is_not_begun_again(stack: StartStack, serve: Serve) -> None:
    async def breaks(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")

    bad, good = await serve(breaks), await serve(answering(response(b"good")))
    proxy = await stack(pooled(), **pool(bad, good))
    answer = await fetch(proxy.url)
    assert (answer.body, answer.complete) == (b"data: 1\n\n", False)
    assert good.requests == []


async def test_a_connection_of_a_response_that_was_dropped_carries_nothing_more(
    stack: StartStack, serve: Serve
) -> None:
    async def endless(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(status="503 x", headers=[("Content-Length", "1000000")], length=False) + b"part")
        await conn.wait_ended()

    bad, good = await serve(endless), await serve(answering(response(b"good")))
    proxy = await stack(pooled(), **pool(bad, good))
    assert (await fetch(proxy.url)).body == b"good"
    async with asyncio.timeout(5):
        await bad.connections[0].wait_ended()
    assert proxy.metric("streamproxy_connections", upstream="pool", state="active") == 0


async def test_a_client_that_leaves_between_two_attempts_ends_them(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    reached = asyncio.Event()

    async def hangs(conn: Conn) -> None:
        await conn.read_request()
        reached.set()
        await conn.wait_ended()

    bad, hung, good = await serve(answering(UNAVAILABLE)), await serve(hangs), await serve(answering(response(b"")))
    proxy = await stack(pooled(), **pool(bad, hung, good))
    client = await dial(proxy.url)
    await client.request("/")
    async with asyncio.timeout(5):
        await reached.wait()
    await client.aclose()
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.phase, exchange.retries) == ("client_disconnect", "head", 1)
    assert good.requests == []


async def test_total_ends_a_pause_between_two_attempts(stack: StartStack, serve: Serve) -> None:
    bad = await serve(answering(response(status="503 x", headers=[("Retry-After", "3600")])))
    proxy = await stack(pooled(timeouts={"total": "250ms"}, retry={"attempts": 2, "backoff": "1h"}), **pool(bad))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.get("proxy-status")) == (504, b"streamproxy; error=http_response_timeout")
    assert len(bad.requests) == 1


async def test_first_byte_ends_a_pause_between_two_attempts(stack: StartStack, serve: Serve) -> None:
    bad = await serve(answering(response(status="503 x", headers=[("Retry-After", "3600")])))
    proxy = await stack(pooled(timeouts={"first_byte": "250ms"}, retry={"attempts": 2, "backoff": "1h"}), **pool(bad))
    assert (await fetch(proxy.url)).status == 504
    assert len(bad.requests) == 1


async def test_first_byte_ends_a_pause_after_a_connect_that_failed(stack: StartStack, serve: Serve) -> None:
    bad = await serve(answering(UNAVAILABLE))
    bad.stop_listening()
    proxy = await stack(pooled(timeouts={"first_byte": "250ms"}, retry={"attempts": 2, "backoff": "1h"}), **pool(bad))
    proxy.app.deployment.upstreams["pool"].uniform = lambda: 0.9
    answer = await fetch(proxy.url)
    assert (answer.status, answer.get("proxy-status")) == (504, b"streamproxy; error=http_response_timeout")
    assert (await proxy.end_of()).retries == 1


async def test_first_byte_bounds_all_the_connects_that_hang_and_connect_each_of_them(stack: StartStack) -> None:
    async with FullBacklog() as nobody:
        proxy = await stack(
            pooled(timeouts={"connect": "50ms", "first_byte": "600ms"}, retry=RETRY | {"attempts": 1000}),
            upstreams={"pool": {"endpoints": [nobody.url]}},
        )
        answer = await fetch(proxy.url)
        assert (answer.status, answer.get("proxy-status")) == (504, b"streamproxy; error=http_response_timeout")
        exchange = await proxy.end_of()
        assert exchange.retries >= 1, "connect bounds each"
        assert exchange.retries < 30, "the budget would have ended them, not first_byte"


async def test_a_client_that_is_slow_with_its_body_is_not_the_upstreams_fault(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    dead, good = await serve(answering(UNAVAILABLE)), await serve(echoing([]))
    dead.stop_listening()
    silent = await serve(stalling)
    routes = [{"path": "/silent", "upstream": silent.url, "timeouts": {"first_byte": "400ms"}}]
    proxy = await stack([*routes, *pooled(timeouts={"first_byte": "400ms"})], **pool(dead, good))
    client = await dial(proxy.url)
    await client.request("/", method="PUT", headers=[("Transfer-Encoding", "chunked")])
    await client.send_chunk(b"first")
    await good.request()
    for number in range(2):  # others that begin later run into the same time-out
        assert (await fetch(f"{proxy.url}/silent")).status == 504
        assert [exchange.route for exchange in proxy.ended] == ["r0"] * (number + 1)
    await client.aclose()
    assert (await proxy.end_of(2)).end == "client_disconnect"


async def test_one_endpoint_alone_is_asked_again(stack: StartStack, serve: Serve) -> None:
    async def second_time_lucky(conn: Conn) -> None:
        while True:
            await conn.read_request()
            await conn.send(UNAVAILABLE if len(flaky.requests) == 1 else response(b"good"))

    flaky = await serve(second_time_lucky)
    proxy = await stack(pooled(), **pool(flaky))
    assert (await fetch(proxy.url)).body == b"good"


async def test_retry_after_of_the_one_endpoint_is_waited_for_up_to_ten_times_the_backoff(
    stack: StartStack, serve: Serve
) -> None:
    answers = [response(status="503 x", headers=[("Retry-After", "1")]), response(b"good")]
    answers += [response(status="503 x", headers=[("Retry-After", "3600")]), response(b"good")]

    async def in_turn(conn: Conn) -> None:
        while True:
            await conn.read_request()
            await conn.send(answers[len(flaky.requests) - 1])

    flaky = await serve(in_turn)
    proxy = await stack(pooled(retry=RETRY | {"backoff": "120ms"}), **pool(flaky))
    loop = asyncio.get_running_loop()
    for least in (1.0, 1.2):  # the second it asked for; and not its hour
        began = loop.time()
        assert (await fetch(proxy.url)).body == b"good"
        assert loop.time() - began >= least


async def test_retry_after_of_one_endpoint_does_not_hold_up_another(stack: StartStack, serve: Serve) -> None:
    bad = await serve(answering(response(status="503 x", headers=[("Retry-After", "3600")])))
    good = await serve(answering(response(b"good")))
    proxy = await stack(pooled(timeouts={"first_byte": "20s"}, retry=RETRY | {"backoff": "4s"}), **pool(bad, good))
    proxy.app.deployment.upstreams["pool"].uniform = lambda: 0.0
    assert (await fetch(proxy.url)).body == b"good"  # not 504: forty seconds were the bound


async def test_retries_of_many_requests_are_a_fifth_of_them(stack: StartStack, serve: Serve) -> None:
    bad = await serve(answering(UNAVAILABLE))
    proxy = await stack(pooled(retry={"attempts": 3, "backoff": 0}), **pool(bad))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with await connect(proxy.url) as client:
        for number in range(300):
            assert (await client.get()).status == 503
            few = 3 * (10 + loop.time() - began)  # three a second are always allowed
            assert sum(exchange.retries for exchange in proxy.ended) <= 0.2 * (number + 1) + few
    await proxy.end_of(299)
    assert len(bad.requests) == 300 + sum(exchange.retries for exchange in proxy.ended)
    assert sum(exchange.retries for exchange in proxy.ended) >= 30


async def test_retries_of_a_bad_day_stay_in_their_budget(stack: StartStack, serve: Serve) -> None:
    bad = await serve(answering(UNAVAILABLE))
    proxy = await stack(pooled(), **pool(bad))
    for _ in range(60):
        assert (await fetch(proxy.url)).status == 503
    retried = sum(exchange.retries for exchange in proxy.ended)
    assert len(bad.requests) == 60 + retried
    assert proxy.metric("streamproxy_retries_total", upstream="pool") == retried
    assert 30 <= retried <= 60  # not 120: 3 a second over 10 s; the window may have moved on meanwhile


@quirk("h2", reason="has no last words")
@quirk("httpx", "user", reason="hands out a 408 that crossed a request")
@pytest.mark.parametrize("head", ["Transfer-Encoding: chunked", "Content-Length: 3"])
async def test_a_408_that_crossed_a_request_whose_body_is_held_is_not_its_answer(
    stack: StartStack, serve: Serve, dial: Connect, head: str
) -> None:
    """Only a 408 is certain to be no answer, and of a body that is held nothing is lost: the request goes out again."""

    async def dying(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"ok"))
        await conn.read_request()
        await conn.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    upstream = await serve([dying, answering(response(b"the answer"))])
    proxy = await stack([route(upstream.url, retry={"attempts": 2})])
    client = await dial(proxy.url)
    await client.get()
    name, _, value = head.partition(": ")
    await client.request("/", method="POST", headers=[(name, value)])
    if name == "Content-Length":
        await client.send(b"abc")
    else:
        await client.send_chunk(b"abc")
        await client.send_chunk(b"")
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"the answer")
