"""Which protocol a connection speaks, over TLS and in clear text."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar

import pytest

from streamproxy.config import Address
from streamproxy.config.model import ServerTls
from streamproxy.server.alpn import is_preface
from streamproxy.server.engines import EngineSettings, UvicornEngine
from streamproxy.server.sockets import bind
from streamproxy.server.tls import server_context
from streamproxy.wire.http2.frames import PREFACE
from tests.conftest import Connect
from tests.doubles.certificates import Certificate
from tests.unit.server.conftest import Start
from tests.unit.server.harness import FakeTransport, Receive, Scope, Send, hello, wired

REQUESTS = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n"]


class Other:
    """A protocol that is not HTTP/1.1: keeps what it reads."""

    made: ClassVar[list[Other]] = []

    def __init__(self, config: Any, server_state: Any, app_state: Any) -> None:
        self.data = b""
        self.lost = False
        self.stopping = False
        self._connections = server_state.connections
        Other.made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.transport.write(b"other")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._connections.discard(self)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def shutdown(self, patience: float = 0.0) -> None:
        self.transport.close()


class SwitchableTransport(FakeTransport):
    protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


@pytest.fixture(autouse=True)
def made() -> list[Other]:
    Other.made.clear()
    return Other.made


def test_a_preface_is_known_as_soon_as_it_can_be() -> None:
    for size in range(len(PREFACE)):
        assert is_preface(PREFACE[:size]) is None
    assert is_preface(PREFACE) is True
    assert is_preface(PREFACE + b"\0\0\0\4") is True
    assert is_preface(b"POST") is False
    assert is_preface(b"PRI / ") is False


@pytest.mark.parametrize("at", range(1, len(PREFACE) + 3))
async def test_a_preface_in_any_pieces_is_http2s(made: list[Other], at: int) -> None:
    protocol, _ = wired(hello, http2=Other)
    transport = protocol.transport = SwitchableTransport()  # type: ignore[assignment]  # a list of bytes
    protocol.data_received((PREFACE + b"frames")[:at])
    reader = transport.protocol or protocol
    reader.data_received((PREFACE + b"frames")[at:])
    assert [other.data for other in made] == [PREFACE + b"frames"]
    assert transport.protocol is made[0]
    assert transport.data == b"other" * (2 if at >= len(PREFACE) else 1)
    assert protocol not in protocol._connections
    assert made[0] in protocol._connections


@pytest.mark.parametrize("raw", REQUESTS)
async def test_what_only_begins_like_a_preface_is_a_request(
    start: Start, dial: Connect, made: list[Other], raw: bytes
) -> None:
    server = await start(hello, http2=Other)
    client = await dial(server.url)
    for at in range(6):
        await client.send(raw[at : at + 1])
        await asyncio.sleep(0)
    await client.send(raw[6:])
    assert (await client.read_response()).body == b"/ "
    assert not made


async def test_only_the_first_bytes_of_a_connection_are_a_preface(
    start: Start, dial: Connect, made: list[Other]
) -> None:
    server = await start(hello, http2=Other)
    client = await dial(server.url)
    await client.send(REQUESTS[0])
    assert (await client.read_response()).status == 200
    await client.send(PREFACE)
    assert (await client.read_response()).status == 400
    assert not made


async def test_a_begun_preface_has_the_time_of_a_head(start: Start, dial: Connect) -> None:
    server = await start(hello, http2=Other, head_timeout=0.05)
    client = await dial(server.url)
    await client.send(PREFACE[:10])
    assert (await client.read_response()).status == 408


async def test_without_http2_a_preface_is_malformed(start: Start, dial: Connect) -> None:
    server = await start(hello)
    client = await dial(server.url)
    await client.send(PREFACE)
    assert (await client.read_response()).status == 400


def settings(tls: ssl.SSLContext | None, http2: Any) -> EngineSettings:
    return EngineSettings(65536, 10.0, 10.0, 100, lambda status, reason: None, tls, http2)


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("asked", [["h2", "http/1.1"], ["h2"], ["http/1.1"], []])
async def test_alpn_decides_over_tls(
    dial: Connect, made: list[Other], certificate: Certificate, served: bool, asked: list[str]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{step}"
                await send({"type": f"lifespan.{step}.complete"})
            return
        await hello(scope, receive, send)

    context = server_context(ServerTls(cert=str(certificate.cert), key=str(certificate.key)), served)
    listener = bind(Address(host="127.0.0.1", port=0))
    engine = UvicornEngine(app, [listener], settings(context, Other if served else None))  # type: ignore[arg-type]
    await engine.start()
    client_context = certificate.client_context()
    if asked:
        client_context.set_alpn_protocols(asked)
    client = await dial(f"https://127.0.0.1:{listener.getsockname()[1]}", tls=client_context)
    chosen = client.transport.get_extra_info("ssl_object").selected_alpn_protocol()
    if served and "h2" in asked:
        assert chosen == "h2"
        await client.send(PREFACE)
        assert await client.read_exactly(5) == b"other"
        assert engine.connections == 1
    else:
        assert chosen == ("http/1.1" if "http/1.1" in asked else None)
        await client.send(PREFACE)  # not what was chosen
        assert (await client.read_response()).status == 400
        assert not made
    client.close()
    engine.drain()
    await engine.stop()
