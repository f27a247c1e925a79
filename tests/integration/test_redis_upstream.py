"""Routes whose events are published in a Redis, over a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.conftest import Connect
from tests.doubles.client import RawClient
from tests.doubles.connection import PeerEnded
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.integration.proxy import configuration, running
from tests.integration.redis import RedisServer

SECRET = "a secret that is long enough for HS256"


def events(leaks: LeakCheck, redis: RedisServer, channel: str, keys: dict[str, Any] | None = None, **route: Any) -> Any:
    """The proxy, with one route for everything."""
    source = {"url": redis.url, "channel": channel, **(keys or {})}
    return running_stack(
        [{"path": "/*", "upstream": "events", "keepalive": "off", **route}],
        client_kind="user-less",
        server_kind="uvicorn",
        leaks=leaks,
        upstreams={"events": {"redis": source}},
    )


async def connected(proxy: RunningStack, dial: Connect, target: str = "/news") -> Any:
    """A client whose response has begun; before Redis was there for the first time it is 503."""

    async def begun() -> Any:
        client = await dial(proxy.url)
        await client.request(target)
        head = await client.read_head()
        if head.status == 200:
            return client
        assert head.status == 503
        client.reset()
        return None

    return await until(begun, "the events")


async def test_what_is_published_reaches_every_client_of_the_channel(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    async with events(leaks, redis, "room:{path.1}", {"event": "note"}) as proxy:
        one, two = await connected(proxy, dial), await connected(proxy, dial)
        other = await connected(proxy, dial, "/sports")
        assert await redis.command("PUBLISH", "room:news", "a\nb") == 1  # one subscription for both
        await redis.command("PUBLISH", "room:sports", "c")
        for client in (one, two):
            assert await client.read_body_until(b"\n\n") == b"event: note\ndata: a\ndata: b\n\n"
        assert await other.read_body_until(b"\n\n") == b"event: note\ndata: c\n\n"
        for client in (one, two, other):
            client.reset()
        await until(lambda: not proxy.app.ledger.live, "all to end")
        assert {exchange.end for exchange in proxy.ended if exchange.status == 200} == {"client_disconnect"}


async def test_entries_of_a_stream_come_with_ids_and_go_on_after_the_last(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    async with events(leaks, redis, "log", {"kind": "stream"}) as proxy:
        client = await connected(proxy, dial)
        for number in (1, 2, 3):
            await redis.command("XADD", "log", f"{number}-0", "data", number, "event", "e")
        text = b"".join(b"event: e\ndata: %d\nid: %d-0\n\n" % (n, n) for n in (1, 2, 3))
        assert await client.read_body_until(b"3-0\n\n") == text
        for headers, target in (([("Last-Event-ID", "2-0")], "/"), ([], "/?last_event_id=2-0")):
            back = await dial(proxy.url)
            await back.request(target, headers=headers)
            assert (await back.read_head()).status == 200
            assert await back.read_body_until(b"\n\n") == b"event: e\ndata: 3\nid: 3-0\n\n"
        await redis.command("XTRIM", "log", "MAXLEN", 1)
        for id, status in (("1-0", 410), ("x", 400)):
            asked = await dial(proxy.url)
            assert (await asked.get("/", headers=[("Last-Event-ID", id)])).status == status


@pytest.mark.parametrize("target", ["/a%2A", "/a%20b", "/", "/a*", "/caf%C3%A9"])
async def test_a_value_that_may_not_stand_in_a_channel_is_400(
    leaks: LeakCheck, redis: RedisServer, dial: Connect, target: str
) -> None:
    async with events(leaks, redis, "room:{path.1}") as proxy:
        await connected(proxy, dial)
        client = await dial(proxy.url)
        assert (await client.get(target)).status == 400


async def test_a_key_of_another_type_is_404_for_whoever_names_it_and_no_error_of_redis(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    await redis.command("SET", "room:list", "x")
    async with events(leaks, redis, "room:{path.1}", {"kind": "stream"}) as proxy:
        good = await connected(proxy, dial)
        before = proxy.metric("streamproxy_store_errors_total", store="events")
        answer = await (await dial(proxy.url)).get("/list")
        assert (answer.status, answer.get("proxy-status")) == (404, b"streamproxy; error=destination_not_found")
        await redis.command("XADD", "room:news", "1-0", "data", "1")
        assert await good.read_body_until(b"\n\n") == b"data: 1\nid: 1-0\n\n"
        assert proxy.metric("streamproxy_store_errors_total", store="events") == before
        exchange = next(one for one in proxy.ended if one.status == 404)
        assert (exchange.end, exchange.error.error) == ("rejected", "destination_not_found")


async def test_each_principal_has_a_channel_of_its_own(leaks: LeakCheck, redis: RedisServer, dial: Connect) -> None:
    tokens = [{"name": "ann", "token": "t1"}, {"name": "bob", "token": "t2"}]
    auth = {"bearer": {"tokens": tokens}, "jwt": {"secret": SECRET}}
    async with events(leaks, redis, "user:{principal}", auth=auth) as proxy:
        clients = []
        # The issuer of signed tokens can't give anybody the channel of a token's name.
        for token in ("t1", "t2", jwt.encode({"sub": "ann"}, SECRET, algorithm="HS256")):
            headers = [("Authorization", f"Bearer {token}")]

            async def begun(headers: list[tuple[str, str]] = headers) -> Any:
                client = await dial(proxy.url)
                await client.request("/", headers=headers)
                return client if (await client.read_head()).status == 200 else None

            clients.append(await until(begun, "the events"))
        for name in ("bob", "jwt:ann", "ann"):
            assert await redis.command("PUBLISH", f"user:{name}", name) == 1
        assert await clients[0].read_body_until(b"\n\n") == b"data: ann\n\n"
        assert await clients[1].read_body_until(b"\n\n") == b"data: bob\n\n"
        assert await clients[2].read_body_until(b"\n\n") == b"data: jwt:ann\n\n"
        stranger = await dial(proxy.url)
        assert (await stranger.get("/")).status == 401


async def test_over_max_clients_is_503_and_other_methods_are_405(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    async with events(leaks, redis, "all", {"max_clients": 1}) as proxy:
        first = await connected(proxy, dial)
        client = await dial(proxy.url)
        assert (await client.get("/")).status == 503
        await client.request("/", method="POST", body=b"")
        assert (await client.read_response()).status == 405
        first.reset()
        await connected(proxy, dial)


async def test_no_more_than_max_clients_are_let_in_when_they_come_at_once(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    async with events(leaks, redis, "all", {"kind": "stream", "max_clients": 2}) as proxy:
        (await connected(proxy, dial)).reset()
        await until(lambda: not proxy.app.ledger.live, "it to leave")
        clients = [await dial(proxy.url) for _ in range(8)]
        for client in clients:
            await client.request("/")
        statuses = sorted([(await client.read_head()).status for client in clients])
        assert statuses == [200] * 2 + [503] * 6


async def test_keepalives_go_on_while_redis_is_away_and_events_come_again(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    async with events(leaks, redis, "all", keepalive="50ms") as proxy:
        client = await connected(proxy, dial)
        await redis.kill()
        await until(lambda: proxy.metric("streamproxy_store_errors_total", store="events"), "an error to be counted")
        await client.read_body_until(b": keepalive\n")
        await redis.start()
        await until(lambda: redis.command("PUBLISH", "all", "back"), "somebody to be subscribed")
        await client.read_body_until(b"data: back\n\n")


async def test_a_reload_leaves_clients_and_their_connection_alone(
    leaks: LeakCheck, redis: RedisServer, dial: Connect
) -> None:
    async with events(leaks, redis, "all") as proxy:
        client = await connected(proxy, dial)
        config = proxy.app.deployment.config
        await proxy.app.adopt(
            config.model_copy(update={"routes": (config.routes[0].model_copy(update={"name": "x"}),)})
        )
        late = await connected(proxy, dial)
        assert await redis.command("PUBLISH", "all", "1") == 1
        for one in (client, late):
            assert await one.read_body_until(b"\n\n") == b"data: 1\n\n"


async def test_shutting_down_cuts_the_clients(leaks: LeakCheck, redis: RedisServer, dial: Connect) -> None:
    async with events(leaks, redis, "all") as proxy:
        client = await connected(proxy, dial)
    with pytest.raises(PeerEnded):
        await client.read_body_until(b"never")


async def test_a_message_reaches_the_clients_of_every_worker(redis: RedisServer, dial: Connect, tmp_path: Path) -> None:
    sources = {
        kind: {"redis": {"url": redis.url, "channel": f"{kind}:{{path.2}}", "kind": kind}}
        for kind in ("pubsub", "stream")
    }
    routes = [{"path": f"/{kind}/*", "upstream": kind, "keepalive": "off"} for kind in sources]
    config = configuration(routes, server={"workers": 2}, upstreams=sources)
    async with running(config, tmp_path) as proxy:
        clients: dict[str, list[RawClient]] = {"pubsub": [], "stream": []}
        for kind, members in clients.items():

            async def begun(kind: str = kind, members: list[RawClient] = members) -> bool:
                client = await dial(proxy.url)
                await client.request(f"/{kind}/a")
                if (await client.read_head()).status != 200:
                    return False
                members.append(client)
                return len(members) >= 12

            await until(begun, "clients of both workers")
        assert await redis.command("PUBLISH", "pubsub:a", "one") == 2  # a subscription for each worker
        await redis.command("XADD", "stream:a", "7-0", "data", "one")
        for client in clients["pubsub"]:
            assert await client.read_body_until(b"\n\n") == b"data: one\n\n"
        for client in clients["stream"]:
            assert await client.read_body_until(b"\n\n") == b"data: one\nid: 7-0\n\n"
