"""HTTP/2 to upstreams, through the whole proxy: streams, ends, and who is to blame."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hyperframe.frame import DataFrame, RstStreamFrame

from tests.conftest import Connect, Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.unit.client.http2.conftest import OK, Frames, speaking

_EVENTS = [*OK, (b"content-type", b"text/event-stream")]

Start = Callable[..., Awaitable[RunningStack]]


@pytest.fixture(params=["uvicorn", "http2"])
async def start(request: pytest.FixtureRequest, leaks: LeakCheck) -> AsyncIterator[Start]:
    """`proxy = await start(upstream.url)`, with HTTP/2 to that upstream."""
    async with AsyncExitStack() as exits:

        async def begin(*urls: str, outlier: dict[str, Any] | None = None, **keys: Any) -> RunningStack:
            upstream = {"endpoints": list(urls), "http2": "on", "client": "auto", "outlier": outlier or {}}
            stack = running_stack(
                [{"path": "/*", "upstream": "two", **keys}],
                client_kind="auto", server_kind=request.param, leaks=leaks, upstreams={"two": upstream},
            )  # fmt: skip
            return await exits.enter_async_context(stack)

        yield begin


async def test_each_event_passes_when_it_comes(start: Start, serve: Serve, dial: Connect) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, _EVENTS))
        for number in range(3):
            await up.send(DataFrame(stream, b"data: %d\n\n" % number))
            await up.conn.stall()
            up.conn.go.clear()
        await up.send(DataFrame(stream, b"", flags=["END_STREAM"]))

    upstream = await serve(speaking(script))
    proxy = await start(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    assert (await client.read_head()).status == 200
    for number in range(3):
        assert (await client.read_body_until(b"\n\n")).endswith(b"data: %d\n\n" % number)
        upstream.connections[0].go.set()
    assert (await client.read_rest()).complete
    assert (await proxy.end_of()).end == "complete"


async def test_a_client_that_leaves_has_its_stream_reset(start: Start, serve: Serve, dial: Connect) -> None:
    reset_at: list[float] = []

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, _EVENTS), DataFrame(stream, b"data: 1\n\n"))
        reset = await up.next(RstStreamFrame, stream)
        assert reset.error_code == 8
        reset_at.append(time.monotonic())
        again, _ = await up.request()
        await up.answer(again, b"ok")

    upstream = await serve(speaking(script))
    proxy = await start(upstream.url)
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    left_at = time.monotonic()
    await client.aclose()
    await until(lambda: bool(reset_at), "the stream to be reset")
    assert reset_at[0] - left_at < 1.0
    assert (await proxy.end_of()).end == "client_disconnect"
    other = await dial(proxy.url)
    assert (await other.get("/")).body == b"ok"
    assert len(upstream.connections) == 1


async def test_an_unfinished_response_does_not_look_finished(start: Start, serve: Serve, dial: Connect) -> None:
    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, OK), DataFrame(stream, b"half"), RstStreamFrame(stream, error_code=2))

    upstream = await serve(speaking(script))
    proxy = await start(upstream.url, retry={"attempts": 1})
    client = await dial(proxy.url)
    await client.request("/")
    assert (await client.read_head()).status == 200
    assert not (await client.read_rest()).complete
    assert (await proxy.end_of()).end == "upstream_truncated"


async def test_a_stream_that_we_cancel_is_no_fault_of_the_upstream(start: Start, serve: Serve, dial: Connect) -> None:
    asked: list[int] = []
    cancelled: list[int] = []

    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            asked.append(stream)
            if len(cancelled) % 2:
                await up.send(up.head(stream, _EVENTS))
            cancelled.append((await up.next(RstStreamFrame, stream)).error_code)

    upstreams = [await serve(speaking(script)) for _ in range(2)]
    proxy = await start(*(upstream.url for upstream in upstreams), outlier={"consecutive_failures": 1})
    for number in range(6):  # before the head, and behind it
        client = await dial(proxy.url)
        await client.request("/")
        await until(lambda number=number: len(asked) == number + 1, "the request to arrive")  # type: ignore[misc]
        await client.aclose()
        await until(lambda number=number: len(cancelled) == number + 1, "the stream to be cancelled")  # type: ignore[misc]
    assert set(cancelled) == {8}
    assert [end.end for end in proxy.ended] == ["client_disconnect"] * 6
    endpoints = proxy.app.deployment.upstreams["two"].endpoints
    assert [endpoint.up for endpoint in endpoints] == [True, True]


async def test_an_upstream_that_asks_for_calm_is_not_ejected(start: Start, serve: Serve, dial: Connect) -> None:
    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            await up.send(RstStreamFrame(stream, error_code=0xB))

    upstreams = [await serve(speaking(script)) for _ in range(2)]
    proxy = await start(*(upstream.url for upstream in upstreams), retry={"attempts": 1})
    client = await dial(proxy.url)
    for _ in range(16):
        assert (await client.get("/")).status == 503
    endpoints = proxy.app.deployment.upstreams["two"].endpoints
    assert [endpoint.up for endpoint in endpoints] == [True, True]
