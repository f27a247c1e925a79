"""Endpoints that go and come: ejections that grow, slow starts, and names whose addresses change."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from streamproxy.upstream import endpoint, names, prober
from tests.conformance.conftest import StartStack
from tests.conformance.pool import Backend, pool, streams, up
from tests.conformance.pool import names as answers
from tests.conftest import Connect
from tests.doubles.client import fetch
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Upstream

QUICK = {"consecutive_failures": 1, "eject_for": "20ms"}


async def test_each_ejection_is_twice_as_long_up_to_ten_times_the_first(
    stack: StartStack, backends: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "SLOW_START", 1e-6)
    a, b = await backends("a", "b")
    outlier = QUICK | {"eject_for": "50ms"}
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", outlier=outlier))
    a.status = "503 Service Unavailable"

    def ejections() -> list[float]:
        return [float(seconds) for seconds in re.findall(rf"{a.url} is ejected for (\S+) s", caplog.text)]

    async with asyncio.timeout(20):
        while ejections()[-2:] != [0.5, 0.5]:  # as soon as a is back it gets a request, and fails
            await fetch(proxy.url)
    found = ejections()
    assert found[0] == 0.05
    for earlier, later in itertools.pairwise(found):
        # Had it gone well for ten times as long, which a busy machine may take, it begins anew.
        assert later in (min(2 * earlier, 0.5), 0.05), found


async def test_an_endpoint_that_came_back_gets_a_tenth_of_its_share_first_and_then_all_of_it(
    stack: StartStack, backends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "SLOW_START", 1e6)  # seconds: it does not grow while this test looks
    a, b = await backends("a", "b")
    proxy = await stack([route("pool")], **pool(a, b, balance="round_robin", outlier=QUICK))
    a.status = "502 Bad Gateway"
    await until_ejected(proxy, a)
    a.status = "200 OK"
    await until(lambda: up(proxy, a), "the end of the ejection")
    assert abs(Counter(await answers(proxy, 110))["a"] - 10) <= 1  # turns taken before count, by one at most
    monkeypatch.setattr(endpoint, "SLOW_START", 1e-6)
    assert abs(Counter(await answers(proxy, 40))["a"] - 20) <= 1


async def until_ejected(proxy: RunningStack, backend: Backend) -> None:
    async with asyncio.timeout(20):
        while up(proxy, backend):
            await fetch(proxy.url)


async def test_a_slow_start_shares_out_live_streams_too(
    stack: StartStack, backends: Any, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that comes back empty must not be given every new stream until it has as many as the others."""
    monkeypatch.setattr(endpoint, "SLOW_START", 1e6)
    a, b = await backends("a", "b")
    proxy = await stack([route("pool")], **pool(a, b, outlier=QUICK))
    async with streams(proxy, dial, 20) as opened:
        a.status = "502 Bad Gateway"
        for client, name in opened:
            if name == "a":
                await client.aclose()
        await until_ejected(proxy, a)
        a.status = "200 OK"
        await until(lambda: up(proxy, a), "the end of the ejection")
        async with streams(proxy, dial, 12) as more:
            assert Counter(name for _, name in more)["a"] <= 3, "its share is a tenth of the 22 streams there are"


async def test_probes_of_many_endpoints_do_not_stay_in_step(
    stack: StartStack, backends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []
    draw = prober.next_delay

    def noted(interval: float, uniform: Any) -> float:
        delay = draw(interval, uniform)
        drawn.append((interval, delay))
        return 0.01

    monkeypatch.setattr(prober, "next_delay", noted)
    a, b = await backends("a", "b")
    await stack([route("pool")], **pool(a, b, health={"interval": "1s"}))
    await until(lambda: len(drawn) >= 20, "some probes")
    delays = [delay for _, delay in drawn]
    assert {interval for interval, _ in drawn} == {1.0}
    assert all(0.9 <= delay <= 1.1 for delay in delays)
    assert len(set(delays)) > 10


async def test_a_names_endpoints_follow_its_addresses_while_streams_run(
    stack: StartStack, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stack.client == "user":
        pytest.skip("a client of the program's own looks names up itself")
    addresses = ["127.0.0.1", "127.0.0.2"]
    resolve_as(monkeypatch, "many.test", addresses)
    monkeypatch.setattr(names, "EVERY", 0.02)
    async with AsyncExitStack() as exits:
        first, second, third = await on_one_port(exits, "127.0.0.1", "127.0.0.2", "127.0.0.3")
        url = f"http://many.test:{first.upstream.port}"
        proxy = await stack(
            [route("pool")],
            upstreams={"pool": {"endpoints": [{"url": url, "resolve": "each"}], "balance": "round_robin"}},
        )
        async with streams(proxy, dial, 2) as opened:
            assert sorted(name for _, name in opened) == ["127.0.0.1", "127.0.0.2"]
            addresses[:] = ["127.0.0.2", "127.0.0.3"]
            await until(lambda: urls(proxy) == {second.url, third.url}, "the new addresses")
            seen = set(await answers(proxy, 30))  # the new one has a tenth of its share at first
            assert seen == {"127.0.0.2", "127.0.0.3"}
            for backend in (first, second):
                await backend.beat()
            for client, name in opened:
                assert await client.read_body_until(b"\n\n") == f"data: {name}\n\n".encode()
            addresses[:] = []
            await answers(proxy, 3)  # a name server's bad minute changes nothing
            assert urls(proxy) == {second.url, third.url}
        assert {head.get("host") for head in third.upstream.requests} == {url.removeprefix("http://").encode()}


async def on_one_port(exits: AsyncExitStack, *hosts: str) -> list[Backend]:
    """A backend on each of these addresses, all on the port that the first has got; each is called as its address."""
    port, started = 0, []
    for host in hosts:

        async def start(script: Any, address: tuple[str, int] = (host, port)) -> Upstream:
            return await exits.enter_async_context(Upstream(script, address=address))

        started.append(await Backend(host, start).start())
        port = started[0].upstream.port
    return started


def urls(proxy: RunningStack) -> set[str]:
    return {one.url for one in proxy.app.deployment.upstreams["pool"].endpoints}


def resolve_as(monkeypatch: pytest.MonkeyPatch, host: str, addresses: list[str]) -> None:
    """Have the loop find these addresses for a name, as they are when it is asked."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def getaddrinfo(name: Any, port: Any, **more: Any) -> Any:
        if name != host:
            return await real(name, port, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
