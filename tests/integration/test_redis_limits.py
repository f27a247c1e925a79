"""Limits that several processes count together in a real Redis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest

from streamproxy.config.units import rate
from streamproxy.store import redis_limits
from streamproxy.store.limits import Bucket, Decision, Limiter
from streamproxy.store.redis_limits import WAIT, SharedRequests, SharedTokens
from streamproxy.store.redis_link import RedisLink
from tests.doubles.until import until
from tests.integration.redis import RedisServer

Kind = type[SharedRequests] | type[SharedTokens]


class Links:
    """A link for each process that a test pretends to be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.links: list[RedisLink] = []
        self.limiters: list[SharedRequests] = []
        self.errors = 0

    async def requests(self, text: str, burst: int | None = None) -> SharedRequests:
        limiter = SharedRequests(await self._link(), "chat", Bucket.of(rate(text), burst), time.monotonic)
        self.limiters.append(limiter)
        return limiter

    async def tokens(self, text: str) -> SharedTokens:
        return SharedTokens(await self._link(), "chat", Bucket.of(rate(text)), time.monotonic)

    async def _link(self) -> RedisLink:
        link = RedisLink(self.url, self._count)
        await link.start()
        self.links.append(link)
        return link

    def _count(self) -> None:
        self.errors += 1


@pytest.fixture
async def links(redis: RedisServer) -> AsyncIterator[Links]:
    made = Links(redis.url)
    yield made
    for limiter in made.limiters:
        limiter.close()
    for link in made.links:
        await link.aclose()


async def take(limiter: Limiter, client: str = "a") -> Decision:
    now = time.monotonic()
    decision = limiter.take(client, now)
    return await limiter.ask(client, now) if decision is None else decision


def reachable(limiter: SharedRequests | SharedTokens) -> bool:
    return limiter.shared.reachable(time.monotonic())


async def test_processes_together_let_in_no_more_than_the_limit(links: Links) -> None:
    processes = [await links.requests("100/1h") for _ in range(4)]
    decisions = [await take(processes[number % 4]) for number in range(400)]
    allowed = sum(decision.allowed for decision in decisions)
    assert 80 <= allowed <= 100  # what the shares of the others still hold is not let in here
    await until(lambda: not any(process._shares for process in processes), "all shares to be given back")
    await asyncio.gather(*(link.ask("PING") for link in links.links))  # Redis has heard of it
    decisions = [await take(processes[0]) for _ in range(40)]
    assert allowed + sum(decision.allowed for decision in decisions) == 100
    assert links.errors == 0  # Redis did not have the script yet, which is none


async def test_requests_at_once_are_counted_one_by_one(links: Links) -> None:
    processes = [await links.requests("10/1h") for _ in range(2)]
    decisions = await asyncio.gather(*(take(processes[number % 2]) for number in range(100)))
    assert sum(decision.allowed for decision in decisions) == 10
    refused = next(decision for decision in decisions if not decision.allowed)
    assert 0 < refused.retry_after <= 360.0 * 1.01
    assert refused.remaining == 0
    assert refused.limit == 10


async def test_a_clock_of_redis_that_was_a_day_ahead_refuses_nobody_for_a_day(links: Links) -> None:
    one, link = await links.requests("10/1s"), links.links[0]
    assert (await take(one)).allowed
    (key,) = await link.ask("KEYS", "streamproxy:limit:*")
    seconds, _ = await link.ask("TIME")
    await link.ask("SET", key, str((int(seconds) + 86_400) * 1_000_000), "PX", "86400000")  # as before it was set right
    other = await links.requests("10/1s")
    refused = await take(other)
    assert not refused.allowed
    assert refused.retry_after <= 0.2
    await until(lambda: take(other), "a request to be let in", holds=lambda decision: decision.allowed)


async def test_clients_are_counted_apart(links: Links) -> None:
    one = await links.requests("1/1h")
    assert (await take(one, "a")).allowed
    assert (await take(one, "b")).allowed
    assert not (await take(one, "a")).allowed


async def test_a_busy_client_hardly_ever_waits_for_redis(links: Links) -> None:
    one = await links.requests("100000/1m")
    waited = 0
    for number in range(3000):
        now = time.monotonic()
        decision = one.take("a", now)
        if decision is None:
            waited += number > 1500
            decision = await one.ask("a", now)
        assert decision.allowed
        await asyncio.sleep(0.0005)
    assert waited < 15


async def test_a_refused_client_is_refused_without_asking_until_it_is_due(links: Links) -> None:
    one = await links.requests("2/1s")
    assert [(await take(one)).allowed for _ in range(3)] == [True, True, False]
    refused = one.take("a", time.monotonic())
    assert refused is not None
    assert not refused.allowed
    await asyncio.sleep(refused.retry_after + 0.02)
    assert (await take(one)).allowed


async def test_without_redis_the_own_count_decides_and_says_so_and_comes_back(
    links: Links, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, other = await links.requests("10/1h"), await links.requests("10/1h")
    for _ in range(4):
        assert (await take(one)).allowed
    await redis.kill()
    assert [(await take(one)).allowed for _ in range(8)] == [True] * 6 + [False] * 2
    assert one.shared.local
    assert "limit chat is counted in this process alone" in caplog.text
    await redis.start()
    await until(lambda: links.links[0].up and links.links[1].up)
    await until(lambda: reachable(one) and reachable(other), "Redis to be asked again")
    assert [(await take(other)).allowed for _ in range(12)].count(True) == 10  # this Redis has lost all counts
    await take(one)
    assert not one.shared.local
    assert "limit chat is counted in Redis again" in caplog.text


async def test_a_redis_that_refuses_to_count_is_said_to_be_away_once(
    links: Links, redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_limits, "AWAY", 0.02)
    caplog.set_level(logging.INFO)
    one = await links.requests("10/1h")
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    for number in range(5):  # it is asked again and again
        await until(lambda: reachable(one), "Redis to be asked again")
        assert (await take(one, f"c{number}")).allowed
    assert links.errors >= 5
    assert caplog.text.count("limit chat is counted") == 1
    await redis.command("CONFIG", "SET", "maxmemory", 0)
    await until(lambda: reachable(one), "Redis to be asked again")
    assert (await take(one, "d")).allowed
    assert caplog.text.count("limit chat is counted in Redis again") == 1


async def test_a_redis_that_does_not_answer_costs_one_request_a_moment_and_the_next_ones_nothing(
    links: Links, redis: RedisServer
) -> None:
    one = await links.requests("1000/1h")
    assert (await take(one)).allowed
    await redis.command("CLIENT", "PAUSE", 1500)
    times = []
    for number in range(50):
        began = time.monotonic()
        assert (await take(one, f"c{number}")).allowed
        times.append(time.monotonic() - began)
    assert max(times) < WAIT + 0.1
    assert sorted(times)[-2] < 0.02


async def test_tokens_are_charged_in_all_processes(links: Links) -> None:
    one, other = await links.tokens("1000/1h"), await links.tokens("1000/1h")
    assert (await take(one)).remaining == 1000
    one.charge("a", time.monotonic(), 1500)
    assert not (await take(other)).allowed
    refused = await take(one)
    assert not refused.allowed
    assert refused.retry_after == pytest.approx(501 * 3.6, rel=0.01)
    assert (await take(other, "b")).allowed


async def test_tokens_charged_while_redis_is_away_are_told_when_it_is_back(links: Links, redis: RedisServer) -> None:
    one, other = await links.tokens("1000/1h"), await links.tokens("1000/1h")
    assert (await take(one)).allowed
    await redis.kill()
    await until(lambda: not links.links[0].up or bool(one.charge("z", time.monotonic(), 1)))
    one.charge("a", time.monotonic(), 600)
    one.charge("a", time.monotonic(), 600)
    assert not (await take(one)).allowed
    await redis.start()
    await until(lambda: links.links[0].up and links.links[1].up)
    await until(lambda: reachable(one) and reachable(other), "Redis to be asked again")
    await take(one, "somebody")
    await links.links[0].ask("PING")  # behind what was owed
    decision = await take(other)
    assert not decision.allowed


async def test_redis_never_sees_who_the_client_is(links: Links, redis: RedisServer) -> None:
    one = await links.requests("1000/1h")
    await take(one, "Bearer abc")
    keys = await redis.command("KEYS", "*")
    assert isinstance(keys, list)
    assert len(keys) == 1
    assert b"abc" not in keys[0]
    ttl = await redis.command("PTTL", keys[0])
    assert isinstance(ttl, int)
    assert 0 < ttl <= 3600_000
