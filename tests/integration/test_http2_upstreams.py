"""HTTP/2 to upstreams, through the whole proxy: streams, ends, and who is to blame."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hyperframe.frame import DataFrame, RstStreamFrame

from tests.conftest import Connect, Serve
from tests.doubles.http2 import Received, connect_h2
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import Conn, response
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import configuration
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


NODE = """
const server = require("http2").createServer();
server.on("stream", (stream, head) => {
  if (head[":path"] == "/cancelled") {
    stream.respond({":status": 200, "content-type": "text/event-stream"});
    stream.write("data: 1\\n\\n");
    stream.on("error", () => {});
    stream.on("close", () => console.log("closed", stream.rstCode));
    return;
  }
  stream.additionalHeaders({":status": 103, "link": "</a>; rel=preload"});
  stream.respond({":status": 200, "x-method": head[":method"]}, {waitForTrailers: true});
  stream.on("wantTrailers", () => stream.sendTrailers({"x-sum": "1"}));
  stream.pipe(stream);
});
server.listen(0, "127.0.0.1", () => console.log("listening on", server.address().port));
"""


async def test_node_is_an_upstream_of_http2(run_proxy: RunProxy, part: Callable[[str], str]) -> None:
    with Process([part("node"), "-e", NODE]) as node:
        port = (await node.line(r"^listening on (\d+)"))[1]
        upstreams = {"node": {"endpoints": [f"http://127.0.0.1:{port}"], "http2": "on"}}
        proxy = await run_proxy(configuration([{"path": "/*", "upstream": "node"}], upstreams=upstreams))
        client = await connect_h2(proxy.url)
        body = bytes(range(256)) * 240  # as much as a stream may send before a window opens
        streams = [await client.request("POST", "/echo", [("te", "trailers")], body=body) for _ in range(20)]
        for stream in streams:
            answer = await client.response(stream)
            assert [head[0] for head in answer.interim] == [(b":status", b"103")]
            assert (answer.get("x-method"), bytes(answer.body)) == (b"POST", body)
            assert answer.trailers == [(b"x-sum", b"1")]
        cancelled = await client.request("GET", "/cancelled")
        await client.wait(lambda: bool(client.streams[cancelled].body), "the first event")
        client.reset(cancelled)
        await node.line("^closed 8")
        await client.aclose()


_REFUSED = (
    *("authorization", "content-type", "x-forwarded-for", "forwarded", "x-real-ip", "x-request-id"),
    *("x-user", "x-set", "x-up-gone", "x-up-set"),  # by the rules of the route and of the upstream
)
_BEHIND = [(b"x-sum", b"1"), *[(name.encode(), b"no") for name in _REFUSED]]


async def _upload(url: str, fields: list[tuple[bytes, bytes]]) -> Received:
    """A body with fields behind it, over HTTP/2."""
    client = await connect_h2(url)
    stream = await client.request("POST", "/", end=False)
    client.data(stream, b"body")
    client.send(*client.head(fields, stream=stream))
    try:
        return await client.response(stream)
    finally:
        await client.aclose()


async def test_the_trailers_of_a_request_pass_but_for_those_that_must_not(leaks: LeakCheck, serve: Serve) -> None:
    seen: list[Any] = []

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        body = await up.next(DataFrame, stream)
        seen.extend((body.data, (await up.request())[1]))
        await up.answer(stream, b"ok")

    upstream = await serve(speaking(script))
    its_own = {"remove": ["X-Up-Gone"], "set": {"X-Up-Set": "ours"}}
    upstreams = {"up": {"endpoints": [upstream.url], "http2": "on", "request_headers": its_own}}
    edits = {"remove": ["X-User"], "set": {"X-Set": "ours"}}
    routes = [{"path": "/*", "upstream": "up", "request_headers": edits}]
    async with running_stack(routes, client_kind="h2", server_kind="http2", leaks=leaks, upstreams=upstreams) as proxy:
        assert bytes((await _upload(proxy.url.replace("h2c:", "http:"), _BEHIND)).body) == b"ok"
    assert seen == [b"body", [(b"x-sum", b"1")]]


async def test_the_trailers_of_a_request_are_dropped_for_an_upstream_of_http1(leaks: LeakCheck, serve: Serve) -> None:
    seen: list[bytes] = []

    async def script(conn: Conn) -> None:
        await conn.read_head()
        seen.append(await conn.read_until(b"0\r\n\r\n"))
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    async with running_stack(upstream.url, client_kind="native", server_kind="http2", leaks=leaks) as proxy:
        assert bytes((await _upload(proxy.url.replace("h2c:", "http:"), _BEHIND)).body) == b"ok"
    assert seen == [b"4\r\nbody\r\n0\r\n\r\n"]


@pytest.mark.parametrize(
    ("announced", "behind", "whole"),
    [(None, b"4", True), (None, b"5", False), (None, b"x", False), (b"4", b"4", False), (b"4", b"5", False)],
)
async def test_a_length_behind_a_body_is_dropped_or_breaks_its_stream_alone(
    leaks: LeakCheck, serve: Serve, announced: bytes | None, behind: bytes, whole: bool
) -> None:
    """No sender may put it there (RFC 9110 section 6.5.1), and the library holds the body to each one (RFC 9113
    section 8.1.1): one that is right is dropped like any other field of its kind."""

    async def script(up: Frames) -> None:
        stream, _ = await up.request()
        fields = [(b"content-length", announced)] if announced is not None else []
        await up.send(up.head(stream, [*OK, *fields]), DataFrame(stream, b"body"))
        await up.send(up.head(stream, [(b"content-length", behind), (b"x-sum", b"1")], end=True))
        again, _ = await up.request()
        await up.answer(again, b"ok")

    upstream = await serve(speaking(script))
    upstreams = {"up": {"endpoints": [upstream.url], "http2": "on"}}
    routes = [{"path": "/*", "upstream": "up"}]
    async with running_stack(routes, client_kind="h2", server_kind="http2", leaks=leaks, upstreams=upstreams) as proxy:
        client = await connect_h2(proxy.url.replace("h2c:", "http:"))
        answer = await client.response(await client.request(headers=[("te", "trailers")]))
        assert (answer.status, answer.complete) == (200, whole)
        assert answer.trailers == ([(b"x-sum", b"1")] if whole else None)
        assert bytes((await client.response(await client.request())).body) == b"ok"
        await client.aclose()
    assert len(upstream.connections) == 1
