"""The client over httpx: what its pool must not lose when a request is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from streamproxy.client.httpx import HttpxClient, build_httpx
from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.upstream import Conn, Upstream, response

IDLE = 5
TIMEOUTS = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 60.0)}


@asynccontextmanager
async def own_client() -> AsyncIterator[HttpxClient]:
    client = build_httpx(verify=None, server_name=None, socket=None, proxy=None, limits=(10, 10, 30.0))
    yield client
    await client.aclose()


async def ask(client: HttpxClient, url: str) -> bytes:
    async with client.stream("GET", url, headers=[(b"host", b"x")], content=None, extensions=TIMEOUTS) as answer:
        return b"".join([chunk async for chunk in answer.aiter_raw()])


async def leave_idle(client: HttpxClient, upstream: Upstream) -> None:
    """So many idle connections, which their peer closes."""
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(
                client.stream("GET", upstream.url, headers=[(b"host", b"x")], content=None, extensions=TIMEOUTS)
            )
            for _ in range(IDLE)
        ]
        for one in opened:
            assert b"".join([chunk async for chunk in one.aiter_raw()]) == b"ok"
    for conn in upstream.open_connections:
        conn.close()


async def answer(conn: Conn) -> None:
    while True:
        await conn.read_request()
        await conn.send(response(b"ok"))


async def test_idle_connections_that_died_are_closed_whenever_the_request_that_finds_them_is_cancelled(
    serve: Serve, leaks: LeakCheck
) -> None:
    upstream = await serve(answer)
    async with own_client() as client:
        for turns in range(40):
            await leave_idle(client, upstream)
            request = asyncio.create_task(ask(client, upstream.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
