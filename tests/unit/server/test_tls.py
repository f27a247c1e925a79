"""The same over TLS, where a connection can't be half-closed."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy.errors import ExchangeAborted
from tests.conftest import Connect
from tests.doubles.certificates import Certificate
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import GET, Receive, Scope, Send, body_message, hello, start_message, turns


async def test_the_scheme_is_https(start: Start, dial: Connect, certificate: Certificate) -> None:
    schemes: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        schemes.append(scope["scheme"])
        await hello(scope, receive, send)

    server = await start(app, tls=certificate.server_context())
    client = await dial(server.url, tls=certificate.client_context())
    await client.send(GET)
    assert (await client.read_response()).body == b"/ "
    assert schemes == ["https"]


async def test_a_refusal_is_readable_while_the_client_is_still_sending(
    start: Start, dial: Connect, certificate: Certificate
) -> None:
    server = await start(hello, tls=certificate.server_context())
    client = await dial(server.url, tls=certificate.client_context())
    client.write(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
    answer = await client.read_response()
    assert (answer.status, answer.complete) == (400, True)
    client.close()
    await until(lambda: not server.state.connections)


async def test_the_application_is_told_that_the_client_left(
    start: Start, dial: Connect, certificate: Certificate
) -> None:
    left = asyncio.Event()
    entered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["streamproxy.connection"].on_disconnect = left.set
        entered.set()
        await left.wait()

    server = await start(app, tls=certificate.server_context())
    client = await dial(server.url, tls=certificate.client_context())
    await client.send(GET)
    async with asyncio.timeout(10):
        await entered.wait()
        client.close()
        await left.wait()


@pytest.mark.parametrize("upload", [b"", b"Content-Length: 1000000\r\n"], ids=["get", "upload"])
async def test_an_aborted_response_does_not_look_finished(
    start: Start, dial: Connect, certificate: Certificate, upload: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        await send(body_message(b"begun", more=True))
        await turns()
        raise ExchangeAborted("x")

    server = await start(app, tls=certificate.server_context())
    client = await dial(server.url, tls=certificate.client_context())
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + upload + b"\r\n")
    answer = await client.read_response()
    assert (answer.body, answer.complete) == (b"begun", False)
