"""A request whose body turns out malformed is one exchange that was refused, and nobody is said to have left."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.upstream import Conn

quirk = pytest.mark.quirk

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@quirk("stock", "hypercorn", reason="tells the application that the client has left")
@pytest.mark.parametrize("begun", [b"", b"3\r\nabc\r\n"], ids=["with the head", "later"])
async def test_a_malformed_body_is_counted_once_and_as_what_it_is(
    stack: StartStack, serve: Serve, dial: Connect, begun: bytes
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    if begun:
        await client.send(HEAD + begun)
        await upstream.request()
        await client.send(b"zz\r\n")
    else:
        await client.send(HEAD + b"zz\r\n")
    assert (await client.read_response()).status == 400
    exchange = await proxy.end_of()
    assert (exchange.status, exchange.end) == (400, "rejected")
    assert exchange.error is not None
    assert exchange.error.error == "http_request_error"
    assert proxy.metric("streamproxy_requests_total") == 1
    assert proxy.metric("streamproxy_disconnects_total") == 0
