"""200 resumable streams, while what they depend on fails: what a client has got is always a prefix of the upstream's
bytes, and with what it gets when it comes back it has each event once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, stream_head
from tests.integration.process import Process
from tests.integration.proxy import Config, configuration, running, write_configuration
from tests.integration.redis import RedisServer

STREAMS = 200
EVENTS = 30
ERRORS = 'streamproxy_store_errors_total{store="resume"}'


def sidecar(upstream: str, redis: str, **server: object) -> Config:
    route = {"name": "chat", "path": "/*", "upstream": upstream, "resume": {"store": redis, "ids": "off"}}
    return configuration([route], server=server)


def events(first: int, last: int) -> bytes:
    return b"".join(b"data: %d\n\n" % number for number in range(first, last + 1))


async def finite(conn: Conn) -> None:
    """So many events, a quarter of them at once, and each other quarter when the test says so."""
    await conn.read_request()
    await in_quarters(conn)


async def in_quarters(conn: Conn) -> None:
    await conn.send(stream_head())
    for quarter in range(4):
        for number in range(quarter * EVENTS // 4, (quarter + 1) * EVENTS // 4):
            await conn.send_chunk(events(number + 1, number + 1))
            await asyncio.sleep(0)
        if quarter < 3:
            await conn.go.wait()
            conn.go.clear()
    await conn.send_chunk(b"")


def next_quarter(upstream: Upstream) -> None:
    for conn in upstream.connections:
        conn.go.set()


class Reader:
    """A client with its cursor: it can be cut, and come back anywhere."""

    def __init__(self, dial: Connect, stream: str = "", got: bytes = b"") -> None:
        self._dial = dial
        self._client: RawClient | None = None
        self.stream = stream
        self.got = got

    async def begin(self, url: str, target: str = "/") -> None:
        self._client = client = await self._dial(url)
        await client.request(target)
        begin = (await client.read_head()).get("x-stream-cursor")
        assert begin is not None
        self.stream = begin[:-2].decode()

    def cut(self) -> None:
        """Lose the connection; what has come and was not read is forgotten."""
        assert self._client is not None
        self._client.reset()
        self._client = None

    async def come_back(self, url: str) -> None:
        self._client = client = await self._dial(url)
        place = f"{self.stream}/{self.got.count(b'data:')}"
        await client.request("/", headers=[("Last-Event-ID", place)])
        assert (await client.read_head()).status == 200

    async def until(self, number: int) -> None:
        """Read on to the end of an event."""
        assert self._client is not None
        self.got += await self._client.read_body_until(events(number, number))

    async def one_more(self) -> None:
        assert self._client is not None
        self.got += await self._client.read_body_until(b"\n\n")

    async def finish(self) -> bytes:
        assert self._client is not None
        rest = await self._client.read_rest()
        assert rest.complete
        return self.got + rest.body


async def begin_all(dial: Connect, url: str, upstream: Upstream) -> list[Reader]:
    readers = [Reader(dial) for _ in range(STREAMS)]
    for reader in readers:
        await reader.begin(url)
    for reader in readers:
        await reader.until(EVENTS // 4)
    return readers


@asynccontextmanager
async def frozen(redis: RedisServer) -> AsyncIterator[None]:
    redis.freeze()
    yield
    redis.thaw()


@asynccontextmanager
async def slow(redis: RedisServer) -> AsyncIterator[None]:
    await redis.command("CLIENT", "PAUSE", 500, "ALL")
    yield


@asynccontextmanager
async def full(redis: RedisServer) -> AsyncIterator[None]:
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    yield
    await redis.command("CONFIG", "SET", "maxmemory", 0)


@asynccontextmanager
async def replica(redis: RedisServer) -> AsyncIterator[None]:
    await redis.command("REPLICAOF", "127.0.0.1", 1)
    yield
    await redis.command("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def unsaved(redis: RedisServer) -> AsyncIterator[None]:
    """It could not write its file to the disk, and takes no writes until it can."""
    (redis.folder / "dump.rdb").mkdir()
    await redis.command("CONFIG", "SET", "save", "3600 1000000")
    await redis.command("BGSAVE")
    await until(lambda: _refuses_writes(redis), "the file not to be written")
    yield
    await redis.command("CONFIG", "SET", "save", "")


async def _refuses_writes(redis: RedisServer) -> bool:
    try:
        await redis.command("SET", "any", "x")
    except ResponseError as refusal:
        return str(refusal).startswith("MISCONF")
    return False


@asynccontextmanager
async def forbidden(redis: RedisServer) -> AsyncIterator[None]:
    """The user may do everything but add entries."""
    await redis.command("ACL", "SETUSER", "default", "-xadd")
    yield
    await redis.command("ACL", "SETUSER", "default", "+xadd")


async def test_redis_may_refuse_writes_while_200_streams_run_and_nobody_is_cut(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(finite)
    config = sidecar(upstream.url, redis.url)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    extra = 0

    async def cursors(wanted: bool) -> None:
        async def asked() -> bool:
            nonlocal extra
            client = await dial(here.url)
            await client.request("/")
            extra += 1
            cursor = (await client.read_head()).get("x-stream-cursor")
            client.reset()
            return (cursor is not None) is wanted

        await until(asked, f"new streams to have {'a' if wanted else 'no'} cursor")

    async with running(config, tmp_path / "here") as here, running(config, tmp_path / "there") as there:
        readers = await begin_all(dial, here.url, upstream)
        elsewhere = [Reader(dial, reader.stream) for reader in readers[:20]]
        for reader in elsewhere:
            await reader.come_back(there.url)
            await reader.until(EVENTS // 4)
        for quarter, fault in enumerate((replica, unsaved, forbidden), 2):
            errors = await here.metric(ERRORS)
            async with fault(redis):
                next_quarter(upstream)
                for reader in readers:  # nobody waits for Redis
                    await reader.until(quarter * EVENTS // 4)
                await cursors(False)
                assert await here.metric(ERRORS) > errors
            await cursors(True)
            for reader in elsewhere:  # and the copy goes on
                await reader.until(quarter * EVENTS // 4)
        next_quarter(upstream)
        for reader in (*readers, *elsewhere):
            assert await reader.finish() == events(1, EVENTS)
    assert len(upstream.requests) == STREAMS + extra


@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_two_clients_with_one_cursor_each_get_the_rest_once_while_200_streams_run(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path, store: str
) -> None:
    upstream = await serve(finite)
    config = sidecar(upstream.url, redis.url if store == "redis" else "memory")
    async with AsyncExitStack() as stack:
        urls = []
        for name in ("here", "there") if store == "redis" else ("here",):
            (tmp_path / name).mkdir()
            urls.append((await stack.enter_async_context(running(config, tmp_path / name))).url)
        readers = await begin_all(dial, urls[0], upstream)
        twins = [Reader(dial, reader.stream, reader.got) for reader in readers]
        for reader in readers:
            reader.cut()
        next_quarter(upstream)  # some of it comes before they are back, some while they are, the rest later
        both = [(readers, urls[0]), (twins, urls[-1])]
        await asyncio.gather(*(one.come_back(url) for ones, url in both for one in ones))
        for quarter in (2, 3):
            for reader in (*readers, *twins):
                await reader.until(quarter * EVENTS // 4)
            next_quarter(upstream)
        for reader in (*readers, *twins):
            assert await reader.finish() == events(1, EVENTS)
    assert len(upstream.requests) == STREAMS


async def test_redis_may_stand_still_be_slow_and_be_full_while_200_streams_run(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(finite)
    config = sidecar(upstream.url, redis.url)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    async with running(config, tmp_path / "here") as here, running(config, tmp_path / "there") as there:
        readers = await begin_all(dial, here.url, upstream)
        for quarter, fault in enumerate((frozen, slow, full), 2):
            async with fault(redis):
                next_quarter(upstream)
                for reader in readers:  # nobody waits for Redis
                    await reader.until(quarter * EVENTS // 4)
        for reader in readers:
            assert await reader.finish() == events(1, EVENTS)
        for reader in readers:  # and the copy has no gap
            other = Reader(dial, reader.stream, events(1, 3))
            await until(partial(_answers, dial, there.url, other.stream), "the copy")
            await other.come_back(there.url)
            assert await other.finish() == events(1, EVENTS)
    assert len(upstream.requests) == STREAMS


async def _answers(dial: Connect, url: str, stream: str) -> bool:
    """Whether the whole of a stream is there: nothing comes after its end."""
    client = await dial(url)
    answer = await client.get("/", headers=[("Last-Event-ID", f"{stream}/{EVENTS}")])
    client.reset()
    return answer.status == 204


async def test_a_reload_and_a_takeover_cut_no_stream_and_keep_every_cursor(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(finite)
    with reserved_port() as main, reserved_port() as admin:
        config = sidecar(upstream.url, redis.url, listen=f"127.0.0.1:{main}", drain_timeout="20s")
        config["admin"] = {"listen": f"127.0.0.1:{admin}"}
        file = write_configuration(tmp_path, config)
        command = [sys.executable, "-m", "streamproxy", "run", "-c", str(file)]
        with Process(command) as old:
            url = (await old.line(r"^listening on (\S+)"))[1]
            readers = await begin_all(dial, url, upstream)
            config["routes"][0]["keepalive"] = "14s"
            file.write_text(json.dumps(config))
            old.signal(signal.SIGHUP)
            next_quarter(upstream)
            for reader in readers:
                await reader.until(2 * EVENTS // 4)
            with Process([*command, "--takeover"]) as new:
                await new.line(r"^listening on (\S+)")
                left = readers[::2]
                for reader in left:
                    reader.cut()
                await asyncio.gather(*(reader.come_back(url) for reader in left))
                for _ in range(2):
                    next_quarter(upstream)
                    await asyncio.sleep(0.1)
                for reader in readers:
                    assert await reader.finish() == events(1, EVENTS)
                assert await old.exited() == 0
                late = await dial(url)
                last = f"{readers[0].stream}/{EVENTS}"
                assert (await late.get("/", headers=[("Last-Event-ID", last)])).status == 204
                late.reset()
                assert await new.stop() == 0
    assert len(upstream.requests) == STREAMS


async def test_200_streams_survive_the_drain_of_their_sidecar_and_are_kept_after_its_end(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(finite)
    config = sidecar(upstream.url, redis.url, drain_timeout="30s")
    (tmp_path / "there").mkdir()
    file = write_configuration(tmp_path, config)
    async with running(config, tmp_path / "there") as there:
        with Process([sys.executable, "-m", "streamproxy", "run", "-c", str(file)]) as process:
            readers = await begin_all(dial, (await process.line(r"^listening on (\S+)"))[1], upstream)
            process.signal(signal.SIGTERM)
            left = readers[::2]
            for reader in left:
                reader.cut()
            await asyncio.gather(*(reader.come_back(there.url) for reader in left))
            for quarter in range(2, 5):
                next_quarter(upstream)
                for reader in readers:
                    await reader.until(quarter * EVENTS // 4)
            for reader in readers:
                assert await reader.finish() == events(1, EVENTS)
            assert await process.exited() == 0
        for reader in readers[::20]:
            late = Reader(dial, reader.stream, events(1, EVENTS - 1))
            await late.come_back(there.url)
            assert await late.finish() == events(1, EVENTS)
            assert await _answers(dial, there.url, reader.stream)
    assert len(upstream.requests) == STREAMS


async def test_a_client_that_comes_back_50_times_a_second_gets_each_event_once_beside_200_streams(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    async def ticking(conn: Conn) -> None:
        head, _ = await conn.read_request()
        if b"/ticking" not in head.start:
            await in_quarters(conn)
            return
        await conn.send(stream_head())
        for number in range(1, 101):
            await conn.send_chunk(events(number, number))
            await asyncio.sleep(0.01)
        await conn.send_chunk(b"")

    upstream = await serve(ticking)
    config = sidecar(upstream.url, redis.url)
    async with AsyncExitStack() as stack:
        urls = []
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
            urls.append((await stack.enter_async_context(running(config, tmp_path / name))).url)
        readers = await begin_all(dial, urls[0], upstream)
        restless = Reader(dial)
        await restless.begin(urls[0], "/ticking")
        here, there = Reader(dial, restless.stream), Reader(dial, restless.stream)
        await here.come_back(urls[0])  # two clients with one cursor, each gets everything
        await there.come_back(urls[1])
        for number in range(50):
            await asyncio.sleep(0.02)
            await restless.one_more()
            restless.cut()
            await restless.come_back(urls[number % 2])
            if number in (10, 20, 30):
                next_quarter(upstream)
        for reader in (restless, here, there):
            assert await reader.finish() == events(1, 100)
        for reader in readers:
            assert await reader.finish() == events(1, EVENTS)
    assert len(upstream.requests) == STREAMS + 1
