"""A request may be cancelled wherever it waits; nothing of it may be left, and the client must go on working.

The harness runs a request in a task and cancels it at its nth suspension, for every n until it runs through. Two
moments are tried at each: when the task has just begun to wait, and in the tick in which what it waits for has
happened but the task has not run yet, which is where places get lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from streamproxy.client.http1 import NativeClient
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.connection import Ended, PeerEnded, guarded
from tests.doubles.upstream import Conn, Upstream, response, stream_head
from tests.unit.client.http1.asking import ask, fetch, until
from tests.unit.client.http1.conftest import MakeClient
from tests.unit.client.http1.test_connect import trusting

MOMENTS = ["waiting", "woken"]


class CancelAt(Awaitable[None]):
    """Awaits a coroutine, and cancels the task that does so at the coroutine's nth suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], n: int, moment: str) -> None:
        self.coroutine = coroutine
        self.n = n
        self.moment = moment
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        send: Callable[[], Any] = lambda: self.coroutine.send(None)  # noqa: E731
        while True:
            try:
                waited = send()
            except StopIteration:
                return
            if self.suspensions == self.n:
                if self.moment == "waiting" or waited is None:
                    task.cancel()
                else:
                    waited.add_done_callback(lambda _: task.cancel())
            self.suspensions += 1
            try:
                yield waited
            except BaseException as error:
                send = lambda error=error: self.coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                send = lambda: self.coroutine.send(None)  # noqa: E731


async def run(request: Callable[[], Coroutine[Any, Any, None]], n: int, moment: str) -> bool:
    """Run a request with a cancellation at its nth suspension; True if it came to it."""
    stepper = CancelAt(request(), n, moment)

    async def body() -> None:
        await stepper

    task = asyncio.ensure_future(body())
    async with guarded(f"the request that is cancelled at {n}"):
        await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return stepper.suspensions > n


async def everywhere(
    client: NativeClient, upstream: Upstream, request: Callable[[], Coroutine[Any, Any, None]], moment: str
) -> int:
    """Cancel the request at every suspension in turn; gives how many there were."""
    n = 0
    tasks = asyncio.all_tasks()
    while await run(request, n, moment):
        n += 1
        await until(lambda: client.active == 0 and client._pool.waiting == 0)
        # An idle connection is the only one that may still be open.
        await until(lambda: len(client._pool._open) == client.idle)
        await until(lambda: len(upstream.open_connections) <= client.idle)
        await until(lambda: not foreign(asyncio.all_tasks() - tasks))
        assert (await fetch(client)).status == 200  # no place was lost: there is only one
        assert n < 100
    return n


def foreign(tasks: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """The tasks that are not the scripted upstream's."""
    return [task for task in tasks if "doubles" not in str(task.get_coro()) and "Upstream" not in str(task.get_coro())]


async def content() -> AsyncIterator[bytes]:
    for _ in range(3):
        await asyncio.sleep(0)
        yield b"x" * 100


def say(conn: Conn, data: bytes) -> None:
    """Hand bytes to the transport, if there still is one."""
    if conn.ended is not None or conn.transport.is_closing():
        raise PeerEnded(conn.ended or Ended("local", 0.0), b"")
    conn.write(data)


async def slow_answers(conn: Conn) -> None:
    """Everything comes in pieces, so that the client has to wait for each of them."""
    while True:
        await conn.read_request()
        for piece in (b"HTTP/1.1 103 Early Hints\r\n\r\n", stream_head()[:20], stream_head()[20:]):
            say(conn, piece)
            await asyncio.sleep(0.001)
        for chunk in (b"one", b"two", b""):
            say(conn, b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await asyncio.sleep(0.001)


def whole(client: NativeClient, method: str = "GET", body: bool = False) -> Callable[[], Coroutine[Any, Any, None]]:
    async def request() -> None:
        async with ask(client, method, content=content() if body else None) as answer:
            assert b"".join([chunk async for chunk in answer.aiter_raw()]) == b"onetwo"

    return request


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("pooled", [False, True], ids=["new", "pooled"])
@pytest.mark.parametrize("body", [False, True], ids=["bodiless", "body"])
async def test_a_request_can_be_cancelled_anywhere(
    pooled: bool, body: bool, moment: str, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(slow_answers)
    client = native(upstream, max_connections=1, max_idle=1 if pooled else 0)
    suspensions = await everywhere(client, upstream, whole(client, "POST" if body else "GET", body), moment)
    assert suspensions >= 3


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_connection_by_name_can_be_cancelled_anywhere(moment: str, serve: Serve, native: MakeClient) -> None:
    upstream = await serve(slow_answers)
    client = native(f"http://localhost:{upstream.port}", max_connections=1, max_idle=0)

    async def request() -> None:
        resolver = client._connector.resolver
        assert resolver is not None
        resolver.forget()
        await whole(client)()

    assert await everywhere(client, upstream, request, moment) >= 4


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_tls_connection_can_be_cancelled_anywhere(
    moment: str, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    upstream = await serve(slow_answers, tls=certificate.server_context())
    client = native(upstream, tls=trusting(certificate), max_connections=1, max_idle=0)
    assert await everywhere(client, upstream, whole(client), moment) >= 4


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_unix_connection_can_be_cancelled_anywhere(
    moment: str, tmp_path: Path, serve: Serve, native: MakeClient
) -> None:
    upstream = await serve(slow_answers, path=tmp_path / "up.sock")
    client = native(upstream, max_connections=1, max_idle=0)
    assert await everywhere(client, upstream, whole(client), moment) >= 3


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kept", [False, True])
async def test_a_wait_for_a_place_can_be_cancelled_anywhere(
    kept: bool, moment: str, serve: Serve, native: MakeClient
) -> None:
    async def script(conn: Conn) -> None:
        while True:
            await conn.read_head()
            say(conn, response(b"onetwo", headers=[] if kept else [("Connection", "close")]))

    upstream = await serve(script)
    client = native(upstream, max_connections=1)

    async def request() -> None:
        """A request that waits behind another and before a third, whom its cancellation must not cost the place."""
        async with ask(client):
            behind = asyncio.ensure_future(whole(client)())
            third = asyncio.ensure_future(fetch(client))
            await asyncio.sleep(0)
        try:
            await behind
        except asyncio.CancelledError:
            behind.cancel()
            raise
        finally:
            await asyncio.wait([third])
            assert third.result().status == 200

    assert await everywhere(client, upstream, request, moment) >= 2

    async def waiting() -> None:
        await whole(client)()

    for n in range(20):
        holder = ask(client)
        await holder.__aenter__()
        task = asyncio.ensure_future(run(waiting, n, moment))
        third = asyncio.ensure_future(fetch(client))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await holder.__aexit__(None, None, None)
        went_on = await task
        async with guarded("who came third"):
            assert (await third).status == 200
        assert client.active == 0
        if not went_on:
            break
    assert n >= 1


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_request_on_a_dead_idle_connection_can_be_cancelled_anywhere(
    moment: str, serve: Serve, native: MakeClient
) -> None:
    async def one_and_a_half(conn: Conn) -> None:
        await conn.read_head()
        say(conn, response(b"onetwo"))
        await conn.read_head()
        await asyncio.sleep(0.001)

    upstream = await serve(one_and_a_half)
    client = native(upstream, max_connections=1)

    async def request() -> None:
        for _ in range(2):
            await whole(client)()

    assert await everywhere(client, upstream, request, moment) >= 4


async def test_a_cancelled_request_is_seen_by_the_upstream_at_once(serve: Serve, native: MakeClient) -> None:
    async def script(conn: Conn) -> None:
        await conn.wait_ended()

    upstream = await serve(script)
    client = native(upstream)
    task = asyncio.ensure_future(fetch(client))
    conn = await upstream.connection()
    await until(lambda: conn.buffer)
    task.cancel()
    await asyncio.wait([task])
    assert (client.active, client.idle) == (0, 0)  # in the same tick
    assert (await conn.wait_ended()).how in ("eof", "reset")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_cancelled_upload_does_not_wait_for_an_upstream_that_does_not_read(
    secure: bool, serve: Serve, native: MakeClient, certificate: Certificate
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_until(b"\r\n\r\n")
        conn.stop_reading()
        await conn.stall()

    upstream = await serve(script, tls=certificate.server_context() if secure else None)
    client = native(upstream, tls=trusting(certificate) if secure else None)
    task = asyncio.ensure_future(fetch(client, "POST", content=b"x" * (32 << 20)))
    await until(lambda: any(open_._transport.get_write_buffer_size() for open_ in client._pool._open))
    task.cancel()
    await asyncio.wait([task])
    await until(lambda: not client._pool._open)  # nothing was left to be sent first
    upstream.connections[0].go.set()
