"""Two sidecars with one Redis: either resumes and stops a stream of the other, and outlives it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from streamproxy.store.cursor import storage_key
from streamproxy.store.redis_layout import data_key
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.until import soon, until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.process import Process
from tests.integration.proxy import Config, configuration, running, write_configuration
from tests.integration.redis import RedisServer

STREAMS = 200


def sidecar(upstream: str, redis: str, **resume: object) -> Config:
    resume = {"store": redis, "ids": "off", **resume}
    return configuration([{"name": "chat", "path": "/*", "upstream": upstream, "keepalive": "off", "resume": resume}])


@asynccontextmanager
async def killable(config: Config, folder: Path) -> AsyncIterator[tuple[Process, str]]:
    """A sidecar that may be killed."""
    folder.mkdir(exist_ok=True)
    file = write_configuration(folder, config)
    with Process([sys.executable, "-m", "streamproxy", "run", "-c", str(file)]) as process:
        url = (await process.line(r"^listening on (https?://\S+)"))[1]
        yield process, url


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


async def endless(conn: Conn) -> None:
    """An event every 20 ms, until nobody reads them."""
    await conn.read_request()
    await conn.send(stream_head())
    number = 0
    while True:
        number += 1
        await conn.send_chunk(event(number))
        await asyncio.sleep(0.02)


async def slowly(conn: Conn) -> None:
    """Five events at once, and then five a second, until nobody reads them: the machine can do 200 of these."""
    await conn.read_request()
    await conn.send(stream_head())
    number = 0
    while True:
        number += 1
        await conn.send_chunk(event(number))
        await asyncio.sleep(0.2 if number >= 5 else 0)


async def copied(redis: RedisServer, begin: bytes | None) -> int:
    """How many events of a stream Redis has."""
    assert begin is not None
    key = data_key(storage_key(begin[:-2].decode()))
    entries = await redis.command("XREVRANGE", key, "+", "-", "COUNT", 1)
    return int(entries[0][1][b"n"]) if isinstance(entries, list) and entries else 0


async def test_one_sidecar_resumes_and_stops_what_another_runs(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(endless)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    config = sidecar(upstream.url, redis.url)
    async with running(config, tmp_path / "here") as here, running(config, tmp_path / "there") as there:

        async def resuming_and_stopping() -> float:
            asked = len(upstream.requests)
            first = await dial(here.url)
            await first.request("/")
            begin = (await first.read_head()).get("x-stream-cursor")
            assert begin is not None
            stream = begin[:-2].decode()
            await first.read_body_until(event(10))
            first.reset()
            second = await dial(there.url)
            await second.request("/", headers=[("Last-Event-ID", f"{stream}/10")])
            assert (await second.read_head()).status == 200
            got = await second.read_body_until(event(30))
            assert got == b"".join(map(event, range(11, 31)))
            third = await dial(there.url)
            began = time.monotonic()
            await third.request("/", method="DELETE", headers=[("Last-Event-ID", f"{stream}/0")])
            assert (await third.read_response("DELETE")).status == 204
            ended = await upstream.connections[-1].wait_ended()
            with pytest.raises(PeerEnded):
                await second.read_body_until(b"never")
            assert len(upstream.requests) == asked + 1
            return ended.at - began

        await soon(resuming_and_stopping, within=0.1)


async def test_when_a_sidecar_is_killed_200_streams_end_as_cut_for_those_who_come_back(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(slowly)
    config = sidecar(upstream.url, redis.url)
    (tmp_path / "there").mkdir()
    async with running(config, tmp_path / "there") as there:

        async def come_back(begin: bytes | None) -> bytes:
            assert begin is not None
            client = await dial(there.url)
            await client.request("/", headers=[("Last-Event-ID", begin[:-1].decode() + "3")])
            assert (await client.read_head()).status == 200
            with pytest.raises(PeerEnded):
                await client.read_body_until(b"never")
            return bytes(client.decoded)

        async def killing() -> float:
            async with killable(config, tmp_path / "here") as (process, url):
                clients = [await dial(url) for _ in range(STREAMS)]
                for client in clients:
                    await client.request("/")
                begins = [(await client.read_head()).get("x-stream-cursor") for client in clients]
                for client in clients:
                    await client.read_body_until(event(5))
                for begin in begins:
                    await until(partial(copied, redis, begin), "the copy", holds=lambda events: events >= 5)
                process.signal(signal.SIGKILL)
                await process.exited()
                killed = time.monotonic()
                bodies = await asyncio.gather(*map(come_back, begins))
                took = time.monotonic() - killed
            for body in bodies:
                count = body.count(b"data:")
                assert count >= 2
                assert body == b"".join(map(event, range(4, 4 + count)))
            return took

        await soon(killing, within=8)  # 5 s by contract, on a machine that does nothing else


async def test_redis_may_die_and_come_back_while_200_streams_run(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    upstream = await serve(endless)
    config = sidecar(upstream.url, redis.url)
    (tmp_path / "here").mkdir()
    async with running(config, tmp_path / "here") as here:
        clients = []
        for _ in range(STREAMS):  # one by one: a connection on which nothing is asked for too long is closed
            clients.append(client := await dial(here.url))
            await client.request("/")
            assert (await client.read_head()).get("x-stream-cursor") is not None
        await redis.kill()
        expected = b"".join(map(event, range(1, 60)))
        for client in clients:
            assert await client.read_body_until(event(59)) == expected
        late = await dial(here.url)
        await late.request("/")
        assert (await late.read_head()).get("x-stream-cursor") is None
        await redis.start()

        async def resumable() -> bool:
            client = await dial(here.url)
            await client.request("/")
            head = await client.read_head()
            client.reset()
            return head.get("x-stream-cursor") is not None

        await until(resumable, "streams to have cursors again")
        for client in [*clients, late]:
            client.reset()


async def test_nobody_elses_cursor_reads_or_stops_a_stream_in_any_process(
    serve: Serve, dial: Connect, redis: RedisServer, tmp_path: Path
) -> None:
    async def two_events(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(event(1))
        await conn.stall()
        await conn.send_chunk(event(2))
        await conn.send_chunk(b"")

    upstream = await serve(two_events)
    tokens = [{"name": name, "token": name} for name in ("abc", "abd")]
    config = sidecar(upstream.url, redis.url)
    (route,) = config["routes"]
    paths = {"open": {}, "closed": {"auth": {"bearer": {"tokens": tokens}}}, "other": {}}
    config["routes"] = [route | {"name": name, "path": f"/{name}"} | keys for name, keys in paths.items()]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    async with running(config, tmp_path / "here") as here, running(config, tmp_path / "there") as there:

        async def nobody_else_gets_anything(path: str, cursor: str) -> None:
            strangers = [(path, "Bearer abd"), (path, ""), ("/other", "Bearer abc")]
            for url in (here.url, there.url):
                for target, credential in strangers:
                    fields = [("Authorization", credential)] if credential else []
                    for method in ("GET", "HEAD", "POST", "DELETE"):
                        by_field = (target, [*fields, ("Last-Event-ID", cursor)])
                        by_query = (f"{target}?last_event_id={cursor}", fields)
                        for where, headers in (by_field, by_query):
                            client = await dial(url)
                            await client.request(where, method=method, headers=headers)
                            answer = await client.read_response(method)
                            assert answer.status == (401 if path == "/closed" and not credential else 404)
                            assert b"data:" not in answer.body
                            assert answer.get("x-stream-cursor") is None
                            client.reset()
                for proxy in (here, there):  # and the name of a stream is none of an exchange
                    answer = await fetch(f"{proxy.admin}/streams/{cursor[:-2]}", method="DELETE")
                    assert answer.status == 404

        for number, path in enumerate(("/open", "/closed")):
            owner, key = await dial(here.url), [("Authorization", "Bearer abc")]
            await owner.request(path, headers=key)
            begin = (await owner.read_head()).get("x-stream-cursor")
            assert begin is not None
            await owner.read_body_until(event(1))
            await until(partial(copied, redis, begin), "the copy")
            await nobody_else_gets_anything(path, begin.decode())
            (await upstream.connection(number)).go.set()
            assert (await owner.read_rest()).complete  # nobody has stopped it
            await until(partial(copied, redis, begin), "the copy", holds=lambda events: events >= 2)
            await nobody_else_gets_anything(path, begin.decode())
            back = await dial(there.url)
            answer = await back.get(path, headers=[*key, ("Last-Event-ID", begin.decode())])
            assert answer.body == event(1) + event(2)
    assert len(upstream.requests) == 2
