"""An exchange whose events or whose copy are in a Redis is cancelled at every await in turn, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from streamproxy.app import Application, create_app
from streamproxy.config import parse_config
from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.faults.test_cancel_everywhere import answer, run_struck_at
from tests.integration.redis import RedisServer, redis_server


@pytest.fixture
async def redis(leaks: LeakCheck, tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


async def strike_everywhere(app: Application, how: str, *fields: tuple[bytes, bytes]) -> tuple[int, Any]:
    """Once a request is answered at all: returns how many awaits there were, and the exchange that nothing struck."""
    ended: list[Any] = []
    app.ledger.observers.append(ended.append)

    async def answers() -> bool:
        await run_struck_at(app, 1000, how, *fields, method="GET")
        return bool(ended[-1].status == 200)

    await until(answers, "a response")
    struck = 0
    while await run_struck_at(app, struck, how, *fields, method="GET"):
        struck += 1
    return struck, ended[-1]


async def started(config: dict[str, Any]) -> Application:
    app = create_app(parse_config(json.dumps({"log": {"access": "off"}, **config}), name="test"))
    await app.deployment.start()
    return app


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_stream_that_is_kept_in_redis(leaks: LeakCheck, serve: Serve, redis: RedisServer, how: str) -> None:
    upstream = await serve(answer)
    app = await started({"routes": [{"path": "/*", "upstream": upstream.url, "resume": {"store": redis.url}}]})
    struck, last = await strike_everywhere(app, how)
    assert struck > 3
    assert (last.end, last.events) == ("complete", 3)
    await app.aclose()


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_replay_of_a_stream_of_another_process(
    leaks: LeakCheck, serve: Serve, redis: RedisServer, how: str
) -> None:
    upstream = await serve(answer)
    config = {"routes": [{"path": "/*", "upstream": upstream.url, "resume": {"store": redis.url}}]}
    here, there = await started(config), await started(config)
    _, first = await strike_everywhere(here, "interrupt")
    place = (b"last-event-id", first.stream.encode() + b"/1")
    struck, last = await strike_everywhere(there, how, place)
    assert struck > 2
    assert (last.end, last.events) == ("complete", 2)
    await there.aclose()
    await here.aclose()


@contextlib.asynccontextmanager
async def publishing(redis: RedisServer) -> AsyncIterator[None]:
    """Publishes without an end."""

    over = asyncio.Event()

    async def run() -> None:
        async with Redis.from_url(redis.url) as client:
            while not over.is_set():
                await client.publish("news", "x")

    task = asyncio.create_task(run())
    yield
    over.set()
    await task


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
@pytest.mark.parametrize("kind", ["pubsub", "stream"])
async def test_events_from_redis(leaks: LeakCheck, redis: RedisServer, kind: str, how: str) -> None:
    for number in range(1, 5):
        await redis.command("XADD", "entries", f"{number}-0", "data", "x")
    channel = "news" if kind == "pubsub" else "entries"
    source = {"redis": {"url": redis.url, "channel": channel, "kind": kind}}
    route = {"path": "/*", "upstream": "events", "limits": {"max_events": 3}}
    app = await started({"routes": [route], "upstreams": {"events": source}})
    begin = (b"last-event-id", b"0-0")
    async with publishing(redis):
        struck, last = await strike_everywhere(app, how, begin)
    assert struck > 3
    assert (last.end, last.events) == ("rejected", 3)
    await app.aclose()
    assert await redis.command("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0]
