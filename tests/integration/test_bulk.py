"""A gigabyte through the program: every byte arrives, and memory does not grow with it."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.connection import guarded
from tests.doubles.upstream import answering, response
from tests.integration.bulk import BLOCK, GIGABYTE, BulkSource, download, open_download
from tests.integration.conftest import RunProxy
from tests.integration.proxy import Config, RunningProxy, configuration

GROWTH = 32 * BLOCK
# What the kernel may hold between the upstream and a client that takes nothing: the send and receive buffers of two
# connections, each of which it may grow to a few MiB (net.ipv4.tcp_wmem, tcp_rmem), and the 64 KiB of the proxy.
IN_FLIGHT = 48 * BLOCK
TURNS = 100


EVERY_WAY = pytest.mark.parametrize(
    ("engine", "client"), [("uvicorn", "native"), ("uvicorn", "httpx"), ("hypercorn", "native")]
)


async def warm_up(proxy: RunningProxy, dial: Connect) -> int:
    """Let the program load what a first request loads; the bytes of memory it holds then."""
    warmer = await dial(proxy.url)
    assert (await warmer.get("/small")).complete
    proxy.process.reset_peak()
    return proxy.process.memory("VmRSS")


def two_upstreams(bulk: str, small: str, engine: str, client: str) -> Config:
    """A configuration with the upstream of the warm-up and that of the download, both read by this client."""
    return configuration(
        [{"path": "/small", "upstream": "small"}, {"path": "/*", "upstream": "bulk"}],
        server={"engine": engine},
        upstreams={
            "small": {"endpoints": [small], "client": client},
            "bulk": {"endpoints": [bulk], "client": client},
        },
    )


@EVERY_WAY
async def test_a_gigabyte_arrives_whole_and_memory_does_not_grow(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str, client: str
) -> None:
    small = await serve(answering(response(bytes(BLOCK))))
    with BulkSource(GIGABYTE) as source:
        proxy = await run_proxy(two_upstreams(source.url, small.url, engine, client))
        before = await warm_up(proxy, dial)
        assert await asyncio.to_thread(download, proxy.url, GIGABYTE) == GIGABYTE
        assert proxy.process.memory("VmHWM") - before < GROWTH


@EVERY_WAY
async def test_a_client_that_stops_reading_stops_the_upstream_and_leaving_frees_it(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str, client: str
) -> None:
    small = await serve(answering(response(bytes(BLOCK))))
    with BulkSource(GIGABYTE) as source:
        proxy = await run_proxy(two_upstreams(source.url, small.url, engine, client))
        before = await warm_up(proxy, dial)
        sink, head, _ = await asyncio.to_thread(open_download, proxy.url, receive_buffer=16 * 1024)
        with sink:
            assert b"content-length: %d" % GIGABYTE in head.lower()
            assert await settled(source, proxy) < IN_FLIGHT
            assert proxy.process.memory("VmHWM") - before < GROWTH
        async with guarded("the upstream to learn that the client left"):
            await asyncio.to_thread(source.cut_off.wait)


async def settled(source: BulkSource, proxy: RunningProxy) -> int:
    """Wait until the upstream writes nothing more; return the number of bytes it had written by then.

    The proxy and the upstream's thread have taken `TURNS` turns meanwhile: what was to be read has been read.
    """
    before = turns = 0
    async with guarded("the upstream to be held back"):
        while turns < TURNS:
            await proxy.streams()
            turns = turns + 1 if source.written == before else 0
            before = source.written
    return before
