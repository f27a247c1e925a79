"""The client leaves: the application hears of it at once, whatever it is doing, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from typing import Any

import pytest

from tests.conftest import Connect
from tests.doubles.client import RawClient
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import GET, Receive, Scope, Send, body_message, start_message, turns, wired

UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"


class Waiter:
    """An application that waits in some phase of an exchange, until it is told that the client left."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.calls = 0
        self.left_at = 0.0

    def _on_disconnect(self) -> None:
        self.calls += 1
        self.left_at = time.monotonic()
        self.left.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.on_disconnect = self._on_disconnect
        self.entered.set()
        if self.phase == "body":
            await send(start_message())
            await send(body_message(b"begun", more=True))
        elif self.phase == "stuck":
            await send(start_message())
            with contextlib.suppress(OSError):
                while True:
                    await send(body_message(b"x" * 65536, more=True))
        elif self.phase == "upload":
            assert (await receive())["type"] == "http.request"
        await self.left.wait()
        assert connection.disconnected
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(OSError, match="left"):
            await send(start_message())


def leave(client: RawClient, how: str) -> float:
    at = time.monotonic()
    if how == "half-close":
        client.transport.write_eof()
    elif how == "close":
        client.close()
    else:
        client.reset()
    return at


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize("phase", ["waiting", "body", "pipelined"])
async def test_the_application_is_told_at_once(start: Start, dial: Connect, phase: str, how: str) -> None:
    app = Waiter(phase)
    server = await start(app)
    client = await dial(server.url)
    await client.send(GET + GET if phase == "pipelined" else GET)
    if phase == "body":
        await client.read_until(b"begun")
    async with asyncio.timeout(10):
        await app.entered.wait()
        leave(client, how)
        await app.left.wait()
    assert app.calls == 1


async def test_a_client_that_leaves_in_the_middle_of_its_upload_is_noticed(start: Start, dial: Connect) -> None:
    app = Waiter("upload")
    server = await start(app)
    client = await dial(server.url)
    await client.send(UPLOAD + b"x" * 1000)
    async with asyncio.timeout(10):
        await app.entered.wait()
        await turns()
        leave(client, "close")
        await app.left.wait()


async def test_a_client_that_leaves_while_its_upload_is_held_back_is_noticed(start: Start, dial: Connect) -> None:
    app = Waiter("upload")
    server = await start(app)
    client = await dial(server.url)
    await client.send(UPLOAD)
    await client.send(b"x" * 200_000)
    async with asyncio.timeout(10):
        await app.entered.wait()
        await until(lambda: not server.connection.flow.reading)
        at = leave(client, "close")
        await app.left.wait()
    assert app.left_at - at < 1  # 0.05 s on a machine that has nothing else to do


async def test_a_client_that_leaves_with_a_flood_behind_its_request_is_noticed(start: Start, dial: Connect) -> None:
    app = Waiter("waiting")
    server = await start(app, max_header_size=1000)
    client = await dial(server.url)
    await client.send(GET * 2000)
    async with asyncio.timeout(10):
        await app.entered.wait()
        await until(lambda: not server.connection.flow.reading)
        leave(client, "half-close")
        await app.left.wait()


async def test_a_client_that_leaves_while_it_takes_nothing_is_noticed(start: Start, dial: Connect) -> None:
    app = Waiter("stuck")
    server = await start(app)
    client = await dial(server.url, receive_buffer=4096)
    client.stop_reading()
    await client.send(GET)
    async with asyncio.timeout(10):
        await until(lambda: server.state.connections and server.connection.flow.paused)
        leave(client, "reset")
        await app.left.wait()


async def test_nobody_is_told_after_the_response_is_complete(start: Start, dial: Connect) -> None:
    calls: list[Any] = []
    messages: list[Any] = []
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope["extensions"]["streamproxy.connection"]
        connection.on_disconnect = lambda: calls.append("left")
        await send(start_message(204))
        await send(body_message())
        await done.wait()
        messages.append(await receive())
        messages.append(connection.disconnected)

    server = await start(app)
    client = await dial(server.url)
    await client.send(GET)
    await client.read_response()
    client.close()
    async with asyncio.timeout(10):
        await until(lambda: not server.state.connections)
        done.set()
        await until(lambda: not server.state.tasks)
    assert (calls, messages) == ([], [{"type": "http.disconnect"}, False])


async def test_receive_wakes_when_the_client_leaves() -> None:
    heard: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await receive())
        heard.append(await receive())

    protocol, _ = wired(app)
    protocol.data_received(GET)
    await turns()
    assert heard == [{"type": "http.request", "body": b"", "more_body": False}]
    protocol.connection_lost(None)
    await turns()
    assert heard[1] == {"type": "http.disconnect"}


async def test_two_who_wait_for_the_client_are_both_told_and_one_may_be_cancelled() -> None:
    heard: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        first, second, third = (asyncio.ensure_future(receive()) for _ in range(3))
        await turns(1)
        second.cancel()
        heard.extend(await asyncio.gather(first, second, third, return_exceptions=True))

    protocol, _ = wired(app)
    protocol.data_received(GET)
    await turns()
    protocol.connection_lost(None)
    await turns(5)
    assert [type(one) for one in heard] == [dict, asyncio.CancelledError, dict]


@pytest.mark.parametrize("phase", ["waiting", "body", "pipelined", "upload"])
async def test_nothing_stays_after_hundreds_of_aborts(
    start: Start, dial: Connect, leaks: LeakCheck, phase: str
) -> None:
    seen: list[weakref.ref[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.Event()
        connection = scope["extensions"]["streamproxy.connection"]
        connection.on_disconnect = left.set
        seen.extend(weakref.ref(one) for one in server.state.connections)
        if phase == "body":
            await send(start_message())
            await send(body_message(b"begun", more=True))
        await left.wait()

    server = await start(app)
    request = {"pipelined": GET * 3, "upload": UPLOAD + b"x" * 1000}.get(phase, GET)
    for number in range(200):
        client = await dial(server.url)
        await client.send(request)
        await until(lambda: len(server.state.tasks) >= 1)
        if phase == "body":
            await client.read_until(b"begun")
        leave(client, ("close", "reset", "half-close")[number % 3])
        await until(lambda: not (server.state.tasks or server.state.connections))
        client.close()
    await turns()
    gc.collect()
    assert len(seen) >= 200
    assert [one for one in seen if one() is not None] == []


async def test_a_peer_that_leaves_an_aborted_response_unread_does_not_keep_it(start: Start, dial: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                while True:
                    await send(body_message(b"x" * 65536, more=True))
        raise ValueError("gives up")

    server = await start(app, linger=0.05)
    client = await dial(server.url, receive_buffer=4096)
    client.stop_reading()
    await client.send(GET)
    await until(lambda: server.state.connections)
    await until(lambda: not server.state.connections)
    client.go_on_reading()
    assert (await client.wait_ended()).how in ("reset", "eof")
