"""What an operator sees of a stream that is kept, and does to it, while no client is there."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.upstream import Conn, stream_head
from tests.integration.proxy import configuration, running


async def one_event(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()


async def test_a_stream_without_a_client_is_listed_and_can_be_stopped(
    serve: Serve, dial: Connect, tmp_path: Path
) -> None:
    upstream = await serve(one_event)
    route = {"name": "chat", "path": "/*", "upstream": upstream.url, "resume": {"grace": "1h", "ids": "off"}}
    async with running(configuration([route]), tmp_path) as proxy:
        client = await dial(proxy.url)
        await client.request("/answer")
        begin = (await client.read_head()).get("x-stream-cursor")
        assert begin is not None
        cursor = [("Last-Event-ID", begin.decode())]
        await client.read_body_until(b"\n\n")
        client.reset()
        other = await dial(proxy.url)
        await other.request("/answer", headers=cursor)
        await other.read_head()
        await other.read_body_until(b"\n\n")
        await proxy.until_streams("the stream and who reads it", lambda live: len(live) == 2)
        other.reset()
        await proxy.until_streams("the stream alone", lambda live: len(live) == 1)
        (one,) = await proxy.streams()
        assert (one["path"], one["route"], one["events"]) == ("/answer", "chat", 1)
        assert (await fetch(f"{proxy.admin}/streams/{one['id']}", method="DELETE")).status == 202
        await upstream.connections[0].wait_ended()
        await proxy.until_streams("nothing", lambda live: not live)
        late = await dial(proxy.url)
        await late.request("/answer", headers=cursor)
        assert (await late.read_head()).status == 200
        rest = await late.read_rest()
        assert (rest.body, rest.complete) == (b"data: 1\n\n", False)
        late.reset()
