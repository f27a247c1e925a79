"""A Redis that is several servers: Sentinels and a cluster, with fail-overs and keys that move."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, RedisError

from streamproxy.store.cursor import storage_key
from streamproxy.store.redis_cluster import ClusterLink
from streamproxy.store.redis_connect import Connector
from streamproxy.store.redis_entries import StreamEvents
from streamproxy.store.redis_events import EventBody
from streamproxy.store.redis_layout import data_key
from streamproxy.store.redis_link import RedisLink, StoreDown
from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import RawClient, fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.proxy import Config, RunningProxy, running
from tests.integration.redis import RedisServer, redis_server
from tests.integration.redis_topology import (
    PASSWORD,
    SERVICE,
    WATCHWORD,
    cluster,
    name_of,
    sentinel,
    sentinels,
)
from tests.integration.redis_use import RULES, Redis, everything, kept, works


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


async def two_events(conn: Conn) -> None:
    """The second one comes when the test says so, but on /answer."""
    head, _ = await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(event(1))
    if b"/answer" not in head.raw.splitlines()[0]:
        await conn.go.wait()
    await conn.send_chunk(event(2))
    await conn.send_chunk(b"")


@asynccontextmanager
async def two_sidecars(config: Config, folder: Path) -> AsyncIterator[tuple[RunningProxy, RunningProxy]]:
    for name in ("here", "there"):
        (folder / name).mkdir()
    async with running(config, folder / "here") as here, running(config, folder / "there") as there:
        yield here, there


async def begun(proxy: RunningProxy, dial: Connect) -> tuple[RawClient, str]:
    """A stream of which the client has the first event, and its name."""
    client = await dial(proxy.url)
    await client.request("/live")
    begin = (await client.read_head()).get("x-stream-cursor")
    assert begin is not None
    await client.read_body_until(event(1))
    return client, begin[:-2].decode()


async def resumed(proxy: RunningProxy, dial: Connect, stream: str) -> RawClient:
    client = await dial(proxy.url)
    await client.request("/live", headers=[("Last-Event-ID", f"{stream}/0")])
    assert (await client.read_head()).status == 200
    await client.read_body_until(event(1))
    return client


async def heard(redis: Redis, client: RawClient, *words: str) -> bytes:
    """What a client of events gets of what is published again and again, until it is heard."""
    reading = asyncio.create_task(client.read_body_until(b"\n\n"))
    while not reading.done():
        await redis.command(*words)
        await asyncio.wait([reading], timeout=0.05)
    return reading.result()


async def listening(proxy: RunningProxy, dial: Connect, kind: str) -> RawClient:
    client = await dial(proxy.url)
    await client.request(f"/{kind}")
    assert (await client.read_head()).status == 200
    return client


async def test_a_fail_over_of_sentinels_hurts_no_client_and_is_followed(
    serve: Serve, dial: Connect, leaks: LeakCheck, tmp_path: Path
) -> None:
    upstream = await serve(two_events)
    async with sentinels(tmp_path / "redis") as redis:
        config = everything(upstream.url, redis.url)
        async with two_sidecars(config, tmp_path) as (here, there):
            await works(here, there, dial, redis)
            live, stream = await begun(here, dial)
            back = await resumed(there, dial, stream)
            pubsub, entries = [await listening(there, dial, kind) for kind in ("pubsub", "stream")]
            await redis.primary.kill()
            await here.process.line("is away")
            for conn in upstream.connections:
                conn.go.set()
            assert (await live.read_rest()).body == event(2)
            await here.process.line("is back")
            await kept(here, dial)
            assert await redis.replica.command("ROLE") != b"slave"
            assert (await back.read_rest()).body == event(2)  # by way of the new primary
            assert await heard(redis, pubsub, "PUBLISH", "news:pubsub", "a") == b"data: a\n\n"
            assert (await heard(redis, entries, "XADD", "news:stream", "*", "data", "b")).startswith(b"data: b\nid: ")
            for client in (pubsub, entries):
                client.reset()
            assert (await here.metric('streamproxy_store_errors_total{store="resume"}') or 0) > 0
            shown = await fetch(f"{here.admin}/config")
            for text in (here.process.output, there.process.output, shown.body.decode()):
                for secret in (PASSWORD, WATCHWORD, PASSWORD[-8:], "s%40cret"):
                    assert secret not in text


async def test_sentinels_and_their_primary_over_tls(leaks: LeakCheck, tmp_path: Path, certificate: Certificate) -> None:
    (tmp_path / "sentinel").mkdir()
    async with redis_server(tmp_path) as redis:
        await redis.kill()
        with reserved_port() as port, reserved_port() as watch:
            secure = redis.secure(certificate, port)
            await redis.start()
            settings = (
                f"port 0\ntls-port {watch}\ntls-cert-file {certificate.cert}\ntls-key-file {certificate.key}\n"
                f"tls-ca-cert-file {certificate.cert}\ntls-auth-clients no\ntls-replication yes\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {port} 1\n"
            )
            async with sentinel(tmp_path / "sentinel", settings):
                url = secure.replace("rediss://", "valkeys+sentinel://").replace(f":{port}/0", f":{watch}/{SERVICE}")
                link = RedisLink(url, lambda: None)
                await link.start()
                await until(lambda: link.up)
                assert await link.ask("SET", "a", "b") == b"OK"
                assert await redis.command("GET", "a") == b"b"
                await link.aclose()


async def test_why_no_sentinel_names_a_primary_is_said_without_a_secret(leaks: LeakCheck, tmp_path: Path) -> None:
    with reserved_port() as port:
        async with sentinel(tmp_path, f"port {port}\nrequirepass {WATCHWORD}\n"):
            for password, why in {
                "wr0ng": "of other: .*invalid (username-)?password",
                quote(WATCHWORD, safe=""): "of other$",
            }.items():
                url = f"redis+sentinel://127.0.0.1:{port}/other?sentinel_password={password}"
                connector = Connector(url)

                async def fails(connector: Connector = connector, why: str = why) -> bool:
                    with pytest.raises(RedisError) as caught:
                        await connector.open()
                    for secret in ("wr0ng", WATCHWORD):
                        assert secret not in str(caught.value)
                    return re.search(why, str(caught.value)) is not None  # once the Sentinel has started

                await until(fails)
                await connector.aclose()


async def test_a_cluster_loses_a_node_and_no_client_is_hurt(
    serve: Serve, dial: Connect, leaks: LeakCheck, tmp_path: Path
) -> None:
    upstream = await serve(two_events)
    async with cluster(tmp_path / "redis", 3, replica=True) as redis:
        for node in redis.nodes:  # with the rights that the documentation names
            await node.command("ACL", "SETUSER", "sidecar", "on", ">pass", *RULES, "+cluster|slots", "+asking")
        config = everything(upstream.url, redis.url.replace("://", "://sidecar:pass@"))
        async with two_sidecars(config, tmp_path) as (here, there):
            await works(here, there, dial, redis)
            pubsub, entries = [await listening(there, dial, kind) for kind in ("pubsub", "stream")]
            streams = [await begun(here, dial) for _ in range(4)]
            while not any(slot_of(stream) >= redis.first_slots[2] for _, stream in streams):
                streams.append(await begun(here, dial))
            back = [await resumed(there, dial, stream) for _, stream in streams]
            await redis.nodes[2].kill()
            await here.process.line("is away")
            for conn in upstream.connections:
                conn.go.set()
            for live, _ in streams:
                assert (await live.read_rest()).body == event(2)
            for client in back:
                assert (await client.read_rest()).body == event(2)
            await here.process.line(r"Redis at redis\+cluster://\S+ is back")
            await kept(here, dial)
            assert await heard(redis, pubsub, "PUBLISH", "news:pubsub", "a") == b"data: a\n\n"
            assert (await heard(redis, entries, "XADD", "news:stream", "*", "data", "b")).startswith(b"data: b\nid: ")
            for client in (pubsub, entries):
                client.reset()


def slot_of(stream: str) -> int:
    return int(key_slot(data_key(storage_key(stream)).encode()))


async def take(body: EventBody) -> bytes:
    """The next event."""
    async with asyncio.timeout(10):
        while (chunk := body.ready()) is None:
            await body.change()
    return chunk


async def test_keys_of_a_cluster_are_followed_to_where_they_move(
    leaks: LeakCheck, tmp_path: Path, certificate: Certificate
) -> None:
    async with cluster(tmp_path / "redis", 2) as redis:
        link = ClusterLink(redis.url, lambda: None)
        events = StreamEvents(redis.url, lambda: None)
        await link.start()
        assert link.up
        events.start()
        await until(lambda: events.connected)
        full, empty = await events.subscribe(b"{a}full", 1000), await events.subscribe(b"{a}empty", 1000)
        await redis.command("XADD", "{a}full", "1-0", "data", "1")
        assert await take(full) == b"data: 1\nid: 1-0\n\n"
        assert await link.ask("SET", "{a}one", "1") == b"OK"
        slot = int(key_slot(b"{a}"))
        one, other = redis.nodes if slot < redis.first_slots[1] else redis.nodes[::-1]
        await other.command("CLUSTER", "SETSLOT", slot, "IMPORTING", await name_of(one))
        await one.command("CLUSTER", "SETSLOT", slot, "MIGRATING", await name_of(other))
        await move(one, other, "{a}full", "{a}one")
        # Asked for where they were, and found where they are going.
        assert await link.ask("GET", "{a}one") == b"1"
        assert await link.ask("SET", "{a}two", "2") == b"OK"
        assert await other.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 3
        for node in (other, one):
            await node.command("CLUSTER", "SETSLOT", slot, "NODE", await name_of(other))
        assert await link.ask("GET", "{a}two") == b"2"
        owner = link.server_of(b"{a}two")
        assert owner is not None
        assert owner.url.endswith(f":{other.port}/0")
        await redis.command("XADD", "{a}full", "2-0", "data", "2")
        assert await take(full) == b"data: 2\nid: 2-0\n\n"
        await events.subscribe(b"{a}third", 1000)  # asks for it where it was
        await redis.command("XADD", "{a}empty", "1-0", "data", "1")
        assert await take(empty) == b"data: 1\nid: 1-0\n\n"
        await events.aclose()
        await link.aclose()


async def move(one: RedisServer, other: RedisServer, *keys: str) -> None:
    await one.command("MIGRATE", "127.0.0.1", other.port, "", 0, 5000, "KEYS", *keys)


async def test_a_cluster_that_is_not_there_yet_is_found_by_any_of_its_nodes(leaks: LeakCheck, tmp_path: Path) -> None:
    errors = list[int]()
    with reserved_port() as nobody:
        async with cluster(tmp_path / "redis", 1) as redis:
            port = redis.nodes[0].port
            await redis.nodes[0].kill()
            link = ClusterLink(f"redis+cluster://127.0.0.1:{nobody},127.0.0.1:{port}", lambda: errors.append(1))
            await link.start()
            assert not link.up
            assert errors
            await redis.nodes[0].start()

            async def takes() -> bool:
                with contextlib.suppress(StoreDown, ClusterDownError):  # it takes nothing for a while
                    return bool(await link.ask("SET", "a", "b") == b"OK")
                return False

            await until(takes)
            await link.aclose()


@pytest.mark.parametrize("name", ["valkey", "redis"])
def test_what_is_not_an_option_is_refused_when_the_url_is_read(name: str) -> None:
    for url in (
        f"{name}://h:1/0?unknown=1",
        f"{name}+sentinel://h/s?unknown=1",
        f"{name}+sentinel://h/s?sentinel_unknown=1",
        f"{name}+cluster://h?unknown=1",
    ):
        with pytest.raises(TypeError):
            (ClusterLink if "cluster" in url else RedisLink)(url, lambda: None)
