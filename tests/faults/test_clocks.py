"""The wall clock jumps, and the process stands still for a while, as on a suspended machine: no stream is cut by it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import jwt
import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import connect, fetch
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.integration.process import Process
from tests.integration.proxy import Config, RunningProxy, configuration, running, write_configuration

DAY = 86_400
LIMIT = 0.5  # seconds, of every time-out here


async def two_halves(conn: Conn) -> None:
    """A head and an event each when the test says so."""
    await conn.read_request()
    await conn.stall()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.upstream.go.wait()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


@asynccontextmanager
async def stopped(proxy: RunningProxy) -> AsyncIterator[None]:
    """The process stands still for what is done meanwhile, and for longer than any of its time-outs."""
    loop = asyncio.get_running_loop()
    proxy.process.signal(signal.SIGSTOP)
    began = loop.time()
    yield
    await until(lambda: loop.time() > began + 3 * LIMIT, "the time-outs to be over")
    proxy.process.signal(signal.SIGCONT)


@pytest.mark.parametrize("limit", ["first_byte", "idle", "write"])
async def test_what_came_while_the_process_stood_still_counts_as_in_time(
    serve: Serve, tmp_path: Path, limit: str
) -> None:
    upstream = await serve(two_halves)
    route = {"path": "/*", "upstream": upstream.url, "timeouts": {limit: f"{LIMIT}s"}}
    async with running(configuration([route]), tmp_path) as proxy, await connect(proxy.url) as client:
        await client.request("/")
        conn = await upstream.connection()
        await upstream.request()
        if limit == "first_byte":
            async with stopped(proxy):
                conn.go.set()
        conn.go.set()
        assert (await client.read_head()).status == 200
        assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
        async with stopped(proxy):
            upstream.go.set()
        answer = await client.read_rest()
        assert (answer.body, answer.complete) == (b"data: 2\n\n", True)


async def test_a_head_that_came_while_the_process_stood_still_is_served(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(two_halves)
    upstream.go.set()
    limits = {"head_timeout": f"{LIMIT}s", "keepalive_timeout": f"{LIMIT}s"}
    async with (
        running(configuration(upstream.url, server=limits), tmp_path) as proxy,
        await connect(proxy.url) as begun,
        await connect(proxy.url) as silent,
    ):
        await begun.send(b"GET / HTTP/1.1\r\n")
        await fetch(f"{proxy.admin}/healthz")  # the main listener has accepted both by then
        async with stopped(proxy):
            await begun.send(b"Host: a\r\n\r\n")
            await silent.request("/")
        for number in range(2):
            (await upstream.connection(number)).go.set()
        for client in (begun, silent):
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (200, True)


async def test_silence_is_still_a_time_out_after_the_process_stood_still(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(two_halves)
    route = {"path": "/*", "upstream": upstream.url, "timeouts": {"idle": f"{LIMIT}s"}}
    async with running(configuration([route]), tmp_path) as proxy, await connect(proxy.url) as client:
        await client.request("/")
        (await upstream.connection()).go.set()
        await client.read_head()
        await client.read_body_until(b"\n\n")
        async with stopped(proxy):
            pass
        answer = await client.read_rest()
        assert (answer.body, answer.complete) == (b"", False)


@asynccontextmanager
async def running_by(wall: Path, config: Config, folder: Path) -> AsyncIterator[RunningProxy]:
    """The program, with its wall clock as many seconds off as the file ``wall`` says."""
    file = write_configuration(folder, config)
    command = [sys.executable, "-m", "tests.doubles.wall_clock", str(wall), "run", "-c", str(file)]
    with Process(command) as process:
        main = (await process.line(r"listening on (https?://[^\s\"]+)"))[1]
        admin = (await process.line(r"admin on (http://[^\s\"]+)"))[1]
        yield RunningProxy(process, main, admin, file)
        assert await process.stop() == 0


def turn(wall: Path, seconds: int) -> None:
    wall.with_suffix(".new").write_text(str(seconds))
    wall.with_suffix(".new").rename(wall)


async def test_a_wall_clock_that_jumps_by_days_changes_nothing_but_the_time_that_is_shown(
    serve: Serve, dial: Connect, tmp_path: Path
) -> None:
    upstream, brief = await serve(two_halves), await serve(answering(response(b"ok")))
    kept = {"window": "60s", "grace": "60s", "ids": "off"}
    timeouts = {"idle": "60s", "write": "60s"}
    slow = {"path": "/slow", "upstream": upstream.url, "keepalive": "200ms", "timeouts": timeouts, "resume": kept}
    config = configuration([slow, {"path": "/brief", "upstream": brief.url}], log={"format": "json"})
    wall, jumps = tmp_path / "wall", (0, 1, -2, 400)
    turn(wall, 0)
    async with running_by(wall, config, tmp_path) as proxy:
        client = await dial(proxy.url)
        await client.request("/slow")
        (await upstream.connection()).go.set()
        cursor = (await client.read_head()).get("x-stream-cursor") or b""
        await client.read_body_until(b"data: 1\n\n")
        for days in jumps:
            turn(wall, days * DAY)
            assert (await fetch(f"{proxy.url}/brief")).body == b"ok"
            for _ in range(3):
                assert await client.read_body_until(b"\n\n") == b": keepalive\n\n"
        client.reset()
        turn(wall, -400 * DAY)
        upstream.go.set()
        again = await (await dial(proxy.url)).get("/slow", headers=[("Last-Event-ID", cursor.decode())])
        assert again.complete
        assert [line for line in again.body.split(b"\n\n") if line.startswith(b"data")] == [b"data: 1", b"data: 2"]
        await until(lambda: proxy.process.output.count('"end"'), "the log", holds=lambda lines: lines == len(jumps) + 2)
        lines = [json.loads(line) for line in proxy.process.output.splitlines() if '"end"' in line]
        assert all(0 <= line["duration_ms"] < 60_000 for line in lines), lines
        shown = [datetime.fromisoformat(line["time"]) for line in lines if line["path"] == "/brief"]
        assert [round((time - shown[0]).total_seconds() / DAY) for time in shown] == list(jumps)
        metrics = (await fetch(f"{proxy.admin}/metrics")).body.decode()
        assert not [line for line in metrics.splitlines() if " -" in line and not line.startswith("#")]


async def test_tokens_go_by_the_wall_clock_and_quotas_do_not(serve: Serve, dial: Connect, tmp_path: Path) -> None:
    secret, now = "a secret of thirty-two bytes and more", int(time.time())
    upstream, brief = await serve(two_halves), await serve(answering(response(b"ok")))
    auth = {"jwt": {"secret": secret, "leeway": "0s"}}
    slow = {"path": "/slow", "upstream": upstream.url, "auth": auth}
    plain = {"path": "/brief", "upstream": brief.url, "auth": auth}
    limited = {"path": "/limited", "upstream": brief.url, "limits": {"requests": {"rate": "1/1h"}}}
    wall = tmp_path / "wall"
    turn(wall, 0)

    def bearer(name: str, since: int = -2 * DAY) -> list[tuple[str, str]]:
        claims = {"sub": name, "nbf": now + since, "exp": now + DAY}
        return [("Authorization", f"Bearer {jwt.encode(claims, secret)}")]

    async with running_by(wall, configuration([slow, plain, limited]), tmp_path) as proxy:
        client = await dial(proxy.url)
        await client.request("/slow", headers=bearer("a"))
        (await upstream.connection()).go.set()
        assert (await client.read_head()).status == 200
        assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"

        async def status(name: str, since: int = -2 * DAY) -> int:
            return (await fetch(f"{proxy.url}/brief", headers=bearer(name, since))).status

        limits = [(await fetch(f"{proxy.url}/limited")).status]
        for days, seen, new in ((0, 200, 200), (2, 401, 401), (0, 200, 200), (-3, 200, 401), (400, 401, 401)):
            turn(wall, days * DAY)
            # One that was seen is not asked for its nbf again; one that has expired is refused, however often seen.
            assert (await status("a"), await status(f"new {days}")) == (seen, new), days
            limits.append((await fetch(f"{proxy.url}/limited")).status)
        assert limits == [200, 429, 429, 429, 429, 429]
        upstream.go.set()
        answer = await client.read_rest()
        assert (answer.body, answer.complete) == (b"data: 2\n\n", True)
