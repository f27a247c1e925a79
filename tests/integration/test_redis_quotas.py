"""`limits.store`: several proxies let a client in as if they were one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from streamproxy.config import parse_config
from tests.conftest import Serve
from tests.doubles.client import fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import route, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import answering, response
from tests.integration.redis import RedisServer

USAGE = response(
    b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":60,"completion_tokens":50}}',
    headers=[("Content-Type", "application/json")],
)


def sidecar(leaks: LeakCheck, upstream: str, redis: RedisServer, keys: dict[str, Any], **limits: Any) -> Any:
    config = route(upstream, limits={"store": redis.url, "client_key": "header:X-Tenant", **limits}, **keys)
    return running_stack([config], client_kind="native", server_kind="uvicorn", leaks=leaks)


async def status(proxy: Any, client: str = "a") -> int:
    return (await fetch(proxy.url, headers=[("X-Tenant", client)])).status


async def test_requests_are_counted_over_all_sidecars(leaks: LeakCheck, redis: RedisServer, serve: Serve) -> None:
    upstream = await serve(answering(*[response(b"ok")] * 30))
    limit = {"requests": {"rate": "8/1h"}}
    async with (
        sidecar(leaks, upstream.url, redis, {}, **limit) as one,
        sidecar(leaks, upstream.url, redis, {}, **limit) as two,
    ):
        statuses = [await status((one, two)[number % 2]) for number in range(24)]
        assert statuses.count(200) == 8
        refused = await fetch(two.url, headers=[("X-Tenant", "a")])
        assert refused.status == 429
        assert refused.get("x-ratelimit-limit-requests") == b"8"
        assert 0 < int(refused.get("retry-after") or 0) <= 450
        assert await status(one, "b") == 200


async def test_tokens_are_counted_over_all_sidecars(leaks: LeakCheck, redis: RedisServer, serve: Serve) -> None:
    upstream = await serve(answering(*[USAGE] * 9))
    keys, limit = {"protocol": "openai"}, {"tokens": {"rate": "100/1h"}}
    async with (
        sidecar(leaks, upstream.url, redis, keys, **limit) as one,
        sidecar(leaks, upstream.url, redis, keys, **limit) as two,
    ):
        assert await status(one) == 200

        async def charged() -> bool:
            return bool(await redis.command("KEYS", "streamproxy:limit:*"))

        await until(charged, "the tokens to be in Redis")
        assert await status(two) == 429


async def test_without_redis_each_counts_for_itself_and_says_so(
    leaks: LeakCheck, redis: RedisServer, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "streamproxy")
    upstream = await serve(answering(*[response(b"ok")] * 30))
    async with sidecar(leaks, upstream.url, redis, {}, requests={"rate": "2/1h"}) as proxy:
        await redis.kill()
        assert [await status(proxy) for _ in range(3)] == [200, 200, 429]
        assert proxy.metric("streamproxy_store_errors_total", store="limits") > 0
        assert "in this process alone" in caplog.text
        await redis.start()

        async def shared() -> bool:
            return await status(proxy, "c") == 200 and bool(await redis.command("KEYS", "streamproxy:limit:*"))

        await until(shared, "the limits to be in Redis again")


async def test_a_reload_goes_on_over_the_same_connection(leaks: LeakCheck, redis: RedisServer, serve: Serve) -> None:
    upstream = await serve(answering(*[response(b"ok")] * 30))
    async with sidecar(leaks, upstream.url, redis, {}, requests={"rate": "4/1h"}) as proxy:
        assert [await status(proxy) for _ in range(2)] == [200, 200]
        limits = {"store": redis.url, "client_key": "header:X-Tenant", "requests": {"rate": "4/1h"}}
        same = {"routes": [route(upstream.url, name="r0", limits=limits, methods=["GET"])], "log": {"access": "off"}}
        await proxy.app.adopt(parse_config(json.dumps(same), name="same"))
        assert [await status(proxy) for _ in range(3)] == [200, 200, 429]
        assert len(str(await redis.command("CLIENT", "LIST", "TYPE", "normal")).splitlines()) <= 2
