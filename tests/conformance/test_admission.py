"""Limits over real sockets: who gets a place, who waits, who is told to come back, and that every place comes free."""

from __future__ import annotations

import asyncio
import json

import pytest

from streamproxy.config import parse_config
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import Config, RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head

EVENT = b"data: 1\n\n"


async def one_event_then_wait(conn: Conn) -> None:
    """A stream for each request: one event, and its end when the test lets it."""
    while True:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(EVENT)
        await conn.stall()
        conn.go.clear()
        await conn.send_chunk(b"")


def limited(upstream: str, **limits: object) -> list[Config]:
    return [route(upstream, limits=limits)]


def watch_places(proxy: RunningStack, leaks: LeakCheck) -> None:
    """After the test nobody may hold a place, or wait for one."""
    places = [admission.places for admission in proxy.app.deployment.admissions.values()]
    assert places
    leaks.gauge("places", lambda: [(p.held, p.waiting, p.clients) for p in places if p.held or p.waiting or p.clients])


async def streaming_client(dial: Connect, proxy: RunningStack, *headers: tuple[str, str]) -> RawClient:
    """A client in the middle of its stream."""
    client = await dial(proxy.url)
    await client.request("/", headers=headers)
    assert (await client.read_head()).status == 200
    await client.read_body_until(b"\n\n")
    return client


async def waiting(proxy: RunningStack, count: int) -> None:
    """Until so many are in the queue."""
    await until(lambda: proxy.metric("streamproxy_queue_depth") == count)


async def test_one_stream_too_many_is_refused_and_told_when_to_come_back(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1))
    watch_places(proxy, leaks)
    first = await streaming_client(dial, proxy)
    second = await dial(proxy.url)
    refused = await second.get()
    assert refused.status == 503
    assert refused.get("proxy-status") == b"streamproxy; error=connection_limit_reached"
    assert int(refused.get("retry-after") or 0) >= 1
    assert len(upstream.requests) == 1
    assert (await proxy.end_of()).phase == "queue"
    upstream.connections[0].go.set()
    assert (await first.read_rest()).complete
    await proxy.end_of(1)
    upstream.go.set()
    await second.request("/")
    assert (await second.read_head()).status == 200


async def test_a_place_is_held_to_the_last_byte_and_not_only_to_the_head(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1, queue=1, queue_timeout="20s"))
    watch_places(proxy, leaks)
    first = await streaming_client(dial, proxy)
    second = await dial(proxy.url)
    await second.request("/")
    await waiting(proxy, 1)
    assert len(upstream.requests) == 1
    (await upstream.connection()).go.set()
    assert (await first.read_rest()).complete
    assert (await second.read_head()).status == 200
    assert proxy.metric("streamproxy_queue_seconds_count") == 1
    assert proxy.metric("streamproxy_queue_depth") == 0


async def test_the_queue_is_first_come_first_served(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1, queue=5, queue_timeout="20s"))
    watch_places(proxy, leaks)
    current = await streaming_client(dial, proxy)
    clients = []
    for number in range(4):
        client = await dial(proxy.url)
        await client.request(f"/{number}")
        await waiting(proxy, number + 1)
        clients.append(client)
    for number, client in enumerate(clients):
        for conn in upstream.connections:
            conn.go.set()
        assert (await current.read_rest()).complete
        await client.read_head()
        assert upstream.requests[-1].target == b"/%d" % number
        await client.read_body_until(b"\n\n")
        current = client


async def test_who_leaves_the_queue_costs_nothing_and_holds_nobody_up(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1, queue=2, queue_timeout="20s"))
    watch_places(proxy, leaks)
    first = await streaming_client(dial, proxy)
    impatient, patient = await dial(proxy.url), await dial(proxy.url)
    await impatient.request("/impatient")
    await waiting(proxy, 1)
    await patient.request("/patient")
    await waiting(proxy, 2)
    await impatient.aclose()
    ended = await proxy.end_of()
    assert (ended.end, ended.phase, ended.status) == ("client_disconnect", "queue", 499)
    await waiting(proxy, 1)
    (await upstream.connection()).go.set()
    assert (await first.read_rest()).complete
    assert (await patient.read_head()).status == 200
    assert [head.target for head in upstream.requests] == [b"/", b"/patient"]
    assert proxy.metric("streamproxy_disconnects_total", side="client", phase="queue") == 1


async def test_who_waits_for_too_long_gets_503(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1, queue=1, queue_timeout="50ms"))
    watch_places(proxy, leaks)
    await streaming_client(dial, proxy)
    second = await dial(proxy.url)
    refused = await second.get()
    assert (refused.status, refused.get("retry-after") is not None) == (503, True)
    assert (await proxy.end_of()).queued >= 0.05
    assert len(upstream.requests) == 1


async def test_a_client_over_its_own_limit_gets_429_and_the_others_are_served(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    limits: dict[str, object] = {"max_streams": 9, "max_streams_per_client": 1, "client_key": "header:X-Tenant"}
    proxy = await stack(limited(upstream.url, queue=5, **limits))
    watch_places(proxy, leaks)
    await streaming_client(dial, proxy, ("X-Tenant", "a"))
    greedy = await dial(proxy.url)
    refused = await greedy.get(headers=[("X-Tenant", "a")])
    assert refused.status == 429
    assert refused.get("proxy-status") == b"streamproxy; error=connection_limit_reached"
    assert refused.get("retry-after") is not None
    await streaming_client(dial, proxy, ("X-Tenant", "b"))
    await streaming_client(dial, proxy)  # without the header: one more client


async def test_clients_are_told_apart_by_their_credential(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    tokens = [{"name": "alice", "token": "one"}, {"name": "alice", "token": "two"}, {"name": "bob", "token": "three"}]
    limits = {"max_streams_per_client": 1, "client_key": "principal"}
    proxy = await stack([route(upstream.url, limits=limits, auth={"bearer": {"tokens": tokens}})])
    watch_places(proxy, leaks)
    await streaming_client(dial, proxy, ("Authorization", "Bearer one"))
    other = await dial(proxy.url)
    assert (await other.get(headers=[("Authorization", "Bearer two")])).status == 429
    await streaming_client(dial, proxy, ("Authorization", "Bearer three"))


async def test_clients_are_told_apart_by_their_address(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams_per_client=1), server={"trusted_proxies": ["127.0.0.1"]})
    watch_places(proxy, leaks)
    await streaming_client(dial, proxy, ("X-Forwarded-For", "192.0.2.1"))
    again = await dial(proxy.url)
    assert (await again.get(headers=[("X-Forwarded-For", "192.0.2.1")])).status == 429
    await streaming_client(dial, proxy, ("X-Forwarded-For", "192.0.2.2"))
    await streaming_client(dial, proxy)  # the address of the connection itself
    other = await dial(proxy.url)
    assert (await other.get()).status == 429


async def test_nobody_has_another_address_by_saying_so(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams_per_client=1))
    watch_places(proxy, leaks)
    await streaming_client(dial, proxy)
    client = await dial(proxy.url)
    assert (await client.get(headers=[("X-Forwarded-For", "192.0.2.2")])).status == 429


@pytest.mark.parametrize("fault", ["reset", "refused", "short"])
async def test_an_upstream_that_fails_gives_its_place_back(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck, fault: str
) -> None:
    async def failing(conn: Conn) -> None:
        await conn.read_head()
        if fault == "short":
            await conn.send(response(b"ok" * 10)[:-5])
        else:
            conn.reset()

    upstream = await serve([failing, answering(response(b"ok"))])
    proxy = await stack(limited(upstream.url, max_streams=1))
    watch_places(proxy, leaks)
    if fault == "refused":
        upstream.stop_listening()
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_response()
    await proxy.end_of()
    if fault == "refused":
        await upstream.start()
        upstream.scripts = [answering(response(b"ok"))]
    again = await dial(proxy.url)
    assert (await again.get()).status == 200


async def test_a_client_that_leaves_mid_stream_gives_its_place_to_the_next(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1, queue=1, queue_timeout="20s"))
    watch_places(proxy, leaks)
    first = await streaming_client(dial, proxy)
    second = await dial(proxy.url)
    await second.request("/second")
    await waiting(proxy, 1)
    first.reset()
    assert (await second.read_head()).status == 200


async def test_a_queue_under_ten_times_its_capacity_stays_fair_and_leaks_nothing(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    """4 places and 16 in the queue for 200 clients, some of whom leave: 20 are let in, in the order they came."""
    running = asyncio.Event()

    async def answer(conn: Conn) -> None:
        while True:
            await conn.read_head()
            await running.wait()
            await conn.send(response(b"ok"))

    upstream = await serve(answer)
    proxy = await stack(limited(upstream.url, max_streams=4, queue=16, queue_timeout="20s"))
    watch_places(proxy, leaks)
    clients = []
    for number in range(20):
        client = await dial(proxy.url)
        await client.request(f"/{number}")
        clients.append(client)
        if number < 4:
            await upstream.request(number)
        else:
            await waiting(proxy, number - 3)
    rest = [await dial(proxy.url) for _ in range(180)]
    refused = await asyncio.gather(*(client.get("/late") for client in rest))
    assert {answer.status for answer in refused} == {503}
    leavers = [6, 11, 19]
    for number in leavers:
        await clients[number].aclose()
    await waiting(proxy, 16 - len(leavers))
    running.set()
    stayed = [client for number, client in enumerate(clients) if number not in leavers]
    assert {(await client.read_response()).status for client in stayed} == {200}
    let_in = [int(head.target[1:]) for head in upstream.requests]
    assert sorted(let_in[:4]) == [0, 1, 2, 3]
    # Places come free four at a time, and who got one may overtake on its own connection, but by no more than that.
    order = [number for number in range(4, 20) if number not in leavers]
    assert sorted(let_in[4:]) == order
    assert all(abs(let_in.index(number) - 4 - place) < 4 for place, number in enumerate(order))
    assert proxy.metric("streamproxy_requests_total", code="503") == 180
    assert proxy.metric("streamproxy_queue_seconds_count") == 16


async def test_a_route_without_limits_has_no_guard(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await client.get()).status == 200
    assert proxy.app.deployment.admissions == {}


async def test_a_reload_keeps_the_places_that_are_held_and_those_who_wait(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(one_event_then_wait)
    proxy = await stack(limited(upstream.url, max_streams=1, queue=2, queue_timeout="20s"))
    await streaming_client(dial, proxy)
    second, third = await dial(proxy.url), await dial(proxy.url)
    for number, client in enumerate((second, third), 1):
        await client.request("/")
        await waiting(proxy, number)
    data = proxy.app.deployment.config.plain()
    data["routes"][0]["limits"] |= {"max_streams": 2, "queue": 1}
    await proxy.app.adopt(parse_config(json.dumps(data), name="test"))
    watch_places(proxy, leaks)
    assert (await second.read_head()).status == 200  # into the new place
    late = await dial(proxy.url)
    assert (await late.get()).status == 503  # both are held, and the queue has room for one
    second.reset()
    assert (await third.read_head()).status == 200
