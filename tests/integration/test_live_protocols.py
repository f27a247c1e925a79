"""Reload and the end of the program while every protocol has something live: events over HTTP/1.1, over HTTP/2, over
HTTP/2 on both sides, and a WebSocket."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.http2 import FrameClient, Received, connect_h2
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, stream_head
from tests.doubles.websocket import CLIENT_CLOSE, HANDSHAKE, HELLO, SWITCH, UPSTREAM_CLOSE, WORLD
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import RunningProxy, configuration

RESTART = b"\x88\x02\x03\xf4"  # Close 1012


async def serving(conn: Conn) -> None:
    """A stream whose second event waits for the test, or a WebSocket of one answer."""
    head = await conn.read_head()
    if head.target == b"/chat":
        await conn.send(SWITCH % b"")
        assert await conn.read_exactly(len(HELLO)) == HELLO
        await conn.send(WORLD)
        if await conn.read_exactly(len(CLIENT_CLOSE)) == CLIENT_CLOSE:
            await conn.send(UPSTREAM_CLOSE)
        return
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.upstream.go.wait()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


@dataclass
class Live:
    """What runs: ``both`` is the stream that has HTTP/2 on both sides."""

    proxy: RunningProxy
    upstream: Upstream
    events: RawClient
    frames: FrameClient
    stream: Received
    both: Received
    socket: RawClient


@pytest.fixture
async def live(request: pytest.FixtureRequest, run_proxy: RunProxy, serve: Serve, dial: Connect) -> AsyncIterator[Live]:
    """In one process, or in as many as the parameter says."""
    upstream = await serve(serving)
    with reserved_port() as port:
        pass
    upstreams = {"self": {"endpoints": [f"http://127.0.0.1:{port}"], "http2": "on"}}
    routes = [
        {"path": "/again/*", "upstream": "self", "rewrite": {"strip_prefix": "/again"}, "keepalive": "off"},
        {"path": "/*", "upstream": upstream.url, "keepalive": "off"},  # a slow machine would see one
    ]
    server = {"listen": f"127.0.0.1:{port}", "drain_timeout": "20s", "workers": getattr(request, "param", 1)}
    proxy = await run_proxy(configuration(routes, server=server, upstreams=upstreams))
    async with clients(proxy, upstream, dial) as found:
        yield found


@asynccontextmanager
async def clients(proxy: RunningProxy, upstream: Upstream, dial: Connect) -> AsyncIterator[Live]:
    events, socket = await dial(proxy.url), await dial(proxy.url)
    await events.request("/events")
    await events.read_head()
    assert await events.read_body_until(b"\n\n") == b"data: 1\n\n"
    await socket.send(HANDSHAKE % b"")
    assert (await socket.read_raw_head()).status == 101
    await socket.send(HELLO)
    assert await socket.read_exactly(len(WORLD)) == WORLD
    frames = await connect_h2(proxy.url)
    streams = [frames.streams[await frames.request("GET", target)] for target in ("/events", "/again/events")]
    for stream in streams:
        await frames.wait(lambda stream=stream: b"1\n\n" in stream.body, "the first event")
    try:
        yield Live(proxy, upstream, events, frames, streams[0], streams[1], socket)
    finally:
        await frames.aclose()


async def end_in_order(live: Live) -> None:
    """Everything comes to its own end, and is whole."""
    live.upstream.go.set()
    rest = await live.events.read_rest()
    assert (rest.body, rest.complete) == (b"data: 2\n\n", True)
    for stream in (live.stream, live.both):
        await live.frames.wait(lambda stream=stream: stream.closed, "the end of a stream")
        assert (bytes(stream.body), stream.ended, stream.reset) == (b"data: 1\n\ndata: 2\n\n", True, None)
    await live.socket.send(CLIENT_CLOSE)
    assert await live.socket.read_exactly(len(UPSTREAM_CLOSE)) == UPSTREAM_CLOSE


@pytest.mark.parametrize("live", [1, 2], indirect=True, ids=["one process", "two workers"])
async def test_a_reload_leaves_what_is_live_alone(live: Live) -> None:
    text = live.proxy.file.read_text()
    live.proxy.file.write_text(text.replace('"/again/*"', '"/other/*"'))
    live.proxy.process.signal(signal.SIGHUP)
    await live.proxy.until_reloaded(1)
    assert len(await live.proxy.streams()) == 5
    await end_in_order(live)
    await until(live.proxy.streams, "everything to end", holds=lambda streams: not streams)


@pytest.mark.parametrize("live", [1, 2], indirect=True, ids=["one process", "two workers"])
async def test_a_stop_lets_what_is_live_end_in_order(live: Live) -> None:
    live.proxy.process.signal(signal.SIGTERM)
    assert (await live.frames.goaway()).error_code == 0
    await end_in_order(live)
    assert await live.proxy.process.exited() == 0


@pytest.mark.parametrize("live", [1, 2], indirect=True, ids=["one process", "two workers"])
async def test_a_successor_lets_what_is_live_end_in_order(live: Live, dial: Connect) -> None:
    command = [sys.executable, "-m", "streamproxy", "run", "-c", str(live.proxy.file), "--takeover"]
    with Process(command) as successor:
        await successor.line("^admin on")
        await live.frames.goaway()
        live.upstream.go.set()
        async with clients(live.proxy, live.upstream, dial) as newcomers:
            await end_in_order(live)
            await live.events.aclose()  # an idle connection may ask once more, and is waited for
            await live.frames.aclose()
            assert await live.proxy.process.exited() == 0
            await end_in_order(newcomers)
        assert await successor.stop() == 0


async def test_a_second_signal_ends_what_is_live_at_once_and_nothing_looks_finished(live: Live) -> None:
    live.proxy.process.signal(signal.SIGTERM)
    await live.frames.goaway()
    live.proxy.process.signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert not (await live.events.read_rest()).complete
        for stream in (live.stream, live.both):
            await live.frames.wait(lambda stream=stream: stream.closed, "the end of a stream")
            assert (stream.ended, stream.reset) == (False, 2)
        assert await live.socket.read_exactly(len(RESTART)) == RESTART
        assert await live.proxy.process.exited() == 0
