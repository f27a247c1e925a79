"""Bodies without an end, through the program: its memory does not grow with what it reads of them."""

from __future__ import annotations

import asyncio

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.upstream import Conn, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

BLOCK = b"x" * (1 << 19)
BLOCKS = 200  # 100 MiB
GROWTH = 24 << 20


async def engine(conn: Conn) -> None:
    """Its metrics have 100 MiB, and its streams an event or a line of the same size."""
    while True:
        head, _ = await conn.read_request()
        if head.target == b"/small":
            await conn.send(response(b"small"))
        elif head.target == b"/metrics":
            await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n# " % (BLOCKS * len(BLOCK) + 2))
            for _ in range(BLOCKS):
                await conn.send(BLOCK)
        else:
            lines = head.target == b"/api/chat"
            await conn.send(stream_head("application/x-ndjson" if lines else "text/event-stream"))
            await conn.send_chunk(b'{"model":"m","x":"' if lines else b'data: {"x":"')
            for _ in range(BLOCKS):
                await conn.send_chunk(BLOCK)
            await conn.send_chunk(b'"}\n\n')
            await conn.send_chunk(b"")


async def read_all(client: RawClient, path: str) -> int:
    """Read a stream to its end; the number of its bytes."""
    await client.request(path)
    await client.read_head()
    size = 0
    while piece := await client.read_piece():
        size += len(piece)
    return size


async def test_memory_does_not_grow_with_an_event_a_line_or_metrics(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    engines = [await serve(engine), await serve(engine)]
    load = {"source": "vllm", "interval": "100ms"}
    pool = {"endpoints": [one.url for one in engines], "balance": "least_load", "load": load}
    routes = [{"path": "/*", "upstream": "pool", "protocol": "auto"}]
    proxy = await run_proxy(configuration(routes, upstreams={"pool": pool}))
    first, second = await dial(proxy.url), await dial(proxy.url)
    assert (await first.get("/small")).body == b"small"
    before = proxy.process.memory("VmRSS")
    proxy.process.reset_peak()
    sizes = await asyncio.gather(read_all(first, "/v1/chat/completions"), read_all(second, "/api/chat"))
    assert min(sizes) > BLOCKS * len(BLOCK)
    asked = [head for one in engines for head in one.requests if head.target == b"/metrics"]
    assert len(asked) >= 2
    assert (await first.get("/small")).body == b"small"
    assert proxy.process.memory("VmHWM") - before < GROWTH
