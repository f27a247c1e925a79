"""Quotas, turns, priorities and the limit of events, over real sockets."""

from __future__ import annotations

import json

import pytest

from streamproxy.config import parse_config
from tests.conformance.conftest import StartStack
from tests.conformance.test_admission import limited, one_event_then_wait, streaming_client, waiting, watch_places
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, route
from tests.doubles.upstream import Conn, answering, response, stream_head, streaming

OK = response(b"ok")
REQUESTS = {"rate": "2/1h"}
USAGE = json.dumps(
    {
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110},
    }
).encode()
CHUNK = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


def throttled(proxy: RunningStack, limit: str) -> float:
    return proxy.metric("streamproxy_throttled_total", route="r0", limit=limit)


async def test_a_client_that_asks_too_often_is_told_when_it_may_again(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(answering(*[OK] * 9))
    proxy = await stack(limited(upstream.url, requests=REQUESTS, client_key="header:X-Tenant"))
    statuses = [(await fetch(proxy.url, headers=[("X-Tenant", "a")])).status for _ in range(2)]
    refused = await fetch(proxy.url, headers=[("X-Tenant", "a")])
    assert statuses == [200, 200]
    assert refused.status == 429
    assert refused.get("x-ratelimit-limit-requests") == b"2"
    assert refused.get("x-ratelimit-remaining-requests") == b"0"
    assert 1 <= int(refused.get("retry-after") or b"0") <= 1800
    assert (await fetch(proxy.url, headers=[("X-Tenant", "b")])).status == 200
    assert throttled(proxy, "requests") == 1
    assert (await proxy.end_of(2)).error.end == "rejected"


async def test_what_a_client_has_used_counts_on_after_a_reload(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(answering(*[OK] * 9))
    routes = limited(upstream.url, requests=REQUESTS)
    proxy = await stack(routes)
    assert [(await fetch(proxy.url)).status for _ in range(3)] == [200, 200, 429]
    same = {"routes": [route(upstream.url, name="r0", limits={"requests": REQUESTS})], "log": {"access": "off"}}
    await proxy.app.adopt(parse_config(json.dumps(same), name="same"))
    assert (await fetch(proxy.url)).status == 429
    same["routes"][0]["limits"] = {"requests": {"rate": "3/1h"}}  # type: ignore[index]
    await proxy.app.adopt(parse_config(json.dumps(same), name="other"))
    assert (await fetch(proxy.url)).status == 200


async def test_tokens_are_charged_when_a_stream_is_over_and_never_cut_one(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(streaming(CHUNK, b"data: " + USAGE + b"\n\n", b"data: [DONE]\n\n"))
    limits = {"tokens": {"rate": "100/1h"}}
    proxy = await stack([route(upstream.url, protocol="openai", limits=limits)])
    first = await fetch(f"{proxy.url}/v1/chat/completions")
    assert (first.status, first.complete) == (200, True)
    assert first.body.endswith(b"data: [DONE]\n\n")
    await proxy.end_of(0)
    refused = await fetch(f"{proxy.url}/v1/chat/completions")
    assert refused.status == 429
    assert refused.get("x-ratelimit-limit-tokens") == b"100"
    assert refused.get("x-ratelimit-remaining-tokens") == b"0"
    assert refused.get("x-ratelimit-reset-tokens") is not None
    # 10 tokens over, and one to go on with: 11 of 100 in an hour.
    assert 390 <= int(refused.get("retry-after") or b"0") <= 400
    assert "error" in json.loads(refused.body)
    assert throttled(proxy, "tokens") == 1


async def test_an_aborted_stream_is_charged_what_was_reported_until_then(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def usage_then_wait(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(CHUNK + b"data: " + USAGE + b"\n\n")
        await conn.wait_ended()

    upstream = await serve(usage_then_wait)
    limits = {"tokens": {"rate": "50/1h", "count": "output"}}
    proxy = await stack([route(upstream.url, protocol="openai", limits=limits)])
    async with await dial(proxy.url) as client:
        await client.request("/v1/chat/completions")
        await client.read_head()
        await client.read_body_until(b'"total_tokens": 110}}\n\n')
    await proxy.end_of(0)
    assert (await fetch(f"{proxy.url}/v1/chat/completions")).status == 429


@pytest.mark.parametrize(("count", "spent"), [("input", 60), ("output", 50), ("total", 110)])
async def test_the_tokens_that_are_counted_are_the_ones_that_the_file_names(
    stack: StartStack, serve: Serve, count: str, spent: int
) -> None:
    upstream = await serve(streaming(CHUNK, b"data: " + USAGE + b"\n\n", b"data: [DONE]\n\n"))
    limits = {"tokens": {"rate": "1000/1h", "count": count}, "client_key": "header:X-Tenant"}
    proxy = await stack([route(upstream.url, protocol="openai", limits=limits)])
    target = f"{proxy.url}/v1/chat/completions"
    for number in range(-(-1000 // spent)):
        assert (await fetch(target, headers=[("X-Tenant", "a")])).status == 200
        await proxy.end_of(number)
    assert (await fetch(target, headers=[("X-Tenant", "a")])).status == 429
    assert (await fetch(target, headers=[("X-Tenant", "b")])).status == 200


async def test_clients_take_turns_in_the_queue_where_it_is_to_be_fair(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    limits = {"max_streams": 1, "queue": 5, "queue_timeout": "20s", "client_key": "header:X-Tenant"}
    proxy = await stack(limited(upstream.url, **limits, fair_by="client_key"))
    watch_places(proxy, leaks)
    current = await streaming_client(dial, proxy)
    clients = {}
    for number, name in enumerate(("a1", "a2", "a3", "b1", "b2")):
        clients[name] = await dial(proxy.url)
        await clients[name].request(f"/{name}", headers=[("X-Tenant", name[0])])
        await waiting(proxy, number + 1)
    for name in ("a1", "b1", "a2", "b2", "a3"):
        for conn in upstream.connections:
            conn.go.set()
        assert (await current.read_rest()).complete
        await clients[name].read_head()
        assert upstream.requests[-1].target == f"/{name}".encode()
        await clients[name].read_body_until(b"\n\n")
        current = clients[name]


async def test_a_stream_of_too_many_events_is_cut_behind_the_last_that_may_pass(
    stack: StartStack, serve: Serve
) -> None:
    events = [b"data: %d\n\n" % number for number in range(5)]
    upstream = await serve(streaming(events[0], b"".join(events[1:])))
    proxy = await stack(limited(upstream.url, max_events=3))
    answer = await fetch(proxy.url)
    assert answer.body == b"".join(events[:3])
    assert not answer.complete
    ended = await proxy.end_of(0)
    assert (ended.end, ended.events) == ("rejected", 3)
    assert throttled(proxy, "events") == 1


async def test_a_stream_of_just_so_many_events_ends_well(stack: StartStack, serve: Serve) -> None:
    events = [b"data: %d\n\n" % number for number in range(3)]
    upstream = await serve(streaming(*events))
    proxy = await stack(limited(upstream.url, max_events=3))
    answer = await fetch(proxy.url)
    assert (answer.body, answer.complete) == (b"".join(events), True)
    assert throttled(proxy, "events") == 0


async def test_a_higher_priority_is_served_first_and_one_below_zero_makes_room(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    limits = {"max_streams": 1, "queue": 2, "queue_timeout": "20s", "priority": "header:X-Priority"}
    proxy = await stack(limited(upstream.url, **limits))
    watch_places(proxy, leaks)
    current = await streaming_client(dial, proxy)
    batch, low, high = [await dial(proxy.url) for _ in range(3)]
    await batch.request("/batch", headers=[("X-Priority", "-1")])
    await waiting(proxy, 1)
    await low.request("/low", headers=[("X-Priority", "nonsense")])
    await waiting(proxy, 2)
    await high.request("/high", headers=[("X-Priority", "7")])
    assert (await batch.read_response("GET")).status == 503
    for client, target in ((high, b"/high"), (low, b"/low")):
        for conn in upstream.connections:
            conn.go.set()
        assert (await current.read_rest()).complete
        await client.read_head()
        assert upstream.requests[-1].target == target
        await client.read_body_until(b"\n\n")
        current = client
