"""Balancing for inference engines, over real sockets: by their load, by the prefix, by the session."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from streamproxy.config import parse_config
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response

LOAD = {"source": "tgi", "interval": "10ms", "stale": "10s"}


class Engine:
    """Answers with its name, and says of itself what a test wants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running, self.waiting = "0", "0"
        self.head: tuple[tuple[str, str], ...] = ()
        self.endless = False
        self.url = ""

    async def __call__(self, conn: Conn) -> None:
        while True:
            head, _ = await conn.read_request()
            if head.target != b"/metrics":
                await conn.send(response(self.name.encode(), headers=self.head))
            elif self.endless:
                await conn.send(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    await conn.send(b"# " + b"x" * 65536 + b"\n")
            else:
                text = f"tgi_batch_current_size {self.running}\ntgi_queue_size {self.waiting}\n"
                await conn.send(response(text.encode()))


async def engines(serve: Serve, *names: str) -> list[Engine]:
    started = []
    for name in names:
        engine = Engine(name)
        upstream: Upstream = await serve(engine)
        engine.url = upstream.url
        started.append(engine)
    return started


def section(*all_of_them: Engine, **keys: Any) -> dict[str, Any]:
    return {"upstreams": {"pool": {"endpoints": [engine.url for engine in all_of_them], **keys}}}


async def started(stack: StartStack, *all_of_them: Engine, **keys: Any) -> RunningStack:
    """The proxy, with what runs beside its requests."""
    proxy = await stack([route("pool")], **section(*all_of_them, **keys))
    for upstream in proxy.app.deployment.upstreams.values():
        await upstream.start()
    return proxy


def said(proxy: RunningStack, engine: Engine, kind: str) -> float:
    return proxy.metric("streamproxy_endpoint_load", upstream="pool", endpoint=engine.url, kind=kind)


async def answers(proxy: RunningStack, count: int, *headers: tuple[str, str]) -> Counter[str]:
    return Counter([(await fetch(proxy.url, headers=headers)).body.decode() for _ in range(count)])


async def test_requests_go_where_the_engine_says_it_has_least_to_do(stack: StartStack, serve: Serve) -> None:
    a, b = await engines(serve, "a", "b")
    a.running, a.waiting = "3", "5"
    proxy = await started(stack, a, b, balance="least_load", load=LOAD)
    try:
        await until(lambda: said(proxy, a, "waiting") == 5.0 and said(proxy, a, "running") == 3.0)
        assert await answers(proxy, 6) == {"b": 6}
        a.running, a.waiting, b.running = "0", "0", "9"
        await until(lambda: said(proxy, a, "waiting") == 0.0 and said(proxy, b, "running") == 9.0)
        assert await answers(proxy, 6) == {"a": 6}
    finally:
        await proxy.app.deployment.upstreams["pool"].quiesce()


async def test_an_engine_whose_metrics_never_end_is_judged_by_our_streams(stack: StartStack, serve: Serve) -> None:
    a, b = await engines(serve, "a", "b")
    a.endless, b.running = True, "1"
    proxy = await started(stack, a, b, balance="least_load", load=LOAD)
    try:
        await until(lambda: said(proxy, b, "running") == 1.0)
        assert await answers(proxy, 6) == {"a": 6}
        assert said(proxy, a, "running") == 0.0
    finally:
        await proxy.app.deployment.upstreams["pool"].quiesce()


async def post(proxy: RunningStack, dial: Connect, body: bytes, *headers: tuple[str, str]) -> str:
    async with await dial(proxy.url) as client:
        await client.request("/", method="POST", headers=headers, body=body)
        return (await client.read_response("POST")).body.decode()


async def test_a_conversation_stays_on_one_engine(stack: StartStack, serve: Serve, dial: Connect) -> None:
    proxy = await started(stack, *await engines(serve, "a", "b", "c"), balance={"prefix": {}})
    homes: dict[int, set[str]] = {}
    for turn in range(4):
        # The ports of the engines decide which of them takes which conversation. So many conversations leave none out.
        for user in range(12 if turn else 60):
            messages = [{"role": "user", "content": f"user {user}"}]
            messages += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}] * turn
            body = json.dumps({"messages": messages, "model": "m"}).encode()
            homes.setdefault(user, set()).add(await post(proxy, dial, body))
    assert all(len(home) == 1 for home in homes.values())
    assert set.union(*homes.values()) == {"a", "b", "c"}


async def test_a_body_that_is_no_conversation_goes_to_any_engine(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    proxy = await started(stack, *await engines(serve, "a", "b"), balance={"prefix": {}})
    assert {await post(proxy, dial, b"\xff not json") for _ in range(4)} == {"a", "b"}
    assert set(await answers(proxy, 4)) == {"a", "b"}


STICKY = {"learn": "header:Mcp-Session-Id", "ttl": "1h"}


async def test_a_session_stays_where_it_was_named_across_a_reload(stack: StartStack, serve: Serve) -> None:
    a, b = await engines(serve, "a", "b")
    keys: dict[str, Any] = {"balance": "round_robin", "sticky": STICKY}
    proxy = await started(stack, a, b, **keys)
    a.head = b.head = (("Mcp-Session-Id", "s-1"),)
    home = (await fetch(proxy.url)).body.decode()
    a.head = b.head = ()
    session = ("mcp-session-id", "s-1")
    assert await answers(proxy, 4, session) == {home: 4}
    assert set(await answers(proxy, 4)) == {"a", "b"}
    changed = section(a, b, **keys, connections={"max_idle": 7})
    text = json.dumps({"routes": [route("pool")], "log": {"access": "off"}, **changed})
    await proxy.app.adopt(parse_config(text, name="changed"))
    assert await answers(proxy, 4, session) == {home: 4}


async def test_a_session_of_an_engine_that_left_goes_to_another(
    stack: StartStack, serve: Serve, leaks: LeakCheck
) -> None:
    a, b = await engines(serve, "a", "b")
    proxy = await started(stack, a, b, balance="round_robin", sticky=STICKY)
    a.head, b.head = (("Mcp-Session-Id", "s-a"),), (("Mcp-Session-Id", "s-b"),)
    await answers(proxy, 2)
    upstream = proxy.app.deployment.upstreams["pool"]
    upstream._roster.judge(upstream.endpoints[0], False, "by the test")
    assert await answers(proxy, 3, ("mcp-session-id", "s-a")) == {"b": 3}
