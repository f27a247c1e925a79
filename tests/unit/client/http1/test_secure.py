"""TLS between a transport and a connection, against OpenSSL's server side; all of it in memory."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from streamproxy.client.http1 import client_context
from streamproxy.client.secure import TlsTransport
from streamproxy.errors import TlsFailed
from tests.doubles.certificates import Certificate
from tests.unit.client.http1.asking import fetch
from tests.unit.client.http1.conftest import MakeClient


class Below:
    """The loop's transport: what TLS sends, and how it ended."""

    def __init__(self) -> None:
        self.sent = b""
        self.end = ""

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return bool(self.end)

    def close(self) -> None:
        self.end = self.end or "close"

    def abort(self) -> None:
        self.end = "abort"


class Above:
    """The connection: what it hears of."""

    def __init__(self) -> None:
        self.got = b""
        self.heard: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(exc)

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


class Server:
    """OpenSSL's server."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.heard = ""

    def step(self, data: bytes) -> bytes:
        """Take a flight of the handshake, give the next."""
        self.incoming.write(data)
        self.heard = ""
        try:
            self.tls.do_handshake()
        except ssl.SSLError as error:  # wants more, or was told something
            self.heard = str(error)
        return self.outgoing.read()

    def says(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def hears(self, data: bytes) -> bytes:
        self.incoming.write(data)
        got = b""
        try:
            while part := self.tls.read(65536):
                got += part
        except ssl.SSLWantReadError:
            pass
        return got

    def ends(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):  # the peer's own close_notify
            self.tls.unwrap()
        return self.outgoing.read()


class Pair:
    """The client's side and the server's, after a handshake in reads of ``size`` bytes.

    The server says ``at_once`` what it has to say, in the flight that ends its handshake.
    """

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, size: int = 65536, at_once: bytes = b"") -> None:
        self.below, self.above, self.server = Below(), Above(), Server(server)
        self.tls = TlsTransport(client, "localhost", lambda protocol: self.above, asyncio.get_running_loop())
        self.size = size
        self.tls.connection_made(cast(asyncio.BaseTransport, self.below))
        while self.below.sent:
            flight = self.server.step(self.take())
            self.receive(flight + (self.server.says(at_once) if at_once and not self.server.heard else b""))

    def take(self) -> bytes:
        sent, self.below.sent = self.below.sent, b""
        return sent

    def receive(self, data: bytes) -> None:
        for read in self.reads(data):
            self.tls.data_received(read)

    def reads(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), self.size):
            yield data[at : at + self.size]


MakePair = Callable[..., Pair]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def pair(request: pytest.FixtureRequest, certificate: Certificate) -> MakePair:
    def make(size: int = 65536, *, wants_certificate: bool = False, at_once: bytes = b"") -> Pair:
        server = certificate.server_context()
        server.minimum_version = server.maximum_version = request.param
        if wants_certificate:
            server.verify_mode = ssl.CERT_REQUIRED
            server.load_verify_locations(certificate.cert)
        return Pair(client_context(ca=str(certificate.cert)), server, size, at_once)

    return make


@pytest.mark.parametrize("size", [1, 7, 65536])
async def test_bytes_come_whole_and_in_order_however_they_are_split(pair: MakePair, size: int) -> None:
    both = pair(size)
    assert (both.tls.made.done(), both.tls.fault, both.above.heard) == (True, None, ["made"])
    for text in (b"one", b"two" * 20_000, b"three"):
        both.receive(both.server.says(text))
        assert both.above.got == text
        both.above.got = b""
    for text in (b"", b"four", b"five" * 20_000):
        both.tls.write(text)
        assert both.server.hears(both.take()) == text
    both.tls.writelines([b"s", b"ix"])
    assert both.server.hears(both.take()) == b"six"


async def test_what_came_with_the_end_of_the_handshake_is_handed_on(pair: MakePair) -> None:
    assert pair(at_once=b"hello").above.got == b"hello"


async def test_the_end_is_told_once_and_behind_what_came_before(pair: MakePair) -> None:
    both = pair()
    both.receive(both.server.says(b"a") + both.server.says(b"b") + both.server.ends())
    assert both.above.got == b"ab"
    assert both.above.heard == ["made", "eof"]
    assert both.tls.ended
    both.tls.eof_received()
    both.receive(b"more")
    assert both.above.heard == ["made", "eof"]


async def test_an_end_without_a_word_is_told_from_one_in_good_order(pair: MakePair) -> None:
    both = pair()
    both.tls.eof_received()
    assert both.above.heard == ["made", "eof"]
    assert not both.tls.ended


async def test_a_forged_record_breaks_the_connection_behind_what_came_before(pair: MakePair) -> None:
    both = pair()
    good, forged = both.server.says(b"good"), bytearray(both.server.says(b"evil"))
    forged[-1] ^= 1
    both.receive(good + bytes(forged))
    assert both.above.got == b"good"
    assert isinstance(both.tls.fault, ssl.SSLError)
    assert both.below.end == "abort"
    both.receive(both.server.says(b"late"))
    both.tls.connection_lost(None)
    assert both.above.got == b"good"
    assert both.above.heard == ["made", both.tls.fault]


async def test_a_refused_certificate_is_told_as_such(pair: MakePair) -> None:
    """TLS 1.3 has made the connection by then, for the client."""
    both = pair(wants_certificate=True)
    both.tls.connection_lost(None)
    assert isinstance(both.tls.fault, ssl.SSLError)
    assert "ALERT" in str(both.tls.fault)


async def test_a_certificate_that_does_not_fit_is_told_to_the_peer(certificate: Certificate) -> None:
    both = Pair(client_context(), certificate.server_context())
    assert isinstance(both.tls.fault, ssl.SSLCertVerificationError)
    assert (both.above.heard, both.below.end) == ([], "close")
    assert "UNKNOWN_CA" in both.server.heard.upper().replace(" ", "_")


@pytest.mark.parametrize("how", ["eof", "lost", "reset"])
async def test_a_peer_that_leaves_the_handshake_is_a_connection_error(how: str, certificate: Certificate) -> None:
    tls = TlsTransport(client_context(), "localhost", above := Above(), asyncio.get_running_loop())
    tls.connection_made(cast(asyncio.BaseTransport, Below()))
    if how == "eof":
        tls.eof_received()
    tls.connection_lost(ConnectionResetError() if how == "reset" else None)
    assert tls.made.done()
    assert isinstance(tls.fault, ConnectionResetError if how == "reset" else ConnectionAbortedError)
    assert above.heard == []


async def test_backpressure_goes_through(pair: MakePair) -> None:
    both = pair()
    both.tls.pause_writing()
    both.tls.resume_writing()
    assert both.above.heard == ["made", "pause", "resume"]


async def test_an_upstream_that_refuses_our_certificate_is_told_from_one_that_closes(
    native: MakeClient, certificate: Certificate
) -> None:
    """Its word comes when the request is on its way, with a reset behind it."""
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate.cert)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = Server(context)
        while "RETURN_A_CERTIFICATE" not in server.heard.upper().replace(" ", "_"):
            writer.write(server.step(await reader.read(65536)))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(TlsFailed):
            await fetch(native(f"https://localhost:{port}", tls=client_context(ca=str(certificate.cert))))
