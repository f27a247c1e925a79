"""Making connections: names, addresses, unix sockets, TLS, and the time limit for all of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from streamproxy.client.connect import first_to_connect
from streamproxy.client.http1 import NativeClient, client_context
from streamproxy.client.resolve import Address, interleaved
from streamproxy.errors import (
    ConnectionRefused,
    ConnectionTerminated,
    ConnectTimeout,
    DestinationUnavailable,
    DnsFailed,
    ResponseIncomplete,
    TlsCertificateRefused,
    TlsFailed,
)
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.connection import guarded
from tests.doubles.ports import reserved_port
from tests.doubles.upstream import Conn, FullBacklog, Upstream, answering, response
from tests.unit.client.http1.asking import ask, fetch, read
from tests.unit.client.http1.conftest import MakeClient

V4 = [Address(socket.AF_INET, (f"192.0.2.{number}", 80)) for number in range(3)]
V6 = [Address(socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)) for number in range(3)]


def trusting(certificate: Certificate, **options: str | bool) -> ssl.SSLContext:
    return client_context(ca=str(certificate.cert), **options)  # type: ignore[arg-type]


async def test_a_refused_connection_is_refused(native: MakeClient) -> None:
    with reserved_port() as nobody, pytest.raises(ConnectionRefused):
        await fetch(client := native(f"http://127.0.0.1:{nobody}"))
    assert client.active == 0


async def test_a_socket_that_is_not_there_is_refused(tmp_path: Path, native: MakeClient) -> None:
    with pytest.raises(ConnectionRefused):
        await fetch(native("http://unix", socket=str(tmp_path / "nobody.sock")))


async def test_an_address_without_a_way_is_unavailable(native: MakeClient) -> None:
    with pytest.raises(DestinationUnavailable):
        await fetch(native("http://255.255.255.255:1"))


async def test_a_name_without_an_address_is_a_dns_error(native: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    client = native("http://nobody.example")
    monkeypatch.setattr(client._connector.resolver, "_look_up", nobody)
    with pytest.raises(DnsFailed):
        await fetch(client)
    assert client.active == 0


async def test_a_name_that_can_not_be_one_is_a_dns_error(native: MakeClient) -> None:
    with pytest.raises(DnsFailed):
        await fetch(native(f"http://{'a' * 64}.example"))


async def test_names_are_looked_up(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    assert (await fetch(native(f"http://localhost:{upstream.port}"))).body == b"ok"


async def test_an_upstream_that_does_not_accept_is_a_connect_timeout(native: MakeClient) -> None:
    async with FullBacklog() as nobody:
        client = native(nobody.url)
        with pytest.raises(ConnectTimeout):
            await fetch(client, timeout={"connect": 0.02})
        assert client.active == 0


async def test_a_name_that_takes_too_long_is_a_connect_timeout(
    native: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(host: str, port: int) -> list[Address]:
        await asyncio.Event().wait()
        raise AssertionError

    client = native("http://slow.example")
    monkeypatch.setattr(client._connector.resolver, "_look_up", slow)
    with pytest.raises(ConnectTimeout):
        await fetch(client, timeout={"connect": 0.02})


async def test_tls_that_takes_too_long_is_a_connect_timeout(serve: Serve, native: MakeClient) -> None:
    async def silent(conn: Conn) -> None:
        assert (await conn.wait_ended()).how in ("eof", "reset")

    upstream = await serve(silent)
    client = native(f"https://127.0.0.1:{upstream.port}", tls=client_context(verify=False))
    with pytest.raises(ConnectTimeout):
        await fetch(client, timeout={"connect": 0.05})
    await upstream.connections[0].wait_ended()
    assert client.active == 0


async def test_a_unix_socket_is_an_upstream(tmp_path: Path, serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")), path=tmp_path / "up.sock")
    client = native(upstream)
    for _ in range(2):
        assert (await fetch(client, "POST")).body == b"ok"
    assert len(upstream.connections) == 1


@contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """A listening unix socket that has room for nobody, until somebody is accepted."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                with socket.socket(socket.AF_UNIX) as filler:  # that stays in the queue when it is closed
                    filler.setblocking(False)
                    filler.connect(str(path))
        yield listener


async def test_a_unix_socket_with_a_full_queue_is_waited_for(tmp_path: Path, native: MakeClient) -> None:
    loop = asyncio.get_running_loop()
    client = native("http://unix", socket=str(tmp_path / "up.sock"))
    trying = asyncio.Event()
    with full_queue(tmp_path / "up.sock") as listener:
        asking = asyncio.ensure_future(fetch(client, "POST", progress=lambda _: trying.set()))
        await trying.wait()
        await asyncio.sleep(0)
        async with guarded("the request behind the fillers"):
            while True:
                accepted, _ = await loop.sock_accept(listener)
                with accepted:
                    if await loop.sock_recv(accepted, 65536):
                        await loop.sock_sendall(accepted, response(b"ok"))
                        assert (await asking).body == b"ok"
                        return


async def test_a_unix_socket_that_never_accepts_is_a_connect_timeout(tmp_path: Path, native: MakeClient) -> None:
    client = native("http://unix", socket=str(tmp_path / "up.sock"))
    with full_queue(tmp_path / "up.sock"):
        with pytest.raises(ConnectTimeout):
            await fetch(client, timeout={"connect": 0.02})
        assert client.active == 0


async def test_tls_over_a_unix_socket(
    tmp_path: Path, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    upstream = await serve(answering(response(b"ok")), path=tmp_path / "up.sock", tls=certificate.server_context())
    client = native(upstream, tls=trusting(certificate), server_name="localhost")
    assert (await fetch(client)).body == b"ok"


async def test_ipv6_literals_are_addresses(native: MakeClient, leaks: object) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"six"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "::1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await fetch(native(f"http://[::1]:{port}"))).body == b"six"


async def test_connections_send_at_once_and_notice_a_dead_peer(serve: Serve, native: MakeClient) -> None:
    client = native(await serve(answering(response(b"ok"))))
    await fetch(client)
    sock = client._pool._idle[0]._sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    probes = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
    assert probes[0] + probes[1] * sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 120
    assert max(probes) < 350  # what is forgotten on the way


# TLS


async def test_tls_speaks_http_1_1_and_asks_for_the_host(
    serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    context = certificate.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    names: list[str | None] = []
    context.sni_callback = lambda _ssl, name, _context: names.append(name)
    upstream = await serve(answering(response(b"ok")), tls=context)
    client = native(f"https://localhost:{upstream.port}", tls=trusting(certificate))
    assert (await fetch(client)).body == b"ok"
    assert names == ["localhost"]
    tls = upstream.connections[0].transport.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == "http/1.1"
    assert (await fetch(client, "POST")).body == b"ok"
    assert len(upstream.connections) == 1


async def test_tls_can_ask_for_another_name(serve: Serve, native: MakeClient, certificate: Certificate) -> None:
    upstream = await serve(answering(response(b"ok")), tls=certificate.server_context())
    assert (await fetch(native(upstream, tls=trusting(certificate), server_name="localhost"))).body == b"ok"
    with pytest.raises(TlsCertificateRefused):
        await fetch(native(upstream, tls=trusting(certificate), server_name="other.example"))


async def test_a_name_with_its_last_dot_is_looked_up_with_it_and_secured_without(
    serve: Serve, native: MakeClient, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = await serve(answering(response(b"ok")), tls=certificate.server_context())

    async def look_up(host: str, port: int) -> list[Address]:
        assert host == "localhost."
        return [Address(socket.AF_INET, ("127.0.0.1", upstream.port))]

    client = native("https://localhost.", tls=trusting(certificate))
    monkeypatch.setattr(client._connector.resolver, "_look_up", look_up)
    assert (await fetch(client)).body == b"ok"


async def test_a_name_that_no_server_can_have_is_refused(
    serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    upstream = await serve(answering(response(b"ok")), tls=certificate.server_context())
    with pytest.raises(TlsFailed):
        await fetch(native(upstream, tls=trusting(certificate), server_name="a..b"))


async def test_a_certificate_nobody_vouches_for_is_refused(
    serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    upstream = await serve(answering(response(b"ok")), tls=certificate.server_context())
    client = native(upstream, tls=client_context())
    with pytest.raises(TlsCertificateRefused):
        await fetch(client)
    assert client.active == 0
    assert (await fetch(native(upstream, tls=client_context(verify=False)))).body == b"ok"


async def test_an_upstream_without_tls_fails_it(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_some()
        await conn.send(response(b"plain"))

    upstream = await serve(script)
    with pytest.raises(TlsFailed):
        await fetch(native(f"https://127.0.0.1:{upstream.port}", tls=client_context(verify=False)))


async def test_old_versions_of_tls_are_refused(serve: Serve, native: MakeClient, certificate: Certificate) -> None:
    context = certificate.server_context()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    upstream = await serve(answering(response(b"ok")), tls=context)
    with pytest.raises(TlsFailed):
        await fetch(native(upstream, tls=trusting(certificate)))


async def test_a_client_certificate_is_shown(serve: Serve, native: MakeClient, certificate: Certificate) -> None:
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate.cert)
    upstream = await serve(answering(response(b"ok")), tls=context)
    shown = trusting(certificate, cert=str(certificate.cert), key=str(certificate.key))
    assert (await fetch(native(upstream, tls=shown))).body == b"ok"
    with pytest.raises((TlsFailed, ConnectionTerminated)):  # asyncio's server does not tell why it closes
        await fetch(native(upstream, tls=trusting(certificate)))


async def test_a_file_that_is_not_there_is_an_error_of_the_context(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        client_context(ca=str(tmp_path / "nothing.pem"))


async def test_the_system_is_trusted_by_default() -> None:
    context = client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def close_delimited(conn: Conn) -> None:
    await conn.read_head()
    conn.write(b"HTTP/1.1 200 OK\r\n\r\nhi")


async def test_tls_that_was_closed_in_good_order_ends_a_body(
    serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    upstream = await serve(close_delimited, tls=certificate.server_context())
    assert (await fetch(native(upstream, tls=trusting(certificate)))).body == b"hi"


async def test_tls_that_was_cut_without_a_word_does_not_end_a_body(
    serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    async def cut(conn: Conn) -> None:
        await close_delimited(conn)
        conn.transport.abort()  # closes TCP in good order, but TLS never said goodbye

    upstream = await serve(cut, tls=certificate.server_context())
    async with guarded("the cut"), ask(native(upstream, tls=trusting(certificate))) as answer:
        got, fault = await read(answer)
    assert got == b"hi"
    assert isinstance(fault, ResponseIncomplete)


@pytest.mark.parametrize("url", ["ftp://a.example", "unix:/run/a.sock", "https://", "a.example:80"])
async def test_a_url_that_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        NativeClient(url)


async def test_https_needs_a_context() -> None:
    with pytest.raises(ValueError, match="context"):
        NativeClient("https://a.example")


# Addresses


def test_families_take_turns() -> None:
    assert interleaved([V6[0], V6[1], V6[2], V4[0], V4[1]]) == [V6[0], V4[0], V6[1], V4[1], V6[2]]
    assert interleaved([V4[0], V6[0], V6[1], V6[2]]) == [V4[0], V6[0], V6[1], V6[2]]
    assert interleaved(V4) == V4


async def test_an_address_that_does_not_answer_does_not_hold_up_the_next(serve: Serve) -> None:
    upstream = await serve(answering(response(b"ok")))
    async with FullBacklog() as nobody:
        addresses = [Address(socket.AF_INET, ("127.0.0.1", port)) for port in (nobody.port, upstream.port)]
        async with guarded("a connection"):
            sock = await first_to_connect(addresses, delay=0.01)
        assert sock.getpeername() == ("127.0.0.1", upstream.port)
        sock.close()


async def test_a_refusal_starts_the_next_address_at_once(serve: Serve) -> None:
    upstream = await serve(answering(response(b"ok")))
    with reserved_port() as nobody, reserved_port() as no_other:
        addresses = [Address(socket.AF_INET, ("127.0.0.1", port)) for port in (nobody, no_other, upstream.port)]
        async with guarded("a connection"):
            sock = await first_to_connect(addresses, delay=3600)
    assert sock.getpeername() == ("127.0.0.1", upstream.port)
    sock.close()


async def test_when_no_address_answers_a_refusal_is_what_is_told(leaks: object) -> None:
    with reserved_port() as nobody, pytest.raises(ConnectionRefusedError):
        await first_to_connect(
            [Address(socket.AF_INET, ("255.255.255.255", 1)), Address(socket.AF_INET, ("127.0.0.1", nobody))]
        )


async def test_a_race_that_is_cancelled_leaves_no_socket(leaks: object) -> None:
    async with FullBacklog() as nobody:
        addresses = [Address(socket.AF_INET, ("127.0.0.1", nobody.port))] * 3
        race = asyncio.ensure_future(first_to_connect(addresses, delay=0.001))
        await asyncio.sleep(0.01)
        race.cancel()
        with pytest.raises(asyncio.CancelledError):
            await race


async def test_an_upstream_that_comes_back_is_found(serve: Serve, native: MakeClient) -> None:
    upstream: Upstream = await serve(answering(response(b"ok")))
    client = native(upstream)
    await fetch(client)
    await upstream.stop()
    with pytest.raises(ConnectionRefused):
        await fetch(client)
    await upstream.start()
    assert (await fetch(client)).body == b"ok"
