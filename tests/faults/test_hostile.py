"""Hostile upstreams over HTTP/2, and ends of a WebSocket that only send: an error each, at a bounded cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import hpack
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, PushPromiseFrame

from tests.conftest import Serve
from tests.doubles.client import connect, fetch
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response
from tests.faults.test_bounds import BOMB, MIB, bounded
from tests.integration.proxy import configuration, running
from tests.unit.client.http2.conftest import OK, Frames, speaking

HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
MASKED = b"\x82\xfe\x40\x00" + bytes(4 + 16_384)  # a message of 16 KiB from a client
PUSHED = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
PINGS = (b"\x89\x7d" + bytes(125)) * 100


async def bomb(up: Frames, stream: int) -> None:
    await up.send(HeadersFrame(stream, b"\x88" + BOMB[:16_000], flags=["END_HEADERS"]))


async def continuations(up: Frames, stream: int) -> None:
    await up.send(HeadersFrame(stream, b"\x88"), *([ContinuationFrame(stream, b"")] * 20_000))


async def early_hints(up: Frames, stream: int) -> None:
    for _ in range(20_000):
        await up.send(up.head(stream, [(b":status", b"103"), (b"link", b"x" * 1000)]))


async def hints_that_expand(up: Frames, stream: int) -> None:
    fields = [(b":status", b"103"), *[(b"x-b", b"x" * 3900)] * 15]  # a byte for each, once the first is known
    await up.send(*[up.head(stream, fields) for _ in range(3000)])


async def pushes_that_expand(up: Frames, stream: int) -> None:
    fields = [*PUSHED, *[(b"x-b", b"x" * 3900)] * 15]
    up.encoder.encode(fields)  # a byte for each, once the first is known
    block = up.encoder.encode(fields)
    first = PushPromiseFrame(stream, 2, hpack.Encoder().encode(fields), flags=["END_HEADERS"])
    await up.send(first, *[PushPromiseFrame(stream, 2 * n, block, flags=["END_HEADERS"]) for n in range(2, 900)])
    await a_body_without_a_head(up, stream)


async def a_body_without_a_head(up: Frames, stream: int) -> None:
    await up.send(DataFrame(stream, b"x"))


async def more_than_the_window(up: Frames, stream: int) -> None:
    await up.send(up.head(stream, OK), *([DataFrame(stream, bytes(16_384))] * 1000))


async def more_than_the_length(up: Frames, stream: int) -> None:
    fields = [*OK, (b"content-length", b"3")]
    await up.send(up.head(stream, fields), DataFrame(stream, b"abcd", flags=["END_STREAM"]))


async def data_behind_trailers(up: Frames, stream: int) -> None:
    await up.send(up.head(stream, OK), up.head(stream, [(b"x", b"y")]), DataFrame(stream, b"x"))


# What the client of each gets: a status of the proxy's, or 200 and a body that does not end.
HOSTILE: dict[Callable[[Frames, int], Awaitable[None]], int] = {
    bomb: 502, continuations: 502, early_hints: 502, hints_that_expand: 502, pushes_that_expand: 502,
    a_body_without_a_head: 502,
    more_than_the_window: 200, more_than_the_length: 200, data_behind_trailers: 200,
}  # fmt: skip


async def test_a_hostile_http2_upstream_is_an_error_of_its_own(serve: Serve, tmp_path: Path) -> None:
    def script(attack: Callable[[Frames, int], Awaitable[None]]) -> Callable[[Frames], Awaitable[None]]:
        async def answer(up: Frames) -> None:
            stream, _ = await up.request()
            await attack(up, stream)

        return answer

    ends = {attack.__name__: await serve(speaking(script(attack))) for attack in HOSTILE}
    good = await serve(answering(response(b"ok")))
    upstreams = {name: {"endpoints": [upstream.url], "http2": "on"} for name, upstream in ends.items()}
    routes = [*({"path": f"/{name}", "upstream": name} for name in ends), {"path": "/good", "upstream": good.url}]
    async with running(configuration(routes, upstreams=upstreams), tmp_path) as proxy:
        assert (await fetch(f"{proxy.url}/good")).body == b"ok"
        for attack, status in HOSTILE.items():
            async with bounded(proxy, 16 * MIB, attack.__name__):
                answer = await fetch(f"{proxy.url}/{attack.__name__}")
            assert (answer.status, answer.complete) == (status, status != 200), attack
        assert (await fetch(f"{proxy.url}/good")).body == b"ok"
        assert "Traceback" not in proxy.process.output


async def test_ends_of_a_websocket_that_only_send_are_timed_out_and_hold_their_buffers(
    serve: Serve, tmp_path: Path
) -> None:
    async def only_sends(conn: Conn) -> None:
        await conn.read_head()
        conn.transport.pause_reading()
        conn.write(ACCEPTED + PINGS * 1000)
        await conn.wait_ended()

    upstream = await serve(only_sends)
    route = {"path": "/*", "upstream": upstream.url, "timeouts": {"write": "1s"}}
    async with running(configuration([route]), tmp_path) as proxy, AsyncExitStack() as stack:
        async with bounded(proxy, 32 * MIB):
            for _ in range(20):
                client = await stack.enter_async_context(await connect(proxy.url, receive_buffer=4096))
                client.transport.pause_reading()
                client.write(HANDSHAKE + MASKED * 400)
            await until(
                lambda: proxy.process.output.count("connection_write_timeout"), "their time-outs",
                holds=lambda count: count == 20,
            )  # fmt: skip
        assert "Traceback" not in proxy.process.output
