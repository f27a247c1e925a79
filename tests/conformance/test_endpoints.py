"""Upstreams of several endpoints: who gets a request, and who gets none for a while."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from streamproxy.upstream import prober
from tests.conformance.conftest import StartStack
from tests.conformance.pool import names, pool, streams, up
from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import fetch
from tests.doubles.stack import route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, FullBacklog, answering, response

# Balancing.


async def test_live_streams_are_spread_evenly(stack: StartStack, backends: Any, dial: Connect) -> None:
    a, b, c = await backends("a", "b", "c")
    proxy = await stack([route("pool")], **pool(a, b, c))
    async with streams(proxy, dial, 6) as opened:
        assert Counter(name for _, name in opened) == {"a": 2, "b": 2, "c": 2}
        assert proxy.metric("streamproxy_endpoint_streams", endpoint=b.url) == 2
        for client, name in opened:
            if name == "a":
                await client.aclose()
        await until(lambda: proxy.metric("streamproxy_endpoint_streams", endpoint=a.url) == 0, "a to be free")
        async with streams(proxy, dial, 2) as more:
            assert [name for _, name in more] == ["a", "a"]


async def test_weights_are_kept(stack: StartStack, backends: Any, dial: Connect) -> None:
    a, b = await backends("a", "b")
    endpoints = [a.url, {"url": b.url, "weight": 3}]
    proxy = await stack([route("pool")], upstreams={"pool": {"endpoints": endpoints}})
    async with streams(proxy, dial, 8) as opened:
        assert Counter(name for _, name in opened) == {"a": 2, "b": 6}


async def test_round_robin_takes_turns(stack: StartStack, backends: Any) -> None:
    a, b, c = await backends("a", "b", "c")
    proxy = await stack([route("pool")], **pool(a, b, c, balance="round_robin"))
    assert await names(proxy, 6) == ["a", "b", "c"] * 2


async def test_random_two_spares_the_loaded(stack: StartStack, backends: Any, dial: Connect) -> None:
    a, b = await backends("a", "b")
    proxy = await stack([route("pool")], **pool(a, b, balance="random_two"))
    async with streams(proxy, dial, 1) as opened:
        busy = opened[0][1]
        assert busy not in await names(proxy, 5)


async def test_a_hash_keeps_each_session_on_one_endpoint(stack: StartStack, backends: Any) -> None:
    a, b, c = await backends("a", "b", "c")
    proxy = await stack([route("pool")], **pool(a, b, c, balance={"hash": "header:X-Session"}))
    by_session = {session: await names(proxy, 2, ("X-Session", session)) for session in map(str, range(12))}
    assert all(first == second for first, second in by_session.values())
    assert len({answers[0] for answers in by_session.values()}) > 1


async def test_every_endpoint_gets_its_own_host(stack: StartStack, backends: Any) -> None:
    a, b = await backends("a", "b")
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin"))
    await names(proxy, 2)
    for one in (a, b):
        assert one.upstream.requests[0].get("host") == one.url.removeprefix("http://").encode()


# Ejection.


EJECT = {"consecutive_failures": 2, "eject_for": "60s"}


async def test_an_endpoint_that_fails_gets_no_more_requests_and_keeps_its_streams(
    stack: StartStack, backends: Any, dial: Connect
) -> None:
    a, b = await backends("a", "b")
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", outlier=EJECT))
    async with streams(proxy, dial, 2) as opened:
        a.status = "503 Service Unavailable"
        await names(proxy, 4)
        assert (up(proxy, a), up(proxy, b)) == (0, 1)
        assert await names(proxy, 4) == ["b"] * 4
        await a.beat()
        client = next(client for client, name in opened if name == "a")
        assert await client.read_body_until(b"\n\n") == b"data: a\n\n"


async def test_an_ejected_endpoint_comes_back(stack: StartStack, backends: Any) -> None:
    a, b = await backends("a", "b")
    outlier = {"consecutive_failures": 1, "eject_for": "50ms"}
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", outlier=outlier))
    a.status = "502 Bad Gateway"
    await names(proxy, 2)
    a.status = "200 OK"
    await until(lambda: up(proxy, a), "the end of the ejection")
    assert "a" in await names(proxy, 30)  # a tenth of its share at first


async def test_the_last_endpoint_is_never_ejected(stack: StartStack, backends: Any) -> None:
    a, b = await backends("a", "b")
    outlier = {"consecutive_failures": 1, "eject_for": "60s", "max_ejected_percent": 100}
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", outlier=outlier))
    a.status = b.status = "503 Service Unavailable"
    await names(proxy, 6)
    assert up(proxy, a) + up(proxy, b) == 1


async def test_clients_that_leave_never_count_against_an_endpoint(
    stack: StartStack, backends: Any, dial: Connect
) -> None:
    a, b = await backends("a", "b")
    outlier = {"consecutive_failures": 1, "eject_for": "60s"}
    proxy = await stack([route("pool")], **pool(a, b, outlier=outlier))
    async with streams(proxy, dial, 4):
        pass
    for number in range(4):
        assert (await proxy.end_of(number)).end == "client_disconnect"
    assert (up(proxy, a), up(proxy, b)) == (1, 1)


async def test_an_endpoint_that_gives_no_head_in_time_is_ejected(
    stack: StartStack, backends: Any, serve: Serve
) -> None:
    async def silent(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    hung = await serve(silent)
    (good,) = await backends("good")
    outlier = {"consecutive_failures": 1, "eject_for": "60s"}
    proxy = await stack(
        [route("pool", timeouts={"first_byte": "60ms"}) | {"path": "/impatient"}, route("pool")],
        upstreams={"pool": {"endpoints": [hung.url, good.url], "balance": "round_robin", "outlier": outlier}},
    )
    assert (await fetch(f"{proxy.url}/impatient")).status == 504
    assert await names(proxy, 3) == ["good"] * 3
    assert proxy.metric("streamproxy_endpoint_up", endpoint=hung.url) == 0


# Probes.


PROBES = {"interval": "2s", "timeout": "2s", "healthy_after": 2, "unhealthy_after": 2}


@pytest.fixture
def busy_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes follow one another at once, and still have all their time for an answer."""
    monkeypatch.setattr(prober, "first_delay", lambda interval, uniform: 0.0)
    monkeypatch.setattr(prober, "next_delay", lambda interval, uniform: 0.02)


@pytest.mark.usefixtures("busy_probes")
async def test_an_unhealthy_endpoint_gets_no_requests_until_it_is_healthy_again(
    stack: StartStack, backends: Any, dial: Connect
) -> None:
    a, b = await backends("a", "b")
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", health=PROBES))
    async with streams(proxy, dial, 2) as opened:
        a.health = "500 Internal Server Error"
        await until(lambda: not up(proxy, a), "a to be unhealthy")
        assert await names(proxy, 4) == ["b"] * 4
        await a.beat()
        client = next(client for client, name in opened if name == "a")
        assert await client.read_body_until(b"\n\n") == b"data: a\n\n"
        a.health = "200 OK"
        await until(lambda: up(proxy, a), "a to be healthy")
        assert "a" in await names(proxy, 30)


@pytest.mark.usefixtures("busy_probes")
async def test_without_a_healthy_endpoint_the_proxy_is_not_ready(stack: StartStack, backends: Any) -> None:
    (a,) = await backends("a")
    proxy = await stack([route("pool")], **pool(a, health=PROBES))
    assert proxy.app.ready() == []
    a.health = "503 Service Unavailable"
    await until(lambda: not up(proxy, a), "a to be unhealthy")
    answer = await fetch(proxy.url)
    assert (answer.status, answer.get("proxy-status")) == (503, b"streamproxy; error=destination_unavailable")
    assert proxy.app.ready() == ["upstream pool has no endpoint"]
    a.health = "200 OK"
    await until(lambda: up(proxy, a), "a to be healthy")
    assert (await fetch(proxy.url)).status == 200


@pytest.mark.usefixtures("busy_probes")
async def test_a_backend_that_is_not_there_is_found_out_by_its_first_probe(stack: StartStack, backends: Any) -> None:
    a, b = await backends("a", "b")
    a.upstream.stop_listening()
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", health=PROBES))
    await until(lambda: not up(proxy, a), "a to be unhealthy")
    assert await names(proxy, 4) == ["b"] * 4


@pytest.mark.usefixtures("busy_probes")
async def test_a_backend_that_does_not_accept_is_unhealthy(stack: StartStack, backends: Any) -> None:
    (b,) = await backends("b")
    async with FullBacklog() as nobody:
        proxy = await stack(
            [route("pool")],
            upstreams={"pool": {"endpoints": [nobody.url, b.url], "health": PROBES | {"timeout": "500ms"}}},
        )
        await until(lambda: not proxy.metric("streamproxy_endpoint_up", endpoint=nobody.url), "the probe to give up")
        assert await names(proxy, 3) == ["b"] * 3


@pytest.mark.usefixtures("busy_probes")
async def test_probes_use_their_connection_again_and_are_no_exchanges(stack: StartStack, backends: Any) -> None:
    (a,) = await backends("a")
    proxy = await stack([route("pool")], **pool(a, health=PROBES))
    await until(lambda: len(a.targets) >= 4, "some probes")
    assert set(a.targets) == {b"/health"}
    assert a.upstream.requests[0].get("user-agent") == b"streamproxy-health"
    assert a.upstream.accepted == 1
    assert proxy.ended == []


# Names.


async def test_every_address_of_a_name_is_an_endpoint_with_the_names_host(stack: StartStack, serve: Serve) -> None:
    if stack.client == "user":
        pytest.skip("a client of the program's own looks names up itself")

    upstream = await serve(answering(response(b"found")))
    url = f"http://localhost:{upstream.port}"
    proxy = await stack(
        [route("pool", retry={"attempts": 2})],  # where ::1 is an address of localhost, nobody listens there
        upstreams={"pool": {"endpoints": [{"url": url, "resolve": "each"}]}},
    )
    endpoints = [one.url for one in proxy.app.deployment.upstreams["pool"].endpoints]
    assert upstream.url in endpoints
    assert url not in endpoints
    assert (await fetch(proxy.url)).body == b"found"
    assert upstream.requests[0].get("host") == f"localhost:{upstream.port}".encode()


async def test_tls_with_one_of_a_names_addresses_asks_for_the_name(
    stack: StartStack, serve: Serve, certificate: Certificate
) -> None:
    if stack.client == "user":
        pytest.skip("a client of the program's own looks names up itself")
    asked: list[str | None] = []
    context = certificate.server_context()
    context.sni_callback = lambda connection, name, context: asked.append(name)
    upstream = await serve(answering(response(b"found")), tls=context)
    endpoint = {"url": f"https://localhost:{upstream.port}", "resolve": "each"}
    proxy = await stack(
        [route("pool", retry={"attempts": 2})],
        upstreams={"pool": {"endpoints": [endpoint], "tls": {"ca": str(certificate.cert)}}},
    )
    assert (await fetch(proxy.url)).body == b"found"
    assert asked == ["localhost"]
