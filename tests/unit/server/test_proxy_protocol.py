"""Connections that begin with a PROXY header, under the whole engine."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from streamproxy.config import Address
from streamproxy.config.model import ServerTls
from streamproxy.server.engines import EngineSettings, UvicornEngine
from streamproxy.server.http2.limits import Http2Limits
from streamproxy.server.http2.protocol import http2_protocol
from streamproxy.server.sockets import bind, close, url_of
from streamproxy.server.tls import server_context
from tests.conftest import Connect
from tests.doubles.certificates import Certificate
from tests.doubles.http2 import FrameClient
from tests.doubles.leaks import LeakCheck
from tests.unit.server.harness import GET, Receive, Scope, Send, body_message, start_message

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 54321 443\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 1, 198, 51, 100, 2, 0xD4, 0x31, 0x01, 0xBB])
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
ELSEWHERE = (ipaddress.ip_network("10.0.0.0/8"),)

StartEngine = Callable[..., Awaitable[str]]


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start_message(200))
    await send(body_message(f"{scope['client'][0]} {scope['server'][1]} {scope['http_version']}".encode()))


@pytest.fixture
async def engine(leaks: LeakCheck) -> AsyncIterator[StartEngine]:
    """`url = await engine(networks)`: a server whose connections from there begin with a header."""
    async with AsyncExitStack() as exits:

        async def one(networks: Any, *, tls: ssl.SSLContext | None = None, **keys: Any) -> str:
            listener = bind(Address(host="127.0.0.1", port=0))
            settings = EngineSettings(
                max_header_size=65536, head_timeout=20.0, keepalive_timeout=20.0,
                max_connections=100, on_rejected=lambda status, reason: None, tls=tls,
                http2=http2_protocol(Http2Limits()), proxy_protocol=networks,
            )._replace(**keys)  # fmt: skip
            url = url_of(listener)
            made = UvicornEngine(whoami, [listener], settings, lifespan=False)
            await made.start()

            async def stop() -> None:
                made.drain()
                await made.stop()
                close(listener)

            exits.push_async_callback(stop)
            return url

        yield one


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_the_client_is_the_one_that_is_announced(
    header: bytes, cut: int, engine: StartEngine, dial: Connect
) -> None:
    client = await dial(await engine(LOOPBACK))
    data = header + GET
    for at in range(0, len(data), cut):
        await client.send(data[at : at + cut])
        await asyncio.sleep(0)
    assert (await client.read_response()).body == b"192.0.2.1 443 1.1"


async def test_the_balancers_own_connections_have_their_own_address(engine: StartEngine, dial: Connect) -> None:
    url = await engine(LOOPBACK)
    client = await dial(url)
    await client.send(LOCAL + GET)
    assert (await client.read_response()).body == b"127.0.0.1 %d 1.1" % (urlsplit(url).port or 0)


async def test_http2_comes_behind_a_header(engine: StartEngine, dial: Connect) -> None:
    client = await dial(await engine(LOOPBACK))
    await client.send(V2)
    frames = await FrameClient(client).open()
    assert bytes((await frames.response(await frames.request())).body) == b"192.0.2.1 443 2"
    await frames.aclose()


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_tls_begins_behind_the_header(protocol: str, engine: StartEngine, certificate: Certificate) -> None:
    """The header and the ClientHello in one segment: nothing of the second may be lost."""
    context = server_context(ServerTls(cert=str(certificate.cert), key=str(certificate.key)), True)
    url = await engine(LOOPBACK, tls=context)
    port = urlsplit(url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    trust = certificate.client_context()
    trust.set_alpn_protocols([protocol])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.wrap_bio(incoming, outgoing, server_hostname="localhost")

    async def step(call: Callable[[], Any]) -> Any:
        while True:
            try:
                found = call()
            except ssl.SSLWantReadError:
                found = None
            pending, header[0] = header[0] + outgoing.read(), b""
            if pending:
                writer.write(pending)
            if found is not None:
                return found
            incoming.write(await reader.read(65536))

    header = [V1]
    async with asyncio.timeout(20):
        await step(lambda: tls.do_handshake() or True)
        assert tls.selected_alpn_protocol() == protocol
        if protocol == "http/1.1":
            await step(lambda: tls.write(GET))
            body = b""
            while b"192.0.2.1" not in body:
                body += await step(lambda: tls.read(65536))
        else:
            assert (await step(lambda: tls.read(65536)))[3:4] == b"\x04"  # SETTINGS
    writer.transport.abort()


@pytest.mark.parametrize("begin", [GET, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PROXY TCP4 x\r\n", b""])
async def test_a_connection_without_a_header_is_closed(begin: bytes, engine: StartEngine, dial: Connect) -> None:
    client = await dial(await engine(LOOPBACK, head_timeout=0.2))
    if begin:
        await client.send(begin + b"\r\n" * 20)
    data, _ = await client.read_all()
    assert data == b""


async def test_the_log_says_once_why_connections_without_a_header_end(
    engine: StartEngine, dial: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    url = await engine(LOOPBACK)
    (await dial(url)).close()  # a health check
    for _ in range(3):
        client = await dial(url)
        await client.send(GET)
        await client.read_all()
    said = [record.getMessage() for record in caplog.records if record.name == "streamproxy.server"]
    assert said == ["closed a connection from 127.0.0.1, which is in server.proxy_protocol: no PROXY header"]


async def test_a_header_that_does_not_end_in_time_closes_the_connection(engine: StartEngine, dial: Connect) -> None:
    client = await dial(await engine(LOOPBACK, head_timeout=0.2))
    await client.send(V1[:20])
    data, _ = await client.read_all()
    assert data == b""


@pytest.mark.parametrize("header", [V1, V2])
async def test_nobody_else_may_announce_a_client(header: bytes, engine: StartEngine, dial: Connect) -> None:
    client = await dial(await engine(ELSEWHERE))
    await client.send(header + GET)
    assert (await client.read_response()).status == 400


async def test_others_are_served_without_a_header(engine: StartEngine, dial: Connect) -> None:
    client = await dial(await engine(ELSEWHERE))
    await client.send(GET)
    assert (await client.read_response()).body.startswith(b"127.0.0.1 ")


async def test_those_whose_header_goes_on_count_as_connections(engine: StartEngine, dial: Connect) -> None:
    url = await engine(LOOPBACK, max_connections=2)
    slow = [await dial(url), await dial(url)]
    for client in slow:
        await client.send(V1[:10])
    third = await dial(url)  # in the listen queue
    await third.send(V1 + GET)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await third.read_response()
    slow[0].close()
    assert (await third.read_response()).status == 200
