"""``timeouts.available``: while no endpoint takes requests, they wait, and go out in order when one is there again."""

from __future__ import annotations

from typing import Any

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import Config, RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import answering, response, stream_head

GOOD = response(b"good")
COMMENT = b": keepalive\n\n"


def patient(upstream: str, available: str = "20s", **keys: Any) -> Config:
    return route(upstream, timeouts={"available": available}, **keys)


def lines(proxy: RunningStack, leaks: LeakCheck) -> Any:
    """How many wait. After the test nobody may."""
    (only,) = proxy.app.deployment.routes

    def waiting() -> int:
        return len(origin.line)

    handler: Any = only.handler
    origin: Any = handler.__self__._plan.origin
    leaks.gauge("waiting", lambda: [n for n in (waiting(), len(origin.line._upstream._roster.watchers)) if n])
    return waiting


async def asking(dial: Connect, proxy: RunningStack, target: str, **keys: Any) -> RawClient:
    client = await dial(proxy.url)
    await client.request(target, **keys)
    return client


async def test_a_request_waits_for_an_endpoint_that_listens_again(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(answering(GOOD))
    upstream.stop_listening()
    proxy = await stack([patient(upstream.url)])
    waiting = lines(proxy, leaks)
    client = await asking(dial, proxy, "/", method="POST", body=b"x" * 1000)
    await until(lambda: waiting() == 1)
    await upstream.start()
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"good")
    assert (await proxy.end_of()).request_bytes == 1000
    assert waiting() == 0


async def test_requests_go_out_in_the_order_in_which_they_came(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(answering(GOOD))
    upstream.stop_listening()
    proxy = await stack([patient(upstream.url)])
    waiting = lines(proxy, leaks)
    clients = []
    for number in range(5):
        clients.append(await asking(dial, proxy, f"/{number}"))
        await until(lambda: waiting() == len(clients))
    await upstream.start()
    for client in clients:
        assert (await client.read_response()).status == 200
    assert sorted(head.target for head in upstream.requests) == [b"/%d" % number for number in range(5)]
    assert upstream.requests[0].target == b"/0"


async def test_a_slow_answer_holds_up_nobody_in_line(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    async def slow(conn: Any) -> None:
        head, _ = await conn.read_request()
        if head.target == b"/first":
            await conn.wait_ended()
        await conn.send(GOOD)

    upstream = await serve(slow)
    upstream.stop_listening()
    proxy = await stack([patient(upstream.url)])
    waiting = lines(proxy, leaks)
    first = await asking(dial, proxy, "/first")
    await until(lambda: waiting() == 1)
    second = await asking(dial, proxy, "/second")
    await until(lambda: waiting() == 2)
    await upstream.start()
    assert (await second.read_response()).status == 200
    first.close()
    await proxy.end_of(1)


async def test_when_the_time_is_over_it_is_503(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(answering(GOOD))
    upstream.stop_listening()
    proxy = await stack([patient(upstream.url, "50ms")])
    waiting = lines(proxy, leaks)
    client = await asking(dial, proxy, "/")
    answer = await client.read_response()
    assert answer.status == 503
    assert answer.get("proxy-status") == b"streamproxy; error=destination_unavailable"
    assert waiting() == 0


async def test_a_client_that_leaves_is_gone_at_once_and_the_next_is_first(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    upstream = await serve(answering(GOOD))
    upstream.stop_listening()
    proxy = await stack([patient(upstream.url)])
    waiting = lines(proxy, leaks)
    first = await asking(dial, proxy, "/first")
    await until(lambda: waiting() == 1)
    second = await asking(dial, proxy, "/second")
    await until(lambda: waiting() == 2)
    first.close()
    await until(lambda: waiting() == 1)
    assert (await proxy.end_of()).end == "client_disconnect"
    await upstream.start()
    assert (await second.read_response()).status == 200
    assert [head.target for head in upstream.requests] == [b"/second"]


async def test_a_probe_that_finds_an_endpoint_healthy_ends_the_wait(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    loading = True

    async def engine(conn: Any) -> None:
        while True:
            head, _ = await conn.read_request()
            bad = loading and head.target == b"/health"
            await conn.send(response(b"no", status="503 Loading") if bad else GOOD)

    upstream = await serve(engine)
    health = {"path": "/health", "interval": "50ms", "unhealthy_after": 1, "healthy_after": 1}
    upstreams = {"main": {"endpoints": [upstream.url], "health": health}}
    proxy = await stack([patient("main")], upstreams=upstreams)
    waiting = lines(proxy, leaks)
    await until(lambda: not proxy.app.deployment.upstreams["main"].endpoints[0].up)
    client = await asking(dial, proxy, "/")
    await until(lambda: waiting() == 1)
    loading = False
    assert (await client.read_response()).status == 200


async def test_comments_go_out_meanwhile(stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck) -> None:
    async def stream(conn: Any) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.send_chunk(b"")

    upstream = await serve(stream)
    upstream.stop_listening()
    keepalive = {"interval": "50ms", "before_headers": "50ms"}
    proxy = await stack([patient(upstream.url, keepalive=keepalive)])
    lines(proxy, leaks)
    client = await asking(dial, proxy, "/", headers=[("Accept", "text/event-stream")])
    assert (await client.read_head()).status == 200
    await client.read_body_until(COMMENT * 2)
    await upstream.start()
    answer = await client.read_rest()
    assert answer.complete
    assert answer.body.replace(COMMENT, b"") == b"data: 1\n\n"


async def test_a_fallback_answers_before_anybody_waits(
    stack: StartStack, serve: Serve, dial: Connect, leaks: LeakCheck
) -> None:
    dead, good = await serve(answering(GOOD)), await serve(answering(response(b"spare")))
    dead.stop_listening()
    upstreams = {"main": {"endpoints": [dead.url]}, "spare": {"endpoints": [good.url]}}
    proxy = await stack([patient("main", fallback=["spare"])], upstreams=upstreams)
    lines(proxy, leaks)
    client = await asking(dial, proxy, "/")
    assert (await client.read_response()).body == b"spare"
