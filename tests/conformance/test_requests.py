"""What a client may ask: any method, and no target that a head has no place for."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.upstream import answering, response

quirk = pytest.mark.quirk


@quirk("stock", reason="httptools knows a list of methods")
@pytest.mark.parametrize("method", ["BREW", "Purge", "head"])
async def test_any_token_is_a_method_and_is_counted_as_another(
    stack: StartStack, serve: Serve, dial: Connect, method: str
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/pot", method=method)
    assert (await client.read_response()).body == b"ok"
    assert [head.method for head in upstream.requests] == [method.encode()]
    await proxy.end_of()
    assert proxy.metric("streamproxy_requests_total", route="r0", method="OTHER", code="200") == 1


@quirk("http2", reason="a target is no line there")
@quirk("stock", reason="takes what is before a line feed for a line")
@pytest.mark.parametrize("byte", [b"\n", b"\r", b"\0", b"\t", b" ", b"\x7f"])
async def test_a_byte_that_a_target_may_not_have_is_a_400(
    stack: StartStack, serve: Serve, dial: Connect, byte: bytes
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"GET /a" + byte + b"X: HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.read_response()).status == 400
    assert not upstream.requests
