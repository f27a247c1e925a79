"""``fallback`` and ``retry.until: first_event``: what answers when an upstream fails before it has said something."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.stack import Config, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, silent, stream_head, streaming

UNAVAILABLE = response(b"later", status="503 Service Unavailable")
EVENTS = (b": hello\n\n", b"data: 1\n\n", b"data: 2\n\n")


def upstreams(**urls: str | Config) -> Config:
    return {name: url if isinstance(url, dict) else {"endpoints": [url]} for name, url in urls.items()}


def gated(**keys: Any) -> Config:
    """A route that holds the first upstream's response until its first event, for 0.8 seconds."""
    on = ["connect", "reset", "first_event", "error_event"]
    retry = {"until": "first_event", "on": on}
    return route("main", **({"fallback": ["spare"], "timeouts": {"first_event": "800ms"}, "retry": retry} | keys))


async def silent_after_head(conn: Conn) -> None:
    """Answer with a head and a comment, and then say nothing."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b": waiting\n\n")
    await conn.wait_ended()


async def broken_before_event(conn: Conn) -> None:
    """Answer with a head and a comment, and close."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b": waiting\n\n")


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error", "529 Overloaded"])
async def test_a_status_that_is_named_leads_to_the_fallback(stack: StartStack, serve: Serve, status: str) -> None:
    bad, good = await serve(answering(response(b"no", status=status))), await serve(answering(response(b"good")))
    routes = [route("main", fallback=["spare"], retry={"on": [status[:3]]})]
    proxy = await stack(routes, upstreams=upstreams(main=bad.url, spare=good.url))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (200, b"good")
    exchange = await proxy.end_of()
    assert (exchange.upstream, exchange.endpoint, exchange.attempts, exchange.retries) == ("spare", good.url, 2, 0)
    assert proxy.metric("streamproxy_fallbacks_total", upstream="spare") == 1


async def test_a_refused_connection_leads_to_the_fallback(stack: StartStack, serve: Serve, dial: Connect) -> None:
    dead, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    dead.stop_listening()
    proxy = await stack([route("main", fallback=["spare"])], upstreams=upstreams(main=dead.url, spare=good.url))
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x")
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"good")


async def test_attempts_are_each_upstreams_own(stack: StartStack, serve: Serve) -> None:
    bad, worse = await serve(answering(*[UNAVAILABLE] * 5)), await serve(answering(*[UNAVAILABLE] * 5))
    good = await serve(answering(response(b"good")))
    routes = [route("main", fallback=["second", "third"], retry={"attempts": 2, "backoff": "1ms"})]
    proxy = await stack(routes, upstreams=upstreams(main=bad.url, second=worse.url, third=good.url))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (200, b"good")
    assert (len(bad.requests), len(worse.requests), len(good.requests)) == (2, 2, 1)


async def test_the_last_fallbacks_answer_is_the_answer(stack: StartStack, serve: Serve) -> None:
    bad, last = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"too", status="502 Bad Gateway")))
    proxy = await stack([route("main", fallback="spare")], upstreams=upstreams(main=bad.url, spare=last.url))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (502, b"too")


async def test_a_post_that_was_sent_is_not_sent_to_a_fallback(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bad, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    proxy = await stack([route("main", fallback=["spare"])], upstreams=upstreams(main=bad.url, spare=good.url))
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x")
    answer = await client.read_response()
    assert answer.status == 503
    assert good.requests == []


async def test_a_fallback_has_a_host_and_request_headers_of_its_own(stack: StartStack, serve: Serve) -> None:
    bad, good = await serve(answering(UNAVAILABLE)), await serve(answering(response(b"good")))
    spare = {"endpoints": [good.url], "host": "spare.example", "request_headers": {"set": {"x-key": "spare"}}}
    main = {"endpoints": [bad.url], "request_headers": {"set": {"x-key": "main"}}}
    routes = [route("main", fallback=["spare"], request_headers={"set": {"x-key": "route"}})]
    proxy = await stack(routes, upstreams=upstreams(main=main, spare=spare))
    assert (await fetch(proxy.url)).status == 200
    assert bad.requests[0].get("x-key") == b"main"
    assert good.requests[0].get("x-key") == b"spare"
    assert good.requests[0].get("host") == b"spare.example"


@pytest.mark.parametrize("failing", [silent_after_head, silent, broken_before_event], ids=["head", "mute", "broken"])
async def test_a_stream_that_says_nothing_leads_to_the_fallback(
    stack: StartStack, serve: Serve, failing: Script
) -> None:
    bad, good = await serve(failing), await serve(streaming(*EVENTS))
    proxy = await stack([gated()], upstreams=upstreams(main=bad.url, spare=good.url))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (200, b"".join(EVENTS))
    exchange = await proxy.end_of()
    assert (exchange.upstream, exchange.end) == ("spare", "complete")


async def test_a_stream_that_speaks_in_time_passes_unchanged(stack: StartStack, serve: Serve) -> None:
    good = await serve(streaming(*EVENTS))
    proxy = await stack([gated(fallback=[])], upstreams=upstreams(main=good.url))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (200, b"".join(EVENTS))


async def test_without_another_attempt_a_late_first_event_is_waited_for(stack: StartStack, serve: Serve) -> None:
    go = asyncio.Event()

    async def late(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await go.wait()
        await conn.send_chunk(b"data: 1\n\n")
        await conn.send_chunk(b"")

    slow = await serve(late)
    proxy = await stack([gated(fallback=[], timeouts={"first_event": "1ms"})], upstreams=upstreams(main=slow.url))
    asking = asyncio.create_task(fetch(proxy.url))
    labels = {"upstream": "main", "error": "http_response_timeout"}
    await until(lambda: proxy.metric("streamproxy_upstream_errors_total", **labels) == 1)
    assert not asking.done()
    go.set()
    assert (await asking).body == b"data: 1\n\n"


@pytest.mark.parametrize("until_event", ["head", "first_event"])
async def test_a_late_first_event_is_counted_and_logged(
    stack: StartStack, serve: Serve, caplog: pytest.LogCaptureFixture, until_event: str
) -> None:
    go = asyncio.Event()

    async def late(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b": waiting\n\n")
        await go.wait()
        await conn.send_chunk(b"data: 1\n\n")
        await conn.send_chunk(b"")

    slow = await serve(late)
    routes = [route("main", timeouts={"first_event": "20ms"}, retry={"until": until_event})]
    proxy = await stack(routes, upstreams=upstreams(main=slow.url))
    asking = asyncio.create_task(fetch(proxy.url))
    labels = {"upstream": "main", "error": "http_response_timeout"}
    await until(lambda: proxy.metric("streamproxy_upstream_errors_total", **labels) == 1)
    go.set()
    assert (await asking).body == b": waiting\n\ndata: 1\n\n"
    assert (await proxy.end_of()).end == "complete"
    assert "and the request waits on" in caplog.text


async def test_a_first_event_in_time_is_not_counted(stack: StartStack, serve: Serve, dial: Connect) -> None:
    go = asyncio.Event()

    async def prompt(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await go.wait()
        await conn.send_chunk(b"")

    async def late(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await go.wait()
        await conn.send_chunk(b"")

    first, second = await serve(prompt), await serve(late)
    limits = {"first_event": "600ms"}
    routes = [
        route("prompt", path="/prompt", timeouts=limits),
        route("late", path="/late", timeouts=limits),
    ]
    proxy = await stack(routes, upstreams=upstreams(prompt=first.url, late=second.url))
    client, other = await dial(proxy.url), await dial(proxy.url)
    await client.request("/prompt")
    await client.read_head()
    await client.read_body_until(b"\n\n")
    await other.request("/late")
    await until(lambda: proxy.metric("streamproxy_upstream_errors_total", upstream="late") == 1)
    assert proxy.metric("streamproxy_upstream_errors_total", upstream="prompt") == 0
    go.set()
    assert (await client.read_rest()).complete


async def test_an_answer_that_is_no_stream_passes_the_gate(stack: StartStack, serve: Serve) -> None:
    plain = await serve(answering(response(b"{}")))
    proxy = await stack([gated()], upstreams=upstreams(main=plain.url, spare=plain.url))
    assert (await fetch(proxy.url)).body == b"{}"
    assert len(plain.requests) == 1


async def test_a_megabyte_that_says_nothing_opens_the_gate(stack: StartStack, serve: Serve) -> None:
    comment = b":" + b"x" * 65534 + b"\n"
    big = await serve(streaming(*[comment] * 20))
    proxy = await stack([gated()], upstreams=upstreams(main=big.url, spare=big.url))
    answer = await fetch(proxy.url)
    assert answer.body == comment * 20


async def test_a_client_that_leaves_at_the_gate_frees_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    mute = await serve(silent_after_head)
    proxy = await stack([gated(fallback=[])], upstreams=upstreams(main=mute.url))
    client = await dial(proxy.url)
    await client.request("/")
    await mute.request()
    client.close()
    exchange = await proxy.end_of()
    assert exchange.end == "client_disconnect"


OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
MESSAGE = (
    b'event: message_start\ndata: {"type":"message_start","message":{"model":"c"}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"hi"}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)


async def failing_stream(conn: Conn) -> None:
    """Answer with a stream that begins, and reports that it is overloaded."""
    await conn.read_request()
    await conn.send(stream_head("text/event-stream", ("Retry-After", "7")))
    await conn.send_chunk(MESSAGE[0])
    await conn.send_chunk(OVERLOADED)
    await conn.send_chunk(b"")


async def test_a_failure_before_the_first_event_leads_to_the_fallback(stack: StartStack, serve: Serve) -> None:
    bad, good = await serve(failing_stream), await serve(streaming(*MESSAGE))
    proxy = await stack([gated(protocol="anthropic")], upstreams=upstreams(main=bad.url, spare=good.url))
    answer = await fetch(proxy.url)
    assert (answer.status, answer.body) == (200, b"".join(MESSAGE))
    exchange = await proxy.end_of()
    assert (exchange.upstream, exchange.end) == ("spare", "complete")


async def test_the_last_failure_before_the_first_event_is_a_status(stack: StartStack, serve: Serve) -> None:
    bad = await serve(failing_stream)
    proxy = await stack([gated(protocol="anthropic", fallback=[])], upstreams=upstreams(main=bad.url))
    answer = await fetch(proxy.url)
    assert answer.status == 529
    assert json.loads(answer.body)["error"]["type"] == "overloaded_error"
    assert answer.get("retry-after") == b"7"
    assert (await proxy.end_of()).end == "upstream_error"


async def test_each_upstream_is_sent_its_own_name_of_the_model(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bodies: list[bytes] = []

    async def refusing(conn: Conn) -> None:
        bodies.append((await conn.read_request())[1])
        await conn.send(UNAVAILABLE)

    async def taking(conn: Conn) -> None:
        bodies.append((await conn.read_request())[1])
        await conn.send(response(b"good"))

    bad, good = await serve(refusing), await serve(taking)
    proxy = await stack(
        [route("main", protocol="openai", fallback=["spare"], retry={"non_idempotent": True})],
        upstreams=upstreams(
            main={"endpoints": [bad.url], "models": {"m": "first"}},
            spare={"endpoints": [good.url], "models": {"m": "second-one"}},
        ),
    )
    client = await dial(proxy.url)
    await client.request(
        "/", headers=[("Content-Type", "application/json")], method="POST", body=b'{"model": "m", "n": 1}'
    )
    assert (await client.read_response()).body == b"good"
    assert bodies == [b'{"model": "first", "n": 1}', b'{"model": "second-one", "n": 1}']


@pytest.mark.parametrize("short", [False, True])
async def test_upstreams_get_their_shares_of_the_requests(stack: StartStack, serve: Serve, short: bool) -> None:
    main, canary = await serve(answering(*[response(b"a")] * 8)), await serve(answering(*[response(b"b")] * 8))
    shares = [{"name": "main", "weight": 3}, {"name": "canary", "weight": 1}]
    keys = {"path": "/*", "upstream": shares if short else {"shares": shares}}
    proxy = await stack([keys], upstreams=upstreams(main=main.url, canary=canary.url))
    bodies = [(await fetch(proxy.url)).body for _ in range(8)]
    assert b"".join(bodies) == b"aabaaaba"
    await proxy.end_of(7)
    assert [exchange.upstream for exchange in proxy.ended].count("canary") == 2
