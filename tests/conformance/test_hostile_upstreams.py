"""What a broken or hostile upstream sends to one client never reaches another, and never looks like our own fault."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.upstream import Conn, response

quirk = pytest.mark.quirk

ENDS = {
    "counted": response(b"ok"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "without body": b"HTTP/1.1 204 No Content\r\n\r\n",
}


@quirk("h2", reason="in HTTP/2 nothing comes behind the end of a stream")
@pytest.mark.parametrize("name", ENDS)
async def test_what_comes_behind_a_response_is_nobodys(
    stack: StartStack, serve: Serve, dial: Connect, name: str
) -> None:
    async def script(conn: Conn) -> None:
        while True:
            await conn.read_head()
            first = len(conn.upstream.requests) == 1
            await conn.send(ENDS[name] + response(b"evil") if first else response(b"good"))

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await client.get()).status in (200, 204)
    other = await dial(proxy.url)
    assert (await other.get()).body == b"good"
