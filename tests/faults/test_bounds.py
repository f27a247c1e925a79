"""Hostile peers in numbers, against the program: what they take is bounded, and a good client is served meanwhile."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from streamproxy.process.engine import ADMIN_CONNECTIONS
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import RawClient, accepts, connect, fetch
from tests.doubles.http2 import PREFACE, connect_h2
from tests.doubles.until import until
from tests.doubles.upstream import Conn, FullBacklog, answering, response, silent, stream_head
from tests.integration.proxy import RunningProxy, configuration, running

MIB = 1024 * 1024
LIMIT = "1s"  # every time-out


async def one_event(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.wait_ended()


async def endless(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head("application/octet-stream"))
    while True:
        await conn.send_chunk(bytes(65_536))


def slow_clients(url: str) -> dict[str, Callable[[], Awaitable[RawClient]]]:
    """Each is a way to keep a connection without end; its value makes such a connection."""

    def sending(data: bytes) -> Callable[[], Awaitable[RawClient]]:
        async def begin() -> RawClient:
            client = await connect(url)
            await client.send(data)
            return client

        return begin

    async def reads_nothing() -> RawClient:
        client = await connect(url, receive_buffer=4096)
        client.transport.pause_reading()
        await client.request("/endless")
        return client

    block = hpack.Encoder().encode(
        [(":method", "GET"), (":scheme", "http"), (":path", "/endless"), (":authority", "a")]
    )
    windows = SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}).serialize()
    head = HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
    return {
        "no byte": sending(b""),
        "half a head": sending(b"GET / HTTP/1.1\r\nHo"),
        "half a body": sending(b"POST /silent HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"),
        "half a chunk": sending(b"POST /silent HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"),
        "reads nothing": reads_nothing,
        "half a preface": sending(PREFACE[:10]),
        "half a frame": sending(PREFACE + SettingsFrame(0).serialize() + b"\0\0\7\1"),
        "half a block": sending(PREFACE + SettingsFrame(0).serialize() + HeadersFrame(1, block).serialize()),
        "a window of nothing": sending(PREFACE + windows + head),
        "an upstream that takes no connection": sending(b"GET /full HTTP/1.1\r\nHost: a\r\n\r\n"),
        "an upstream without a head": sending(b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n"),
        "an upstream that stops": sending(b"GET /stops HTTP/1.1\r\nHost: a\r\n\r\n"),
    }


async def test_whoever_is_slow_is_ended_in_time_and_the_others_are_served(serve: Serve, tmp_path: Path) -> None:
    good, mute, stops, much = [await serve(one) for one in (answering(response(b"ok")), silent, one_event, endless)]
    timeouts = dict.fromkeys(("connect", "request", "first_byte", "idle", "write"), LIMIT)
    server = {"head_timeout": LIMIT, "keepalive_timeout": LIMIT}
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(FullBacklog())
        ends = {"/silent": mute.url, "/stops": stops.url, "/endless": much.url, "/full": full.url}
        routes = [{"path": path, "upstream": url, "timeouts": timeouts} for path, url in ends.items()]
        config = configuration([*routes, {"path": "/*", "upstream": good.url}], server=server)
        proxy = await stack.enter_async_context(running(config, tmp_path))
        clients: dict[str, list[RawClient]] = {}
        for name, begin in slow_clients(proxy.url).items():
            clients[name] = [await stack.enter_async_context(await begin()) for _ in range(10)]
        answer = await fetch(proxy.url + "/good")
        assert (answer.status, answer.body) == (200, b"ok")
        await proxy.until_streams("the end of all streams", lambda live: live == [])
        for each in clients.values():
            for client in each:
                client.transport.resume_reading()

        def left() -> list[str]:
            return [name for name, each in clients.items() if any(client.ended is None for client in each)]

        await until(left, "the end of all connections", holds=lambda names: not names)
        assert (await fetch(proxy.url + "/good")).status == 200
        assert "Traceback" not in proxy.process.output


async def test_whoever_is_slow_in_a_tls_handshake_is_ended_in_time_and_the_others_are_served(
    serve: Serve, tmp_path: Path, certificate: Certificate
) -> None:
    async def no_byte(conn: Conn) -> None:
        await conn.wait_ended()

    good, mute = await serve(answering(response(b"ok"))), await serve(no_byte)
    server = {"head_timeout": LIMIT, "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}
    secret = {"path": "/tls", "upstream": mute.url.replace("http:", "https:"), "timeouts": {"connect": LIMIT}}
    config = configuration([secret, {"path": "/*", "upstream": good.url}], server=server)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(running(config, tmp_path))
        clients = []
        for begun in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):  # nothing, and a ClientHello that does not go on
            for _ in range(10):
                clients.append(await stack.enter_async_context(await connect(proxy.url)))
                await clients[-1].send(begun)
        tls = certificate.client_context()
        for target, status in (("/good", 200), ("/tls", 504)):
            async with await connect(proxy.url, tls=tls) as client:
                assert (await client.get(target)).status == status
        await until(lambda: [one for one in clients if one.ended is None], "all ends", holds=lambda left: not left)
        assert "Traceback" not in proxy.process.output


async def test_a_crowd_at_the_admin_listener_keeps_no_client_from_the_main_one(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"ok")))
    config = configuration(upstream.url, server={"head_timeout": "2s"})
    with descriptors_for(ADMIN_CONNECTIONS + 1000):
        await crowd_at_the_admin_listener(config, tmp_path)


async def crowd_at_the_admin_listener(config: dict[str, Any], folder: Path) -> None:
    async with running(config, folder) as proxy:
        before = descriptors(proxy)
        parts = urlsplit(proxy.admin)
        address = (parts.hostname or "", parts.port or 0)
        crowd = await asyncio.to_thread(lambda: [half_a_head(address) for _ in range(ADMIN_CONNECTIONS + 200)])
        try:
            assert (await fetch(proxy.url)).body == b"ok"
            assert descriptors(proxy) <= before + ADMIN_CONNECTIONS + 10
            # Each of the crowd is ended after the time for a head, and so there is room for who asks something.
            assert (await fetch(f"{proxy.admin}/healthz")).status == 200
        finally:
            for one in crowd:
                one.close()
        assert "Traceback" not in proxy.process.output


@asynccontextmanager
async def bounded(proxy: RunningProxy, most: int, what: str = "") -> AsyncIterator[None]:
    """What is done inside takes at most so many bytes of memory, at its worst."""
    before = proxy.process.memory("VmRSS")
    proxy.process.reset_peak()
    yield
    grown = proxy.process.memory("VmHWM") - before
    assert grown < most, f"{what}: {grown / MIB:.0f} MiB"


# A field of 4,000 bytes that is put into the peer's table, and then named by one byte each: 16 KiB that become 60 MiB.
BOMB = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 12_000


async def test_bombs_of_heads_are_refused_at_a_bounded_cost(serve: Serve, tmp_path: Path) -> None:
    large = b"HTTP/1.1 200 OK\r\n" + b"X: %b\r\n" % (b"x" * 8000) * 200

    async def bombing(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(large)
        await conn.wait_ended()

    upstream = await serve(bombing)
    async with running(configuration(upstream.url), tmp_path) as proxy, AsyncExitStack() as stack:
        assert (await fetch(proxy.url)).status == 502
        async with bounded(proxy, 32 * MIB):
            for _ in range(50):
                client = await stack.enter_async_context(await connect(proxy.url))
                client.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %b\r\n" % (b"x" * 8000) * 200)
                with_end = await client.read_response()
                assert with_end.status == 431
            for _ in range(50):
                client = await stack.enter_async_context(await connect(proxy.url))
                bomb = HeadersFrame(1, BOMB[:16_384], flags=["END_HEADERS", "END_STREAM"]).serialize()
                client.write(PREFACE + SettingsFrame(0).serialize() + bomb)
                await client.wait_ended()
            for _ in range(50):
                assert (await fetch(proxy.url)).status == 502
        assert "Traceback" not in proxy.process.output


def floods() -> dict[str, bytes]:
    """Frames that cost a client little and a careless server much, many of each."""
    block = hpack.Encoder().encode([(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")])

    def opened(stream: int, *flags: str) -> bytes:
        return HeadersFrame(stream, block, flags=flags).serialize()

    many = range(20_000)
    return {
        "rapid resets": b"".join(
            opened(n, "END_HEADERS") + RstStreamFrame(n, 8).serialize() for n in range(1, 10_001, 2)
        ),
        "continuations": opened(1) + ContinuationFrame(1, b"").serialize() * 20_000,
        "settings": SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1}).serialize() * 20_000,
        "pings": b"".join(PingFrame(0, number.to_bytes(8)).serialize() for number in many),
        "empty data": opened(1, "END_HEADERS") + DataFrame(1, b"").serialize() * 20_000,
        "padding": opened(1, "END_HEADERS") + DataFrame(1, b"", pad_length=255, flags=["PADDED"]).serialize() * 20_000,
        "windows": WindowUpdateFrame(0, window_increment=1).serialize() * 20_000,
        "priorities": PriorityFrame(1, depends_on=3).serialize() * 20_000,
        "frames of no known type": b"\0\0\1\xee\0\0\0\0\0x" * 20_000,
    }


async def test_floods_over_http2_end_their_connections(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"ok")))
    async with running(configuration(upstream.url), tmp_path) as proxy:
        assert (await fetch(proxy.url)).body == b"ok"
        for flood, frames in floods().items():
            async with bounded(proxy, 16 * MIB, flood), await connect(proxy.url) as client:
                client.transport.pause_reading()  # nor does it take what is answered
                client.write(PREFACE + SettingsFrame(0).serialize() + frames)
                assert (await fetch(proxy.url)).body == b"ok"
                client.transport.resume_reading()
                await client.wait_ended()
        assert (await fetch(proxy.url)).body == b"ok"
        assert "Traceback" not in proxy.process.output


async def test_hundreds_of_streams_without_a_window_hold_no_more_than_their_buffers(
    serve: Serve, tmp_path: Path
) -> None:
    upstream = await serve(endless)
    count = 250
    async with running(configuration(upstream.url), tmp_path) as proxy:
        async with aclosing(await connect_h2(proxy.url, window=0)) as client:
            await client.started(await client.request())  # what the first one costs is the process's
            for _ in range(20):
                await proxy.streams()
            async with bounded(proxy, count * 128 * 1024):
                streams = [await client.request() for _ in range(count)]
                for stream in streams:
                    await client.started(stream)
                for _ in range(20):
                    assert len(await proxy.streams()) == count + 1
            client.grant(0, 1 << 20)
            client.grant(streams[50], 1 << 20)
            await client.wait(lambda: len(client.streams[streams[50]].body) >= 1 << 20, "a MiB on one stream")
            assert not any(client.streams[stream].body for stream in streams if stream != streams[50])
        await proxy.until_streams("the end of all streams", lambda live: live == [])


def half_a_head(address: tuple[str, int]) -> socket.socket:
    """A connection that has begun a request."""
    client = socket.create_connection(address, 30)
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
    return client


@contextmanager
def descriptors_for(count: int) -> Iterator[None]:
    """Let this process open so many; the program does so by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count:
        pytest.skip(f"only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_ten_thousand_connections_are_held_and_one_more_waits(serve: Serve, tmp_path: Path) -> None:
    count = 10_000
    with descriptors_for(count + 1000):
        upstream = await serve(answering(response(b"ok")))
        await connections_are_held(configuration(upstream.url, server={"head_timeout": "10m"}), tmp_path, count)


async def connections_are_held(config: dict[str, Any], folder: Path, count: int) -> None:
    held: list[socket.socket] = []
    try:
        async with running(config, folder) as proxy:
            parts = urlsplit(proxy.url)
            address = (parts.hostname or "", parts.port or 0)
            async with bounded(proxy, count * 16 * 1024):
                held += await asyncio.to_thread(lambda: [half_a_head(address) for _ in range(count)])
                await until(lambda: descriptors(proxy), "all connections", holds=lambda number: number >= count)
            async with await connect(proxy.url) as late:
                await late.request("/")
                for _ in range(20):
                    await proxy.streams()  # whatever the proxy was going to accept is accepted after that
                assert (late.ended, bytes(late.buffer)) == (None, b"")
                held.pop().close()
                assert (await late.read_response()).body == b"ok"
            first = held[0]
            first.sendall(b"Connection: close\r\n\r\n")
            assert (await asyncio.to_thread(lambda: first.recv(1024))).startswith(b"HTTP/1.1 200 ")
            for one in held:
                one.close()
            await until(lambda: descriptors(proxy), "none of them", holds=lambda number: number < 100)
            assert await accepts(proxy.url)
    finally:
        for one in held:
            one.close()


def descriptors(proxy: RunningProxy) -> int:
    return sum(1 for _ in Path(f"/proc/{proxy.process.pid}/fd").iterdir())
