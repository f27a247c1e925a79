"""How the engine of our own protocols ends: when its connections have, and without a look at the clock before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamproxy.config import Address
from streamproxy.server.engines import EngineSettings, UvicornEngine
from streamproxy.server.sockets import bind, close, url_of
from tests.conftest import Connect
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.unit.server.harness import GET, App, Receive, Scope, Send, body_message, hello, start_message


@asynccontextmanager
async def running(app: App) -> AsyncIterator[tuple[UvicornEngine, str]]:
    listener = bind(Address(host="127.0.0.1", port=0))
    settings = EngineSettings(
        max_header_size=1000, head_timeout=5.0, keepalive_timeout=5.0, max_connections=5, on_rejected=lambda *_: None
    )
    engine, url = UvicornEngine(app, [listener], settings, lifespan=False), url_of(listener)
    await engine.start()
    try:
        yield engine, url
    finally:
        await engine.stop()
        close(listener)


async def test_an_engine_sleeps_at_no_time(leaks: LeakCheck, dial: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    async with running(hello) as (engine, url):
        monkeypatch.setattr("uvicorn.server.asyncio.sleep", noted)
        used, idle = await dial(url), await dial(url)
        await used.send(GET)
        assert (await used.read_response()).body == b"/ "
        engine.drain()
        await engine.stop()
        assert [(await client.wait_ended()).how for client in (used, idle)] == ["eof", "eof"]
    assert [seconds for seconds in slept if seconds] == []


async def test_a_response_that_is_under_way_is_complete_before_the_engine_has_stopped(
    leaks: LeakCheck, dial: Connect
) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, (b"content-length", b"3")))
        await gate.wait()
        await send(body_message(b"end"))

    async with running(app) as (engine, url):
        client = await dial(url)
        await client.send(GET)
        assert (await client.read_head()).status == 200
        stopping = asyncio.create_task(engine.stop())
        await until(lambda: engine._server._connections._emptied is not None, "the engine to wait")
        assert not stopping.done()
        gate.set()
        await stopping
        assert (await client.read_rest()).body == b"end"


async def test_one_that_does_not_end_in_time_is_cancelled(
    leaks: LeakCheck, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running(app) as (engine, url):
        monkeypatch.setattr(engine._server.config, "timeout_graceful_shutdown", 0.01)
        client = await dial(url)
        await client.send(GET)
        await until(lambda: engine._server.server_state.tasks, "the request")
        await engine.stop()
        await ended.wait()
        await client.wait_ended()


async def test_the_file_of_a_unix_socket_stays_while_no_more_connections_are_accepted(
    dial: Connect, tmp_path: Path
) -> None:
    """The loops of CPython 3.13 remove it with a server, unless they are told not to."""
    path = tmp_path / "main.sock"
    listener = bind(Address(path=str(path)))
    settings = EngineSettings(
        max_header_size=1000, head_timeout=5.0, keepalive_timeout=5.0, max_connections=1, on_rejected=lambda *_: None
    )
    made = UvicornEngine(hello, [listener], settings, lifespan=False)
    await made.start()
    first = await dial(f"unix:{path}")
    await first.send(GET)
    assert (await first.read_response()).body == b"/ "
    second = await dial(f"unix:{path}")  # waits in the queue
    first.close()
    await second.send(GET)
    assert (await second.read_response()).body == b"/ "
    second.close()
    made.drain()
    await made.stop()
    close(listener)
    assert not path.exists()
