"""``mirror``: another upstream is sent a copy of requests, and nothing that it does reaches the client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.stack import Config, RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, streaming

GOOD = response(b"good")
BODY = b"x" * 100_000


def mirrored(**keys: Any) -> Config:
    return route("main", **({"name": "r", "mirror": {"upstream": "shadow"}} | keys))


def upstreams(main: str, shadow: str) -> Config:
    return {"main": {"endpoints": [main]}, "shadow": {"endpoints": [shadow]}}


async def ended(proxy: RunningStack, name: str) -> Any:
    """The first exchange of this route that ended."""
    await until(lambda: any(exchange.route == name for exchange in proxy.ended))
    return next(exchange for exchange in proxy.ended if exchange.route == name)


def recording(bodies: list[bytes], answer: bytes = GOOD) -> Script:
    async def script(conn: Conn) -> None:
        _, body = await conn.read_request()
        bodies.append(body)
        await conn.send(answer)

    return script


async def test_the_copy_has_the_head_and_the_body(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bodies: list[bytes] = []
    main, shadow = await serve(recording([])), await serve(recording(bodies, response(b"other")))
    proxy = await stack([mirrored()], upstreams=upstreams(main.url, shadow.url))
    client = await dial(proxy.url)
    await client.request("/a?b=c", method="POST", body=BODY, headers=[("X-Tenant", "t")])
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"good")
    head = await shadow.request()
    assert (head.method, head.target, head.get("x-tenant")) == (b"POST", b"/a?b=c", b"t")
    copy = await ended(proxy, "r~mirror")
    assert bodies == [BODY]
    assert (copy.upstream, copy.status, copy.end, copy.request_bytes) == ("shadow", 200, "complete", len(BODY))
    assert copy.request_id == main.requests[0].get("x-request-id").decode()  # type: ignore[union-attr]
    assert proxy.metric("streamproxy_requests_total", route="r~mirror", code="200") == 1
    assert (await ended(proxy, "r")).upstream == "main"


async def silent(conn: Conn) -> None:
    """Take a connection and say nothing, ever."""
    await conn.wait_ended()


async def deaf(conn: Conn) -> None:
    """Take a connection and no byte."""
    conn.stop_reading()
    await conn.stall()


async def broken(conn: Conn) -> None:
    """Close at once."""


@pytest.mark.parametrize("script", [silent, broken, answering(response(b"no", status="500 No")), None])
async def test_a_mirror_that_fails_changes_nothing(
    stack: StartStack, serve: Serve, dial: Connect, script: Script | None
) -> None:
    main, shadow = await serve(streaming(b"data: 1\n\n", b"data: 2\n\n")), await serve(script or broken)
    if script is None:
        shadow.stop_listening()
    proxy = await stack(
        [mirrored(timeouts={"first_byte": "1s", "idle": "1s", "request": "1s", "write": "1s"})],
        upstreams=upstreams(main.url, shadow.url),
    )
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x")
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"data: 1\n\ndata: 2\n\n")
    assert (await ended(proxy, "r")).end == "complete"
    await ended(proxy, "r~mirror")


async def test_so_many_percent_are_copied_evenly(stack: StartStack, serve: Serve) -> None:
    main, shadow = await serve(answering(*[GOOD] * 8)), await serve(answering(*[GOOD] * 8))
    proxy = await stack(
        [mirrored(mirror={"upstream": "shadow", "percent": 25})], upstreams=upstreams(main.url, shadow.url)
    )
    for _ in range(8):
        assert (await fetch(proxy.url)).status == 200
    await until(lambda: len(proxy.ended) == 10)
    assert [exchange.route for exchange in proxy.ended].count("r~mirror") == 2
    assert len(shadow.requests) == 2


async def test_a_body_that_the_mirror_does_not_take_is_given_up(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bodies: list[bytes] = []
    main, shadow = await serve(recording(bodies)), await serve(deaf)
    proxy = await stack([mirrored(retry={"buffer": "64KiB"})], upstreams=upstreams(main.url, shadow.url))
    client = await dial(proxy.url)
    large = b"y" * 20_000_000
    await client.request("/", method="POST", body=large)
    assert (await client.read_response()).status == 200
    assert bodies == [large]
    copy = await ended(proxy, "r~mirror")
    assert (copy.end, copy.error.error) == ("rejected", "http_request_error")
    assert copy.request_bytes < len(large)


async def test_a_client_that_leaves_in_its_body_ends_the_copy(stack: StartStack, serve: Serve, dial: Connect) -> None:
    main, shadow = await serve(silent), await serve(silent)
    proxy = await stack([mirrored()], upstreams=upstreams(main.url, shadow.url))
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    await until(lambda: len(proxy.app.ledger.live) == 2)
    client.close()
    assert (await ended(proxy, "r")).end == "client_disconnect"
    assert (await ended(proxy, "r~mirror")).end == "client_disconnect"


async def test_a_slow_mirror_goes_on_when_the_client_has_its_answer(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    go = asyncio.Event()

    async def slow(conn: Conn) -> None:
        await conn.read_request()
        await go.wait()
        await conn.send(GOOD)

    main, shadow = await serve(answering(GOOD)), await serve(slow)
    proxy = await stack([mirrored()], upstreams=upstreams(main.url, shadow.url))
    assert (await fetch(proxy.url)).status == 200
    await ended(proxy, "r")
    go.set()
    assert (await ended(proxy, "r~mirror")).end == "complete"
