"""Which protocol is spoken is the upstream's choice over TLS, and HTTP/2 without."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy.client.http2 import Http2Client
from streamproxy.client.tls import client_context
from streamproxy.errors import ExchangeError
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.upstream import answering, response
from tests.unit.client.http2.conftest import Frames, MakeClient, speaking
from tests.unit.client.http2.test_streams import fetch


def _client(http2: MakeClient, url: str, certificate: Certificate) -> Http2Client:
    ca = str(certificate.cert)
    return http2(
        url,
        ssl_context=client_context(ca=ca, protocols=("h2", "http/1.1")),
        http1_context=client_context(ca=ca),
    )


async def test_an_upstream_that_chooses_h2_is_spoken_to_in_http_2(
    serve: Serve, http2: MakeClient, certificate: Certificate
) -> None:
    schemes: list[bytes] = []

    async def script(up: Frames) -> None:
        while True:
            stream, fields = await up.request()
            schemes.append(dict(fields)[b":scheme"])
            await up.answer(stream, b"two")

    context = certificate.server_context()
    context.set_alpn_protocols(["h2"])
    upstream = await serve(speaking(script), tls=context)
    client = _client(http2, upstream.url, certificate)
    assert await asyncio.gather(*(fetch(client, upstream.url) for _ in range(5))) == [b"two"] * 5
    assert len(upstream.connections) == 1
    assert schemes == [b"https"] * 5


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
async def test_an_upstream_that_does_not_is_spoken_to_in_http_1_1(
    serve: Serve, http2: MakeClient, certificate: Certificate, protocols: list[str]
) -> None:
    context = certificate.server_context()
    if protocols:
        context.set_alpn_protocols(protocols)
    upstream = await serve(answering(response(b"one")), tls=context)
    client = _client(http2, upstream.url, certificate)
    for _ in range(2):
        answers = await asyncio.gather(*(fetch(client, upstream.url, "POST", content=b"body") for _ in range(3)))
        assert answers == [b"one"] * 3
    assert 1 <= len(upstream.connections) <= 3
    assert client.active == 0


async def test_without_tls_an_upstream_of_http_1_1_is_a_bad_one(serve: Serve, http2: MakeClient) -> None:
    async def script(conn: object) -> None:
        await conn.read_until(b"\r\n\r\n")  # type: ignore[attr-defined]
        await conn.send(response(b"what?", status="400 Bad Request"))  # type: ignore[attr-defined]

    upstream = await serve(script)
    with pytest.raises(ExchangeError):
        await fetch(http2(upstream.url), upstream.url)


async def test_a_request_to_switch_protocols_goes_over_http_1_1(
    serve: Serve, http2: MakeClient, certificate: Certificate
) -> None:
    context = certificate.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    upstream = await serve(answering(switched), tls=context)
    client = _client(http2, upstream.url, certificate)
    headers = [(b"Host", b"up.test"), (b"Connection", b"Upgrade"), (b"Upgrade", b"x")]
    async with client.stream("GET", upstream.url, headers=headers, extensions={"upgrade": True}) as answer:
        assert answer.status_code == 101
