"""101 (Switching Protocols), and the bytes behind it."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy.errors import BadResponse
from streamproxy.exchange.stream import ByteStream, Callbacks
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, answering, response
from tests.unit.client.http1.asking import ask, fetch, until
from tests.unit.client.http1.conftest import MakeClient

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"


class Ears:
    """Hears a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self.got = b""
        self.heard: list[str] = []
        stream.start(Callbacks(self.data, lambda: self.heard.append("eof"), lambda: self.heard.append("lost")))
        assert (self.got, self.heard) == (b"", [])

    def data(self, data: bytes) -> None:
        self.got += data


async def echo(conn: Conn) -> None:
    await conn.read_head()
    await conn.send(SWITCH + b"first ")
    while True:
        await conn.send(await conn.read_some())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_bytes_pass_in_both_directions_and_those_behind_the_head_come_first(
    secure: bool, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    upstream = await serve(echo, tls=certificate.server_context() if secure else None)
    client = native(upstream, tls=certificate.client_context() if secure else None)
    async with guarded("the echo"), ask(client, upgrade=True) as answer:
        assert (answer.status_code, answer.complete) == (101, True)
        assert (b"upgrade", b"x") in answer.headers.raw
        stream = answer.detach()
        with pytest.raises(RuntimeError):
            answer.detach()
        ears = Ears(stream)
        assert stream.write(b"hello")
        await until(lambda: ears.got == b"first hello")
        assert ears.heard == []
    await until(lambda: ears.heard[-1:] == ["lost"])
    assert (client.idle, client.active) == (0, 0)


async def test_either_side_may_end_its_direction_first(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(SWITCH)
        await conn.wait_ended()
        await conn.send(b"still here")

    client = native(await serve(script))
    async with guarded("the end"), ask(client, upgrade=True) as answer:
        stream = answer.detach()
        ears = Ears(stream)
        stream.write_eof()
        await until(lambda: ears.heard == ["eof", "lost"])
        assert ears.got == b"still here"
        assert stream.write(b"nobody")
        await stream.drained()


async def test_reading_can_be_paused_and_writing_waits(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        conn.transport.pause_reading()
        await conn.send(SWITCH + b"a")
        await conn.stall()
        conn.transport.resume_reading()
        await conn.read_exactly(8 << 20)
        await conn.send(b"b")
        await conn.wait_ended()

    upstream = await serve(script)
    async with guarded("the bytes"), ask(native(upstream), upgrade=True) as answer:
        stream = answer.detach()
        ears = Ears(stream)
        stream.set_write_limit(65536)
        await until(lambda: ears.got == b"a")
        size = 0
        while stream.write(b"x" * 65536):
            size += 65536
        size += 65536
        draining = asyncio.ensure_future(stream.drained())
        await asyncio.sleep(0)
        assert not draining.done()
        upstream.connections[0].go.set()
        await draining
        stream.pause()
        stream.write(b"x" * ((8 << 20) - size))
        await until(lambda: upstream.connections[0].received > 8 << 20)
        assert ears.got == b"a"
        stream.resume()
        await until(lambda: ears.got == b"ab")


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_the_loss_of_a_stream_is_told_once(how: str, serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(SWITCH)
        await conn.stall()
        conn.reset()

    upstream = await serve(script)
    async with guarded("the loss"), ask(native(upstream), upgrade=True) as answer:
        stream = answer.detach()
        ears = Ears(stream)
        await asyncio.sleep(0)
        if how == "reset":
            upstream.connections[0].go.set()
        else:
            stream.close()
            upstream.connections[0].go.set()
        await until(lambda: "lost" in ears.heard)
        stream.abort()
        await asyncio.sleep(0)
        assert ears.heard.count("lost") == 1


async def test_a_101_that_is_left_alone_costs_its_connection(serve: Serve, native: MakeClient) -> None:
    upstream = await serve([echo, answering(response(b"next"))])
    client = native(upstream)
    async with ask(client, upgrade=True) as answer:
        assert answer.status_code == 101
    assert (client.idle, client.active) == (0, 0)
    assert (await fetch(client)).body == b"next"
    with pytest.raises(RuntimeError):
        answer.detach()


async def test_an_upgrade_may_be_refused(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"no", status="403 Forbidden"))))
    async with ask(client, upgrade=True) as answer:
        assert answer.status_code == 403
        with pytest.raises(RuntimeError):
            answer.detach()
    assert client.idle == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
        SWITCH.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
    ],
)
async def test_a_101_that_names_no_protocol_is_refused(head: bytes, serve: Serve, native: MakeClient) -> None:
    with pytest.raises(BadResponse):
        await fetch(native(await serve(answering(head))), upgrade=True)
