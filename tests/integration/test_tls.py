"""TLS on the main listener of the running program, and the other kinds of listeners, under each engine."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate, make_certificate
from tests.doubles.client import connect, fetch
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.proxy import Config, RunningProxy, configuration, write_configuration

ENGINES = ("uvicorn", "hypercorn")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def own(certificate: Certificate, tmp_path: Path) -> Certificate:
    """A copy of the certificate that the test may replace."""
    cert, key = (Path(shutil.copy(file, tmp_path)) for file in (certificate.cert, certificate.key))
    return Certificate(cert, key)


def another(folder: Path) -> Certificate:
    folder.mkdir()
    return make_certificate(folder)


def secured(engine: str, shown: Certificate, **more: str) -> Config:
    return {"engine": engine, "tls": {"cert": str(shown.cert), "key": str(shown.key), **more}}


def presenting(trusted: Certificate, mine: Certificate) -> ssl.SSLContext:
    """For a client that shows a certificate of its own."""
    context = trusted.client_context()
    context.load_cert_chain(mine.cert, mine.key)
    return context


async def get(proxy: RunningProxy, context: ssl.SSLContext) -> bytes:
    """The body of an answer over a new TLS connection. Raises OSError when there is no such connection."""
    async with await connect(proxy.url, tls=context) as client:
        return (await client.get("/")).body


async def two_events(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


async def test_tls_is_served_and_the_upstream_is_told(
    run_proxy: RunProxy, serve: Serve, dial: Connect, own: Certificate, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own)))
    assert proxy.url.startswith("https://")
    context = own.client_context()
    context.set_alpn_protocols(["http/1.1"] if engine == "uvicorn" else ["h2", "http/1.1"])
    client = await dial(proxy.url, tls=context)
    assert (await client.get("/")).body == b"abc"
    assert upstream.requests[0].get("x-forwarded-proto") == b"https"
    session: ssl.SSLObject = client.transport.get_extra_info("ssl_object")
    assert session.selected_alpn_protocol() == "http/1.1"
    assert session.version() == "TLSv1.3"


async def test_what_is_not_tls_is_turned_away_without_a_traceback(
    run_proxy: RunProxy, serve: Serve, dial: Connect, own: Certificate, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own)))
    plain = await dial(proxy.url)
    await plain.send(b"\x00 this is neither TLS nor HTTP\r\n\r\n")
    data, _ = await plain.read_all()
    assert not data.startswith(b"HTTP")
    old = own.client_context()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ConnectionError):
        await get(proxy, old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await get(proxy, old) == b"abc"
    assert "Traceback" not in proxy.process.output
    assert upstream.requests[0].target == b"/"


async def test_a_plain_http_request_is_told_to_use_https(
    run_proxy: RunProxy, serve: Serve, dial: Connect, own: Certificate, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own)))
    client = await dial(proxy.url)
    client.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
    answer = await client.read_response()
    assert (answer.status, answer.complete, answer.get("connection")) == (400, True, b"close")
    assert b"use https" in answer.body
    assert await proxy.metric('streamproxy_requests_total{code="400",method="OTHER",route="-"}') == 1
    assert await get(proxy, own.client_context()) == b"abc"
    assert "Traceback" not in proxy.process.output


async def test_new_connections_get_the_new_certificate_while_old_ones_go_on(
    run_proxy: RunProxy, serve: Serve, dial: Connect, own: Certificate, tmp_path: Path, engine: str
) -> None:
    upstream = await serve([two_events, answering(response(b"abc"))])
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own)))
    before = own.client_context()
    stream = await dial(proxy.url, tls=before)
    await stream.request("/events")
    await stream.read_head()
    assert await stream.read_body_until(b"\n\n") == b"data: 1\n\n"

    renewed = another(tmp_path / "renewed")
    os.replace(renewed.key, own.key)
    os.replace(renewed.cert, own.cert)
    after = own.client_context()

    async def renewed_body() -> bytes:
        with suppress(ssl.SSLCertVerificationError):
            return await get(proxy, after)
        return b""

    assert await until(renewed_body, "the new certificate") == b"abc"
    with pytest.raises(ssl.SSLCertVerificationError):
        await get(proxy, before)

    (await upstream.connection()).go.set()
    rest = await stream.read_rest()
    assert (rest.body, rest.complete) == (b"data: 2\n\n", True)


async def test_a_key_that_does_not_fit_changes_nothing(
    run_proxy: RunProxy, serve: Serve, own: Certificate, tmp_path: Path, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own)))
    trusted = own.client_context()
    os.replace(another(tmp_path / "other").key, own.key)
    await proxy.until_reloaded(1, "error")
    await proxy.process.line(r"server\.tls\.key: .*is not the private key of the certificate")
    assert await get(proxy, trusted) == b"abc"


async def test_with_client_ca_only_its_clients_are_let_in(
    run_proxy: RunProxy, serve: Serve, own: Certificate, tmp_path: Path, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    ours, theirs = another(tmp_path / "ours"), another(tmp_path / "theirs")
    authorities = Path(shutil.copy(ours.cert, tmp_path / "ca.pem"))
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own, client_ca=str(authorities))))
    assert await get(proxy, presenting(own, ours)) == b"abc"
    for context in (own.client_context(), presenting(own, theirs)):
        assert await is_refused(proxy, context)

    shutil.copy(theirs.cert, authorities)
    await proxy.until_reloaded(1)
    assert await get(proxy, presenting(own, theirs)) == b"abc"
    assert await is_refused(proxy, presenting(own, ours))
    assert len(upstream.requests) == 2


async def is_refused(proxy: RunningProxy, context: ssl.SSLContext) -> bool:
    """Whether a client gets no answer. With TLS 1.3 it hears of that only after its own handshake."""
    try:
        await get(proxy, context)
    except (OSError, EOFError):
        return True
    return False


async def test_to_ask_for_client_certificates_needs_a_restart(
    run_proxy: RunProxy, serve: Serve, own: Certificate
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server=secured("uvicorn", own)))
    strict = secured("uvicorn", own, client_ca=str(own.cert))
    write_configuration(proxy.file.parent, configuration(upstream.url, server=strict))
    await proxy.process.line(r"restart required to apply: server\.tls\.client_ca")
    assert await get(proxy, own.client_context()) == b"abc"
    write_configuration(proxy.file.parent, configuration(upstream.url))
    await proxy.process.line(r"restart required to apply: server\.tls$|restart required to apply: server\.tls\"")
    assert await get(proxy, own.client_context()) == b"abc"


# hypercorn has no way to cut a connection whose close is the end of the body.
@pytest.mark.parametrize(("engine", "version"), [(e, "HTTP/1.1") for e in ENGINES] + [("uvicorn", "HTTP/1.0")])
async def test_an_aborted_response_does_not_look_finished_under_tls(
    run_proxy: RunProxy, serve: Serve, dial: Connect, own: Certificate, engine: str, version: str
) -> None:
    upstream = await serve(cut_short)
    proxy = await run_proxy(configuration(upstream.url, server=secured(engine, own)))
    client = await dial(proxy.url, tls=own.client_context())
    await client.send(f"GET / {version}\r\nHost: x\r\n\r\n".encode())
    await client.read_head()
    assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    assert (rest.body, rest.complete) == (b"", False)


async def cut_short(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()
    conn.reset()


async def test_several_listeners_serve_at_once(
    run_proxy: RunProxy, serve: Serve, dial: Connect, tmp_path: Path, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    path = tmp_path / "proxy.sock"
    listen = ["127.0.0.1:0", "[::1]:0", f"unix:{path}"]
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "listen": listen}))
    six = (await proxy.process.line(r"^listening on (http://\[::1\]:\d+)"))[1]
    await proxy.process.line(rf"^listening on http\+unix:{path}")
    assert (await fetch(f"{proxy.url}/")).body == b"abc"
    assert (await fetch(f"{six}/")).body == b"abc"
    client = await dial(f"unix:{path}")
    assert (await client.get("/")).body == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    await client.aclose()
    assert await proxy.process.stop() == 0
    assert not path.exists()


async def test_a_unix_listener_speaks_tls_too(
    run_proxy: RunProxy, serve: Serve, dial: Connect, own: Certificate, tmp_path: Path, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    path = tmp_path / "proxy.sock"
    server = {**secured(engine, own), "listen": ["127.0.0.1:0", f"unix:{path}"]}
    await run_proxy(configuration(upstream.url, server=server))
    client = await dial(f"unix:{path}", tls=own.client_context())
    assert (await client.get("/")).body == b"abc"
    assert upstream.requests[0].get("x-forwarded-proto") == b"https"
