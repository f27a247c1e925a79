"""The end of the running program, step by step, under each engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient, accepts, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.parts import require
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import Config, RunningProxy, configuration, write_configuration

ENGINES = ("uvicorn", "hypercorn")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def sending(*chunks: bytes) -> Script:
    """A stream that sends its first chunk at once and the rest when the test says so, then ends in good order."""

    async def script(conn: Conn) -> None:
        while True:
            await conn.read_request()
            await conn.send(stream_head())
            await conn.send_chunk(chunks[0])
            await conn.stall()
            for chunk in (*chunks[1:], b""):
                await conn.send_chunk(chunk)

    return script


async def held(conn: Conn) -> None:
    """Answer when the test says so: /events with a stream, anything else with three bytes."""
    head = await conn.read_head()
    await conn.stall()
    if head.target == b"/events":
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.send_chunk(b"")
    else:
        await conn.send(response(b"abc"))


async def open_stream(proxy: RunningProxy, dial: Connect, first: bytes = b"data: 1\n\n") -> RawClient:
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    assert await client.read_body_until(first) == first
    return client


async def until_not_ready(proxy: RunningProxy) -> None:
    await until(lambda: fetch(f"{proxy.admin}/readyz"), "the drain to begin", holds=lambda answer: answer.status == 503)


async def until_refused(proxy: RunningProxy) -> None:
    await until(lambda: accepts(proxy.url), "new connections to be refused", holds=lambda accepted: not accepted)


async def test_during_the_delay_everything_is_served_but_it_is_not_ready(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_delay": "1h"}))
    kept = await dial(proxy.url)
    await kept.get("/")
    proxy.process.signal(signal.SIGTERM)
    await until_not_ready(proxy)
    assert json.loads((await fetch(f"{proxy.admin}/readyz")).body)["reasons"] == ["draining"]
    proxy.process.signal(signal.SIGHUP)
    reload = await fetch(f"{proxy.admin}/reload", method="POST")
    assert (reload.status, b"shutting down" in reload.body) == (422, True)
    for client in (kept, await dial(proxy.url), kept):
        answer = await client.get("/")
        assert (answer.status, answer.get("connection")) == (200, None)
    proxy.process.signal(signal.SIGTERM)
    assert await proxy.process.exited() == 0


async def test_after_the_delay_nothing_is_accepted_and_streams_go_on(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(sending(b"data: 1\n\n", b"data: 2\n\n"))
    server = {"engine": engine, "drain_delay": "50ms", "drain_timeout": "20s"}
    proxy = await run_proxy(configuration(upstream.url, server=server))
    idle = await dial(proxy.url)
    stream = await open_stream(proxy, dial)
    proxy.process.signal(signal.SIGINT)
    await until_refused(proxy)
    await idle.wait_ended()
    assert (await fetch(f"{proxy.admin}/healthz")).status == 200
    assert await proxy.metric(f'streamproxy_streams_active{{route="/*",upstream="{upstream.url}"}}') == 1
    (await upstream.connection()).go.set()
    rest = await stream.read_rest()
    assert (rest.body, rest.complete) == (b"data: 2\n\n", True)
    await stream.wait_ended()
    assert await proxy.process.exited() == 0


async def test_a_response_says_that_its_connection_ends_unless_it_streams(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(held)
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_timeout": "20s"}))
    plain, stream = await dial(proxy.url), await dial(proxy.url)
    await plain.request("/plain")
    await upstream.request(0)
    await stream.request("/events")
    await upstream.request(1)
    proxy.process.signal(signal.SIGTERM)
    await until_refused(proxy)
    for conn in upstream.connections:
        conn.go.set()
    answer = await plain.read_response()
    assert (answer.body, answer.complete, answer.get("connection")) == (b"abc", True, b"close")
    await plain.wait_ended()
    answer = await stream.read_response()
    assert (answer.body, answer.complete, answer.get("connection")) == (b"data: 1\n\n", True, None)
    await stream.wait_ended()
    assert await proxy.process.exited() == 0


async def test_a_stream_inside_an_event_ends_after_it(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(stalling_after(b"data: 1\n\ndata: be", b"gun\n\n"))
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_timeout": "50ms"}))
    stream = await open_stream(proxy, dial, b"data: 1\n\ndata: be")
    proxy.process.signal(signal.SIGTERM)
    await proxy.process.line("ending 1 exchanges")
    (await upstream.connection()).go.set()
    rest = await stream.read_rest()
    assert (rest.body, rest.complete) == (b"gun\n\n", False)
    assert await proxy.process.exited() == 0


def stalling_after(first: bytes, second: bytes) -> Script:
    """A stream of two chunks, the second when the test says so, that never ends."""

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(first)
        await conn.stall()
        await conn.send_chunk(second)
        await conn.wait_ended()

    return script


async def test_an_event_that_never_ends_is_not_waited_for(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(stalling_after(b"data: be", b""))
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_timeout": "50ms"}))
    stream = await open_stream(proxy, dial, b"data: be")
    proxy.process.signal(signal.SIGTERM)
    rest = await stream.read_rest()
    assert (rest.body, rest.complete) == (b"", False)
    await (await upstream.connection()).wait_ended()
    assert await proxy.process.exited() == 0


async def test_a_stream_that_is_ended_is_told_so_if_its_route_wants_that(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(stalling_after(b"data: 1\n\n", b""))
    routes = [{"path": "/*", "upstream": upstream.url, "on_truncation": "error_event"}]
    proxy = await run_proxy(configuration(routes, server={"engine": engine, "drain_timeout": "50ms"}))
    stream = await open_stream(proxy, dial)
    proxy.process.signal(signal.SIGTERM)
    rest = await stream.read_rest()
    assert rest.body.startswith(b"event: error\ndata: {")
    assert rest.body.endswith(b"}\n\n")
    assert not rest.complete
    line = (await proxy.process.line('"path":"/events"'))[0]
    record: dict[str, Any] = json.loads(next(text for text in proxy.process.lines if line in text))
    assert (record["end"], record["phase"]) == ("shutdown", "body")
    assert await proxy.process.exited() == 0


async def test_who_has_no_head_yet_when_time_is_up_is_answered(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(held)
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_timeout": "50ms"}))
    client = await dial(proxy.url)
    await client.request("/plain")
    await upstream.request()
    proxy.process.signal(signal.SIGTERM)
    answer = await client.read_response()
    assert (answer.status, answer.complete, answer.get("connection")) == (503, True, b"close")
    assert await proxy.process.exited() == 0


async def test_a_second_signal_ends_at_once_inside_an_event_too(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(stalling_after(b"data: be", b""))
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_timeout": "off"}))
    stream = await open_stream(proxy, dial, b"data: be")
    proxy.process.signal(signal.SIGTERM)
    await until_refused(proxy)
    proxy.process.signal(signal.SIGTERM)
    assert not (await stream.read_rest()).complete
    assert await proxy.process.exited() == 0


async def test_a_drain_is_quick_when_nothing_runs(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, server={"engine": engine, "drain_timeout": "1h"}))
    kept = await dial(proxy.url)
    await kept.get("/")
    proxy.process.signal(signal.SIGTERM)
    assert await proxy.process.exited() == 0  # long before the hour
    assert (await kept.wait_ended()).how == "eof"
    with pytest.raises((PeerEnded, OSError)):
        await kept.get("/")


async def in_a_container(tmp_path: Path, config: Config) -> list[str]:
    """The command that runs the proxy as number 1 of processes of its own."""
    unshare = require("unshare")
    isolated = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child"]
    tried = await asyncio.to_thread(subprocess.run, [*isolated, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("process namespaces are not allowed here")
    file = write_configuration(tmp_path, config)
    return [*isolated, sys.executable, "-m", "streamproxy", "run", "-c", str(file)]


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def test_as_the_first_process_it_hears_signals_and_leaves_no_zombies(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"abc")))
    with Process(await in_a_container(tmp_path, configuration(upstream.url))) as process:
        url = (await process.line(r"^listening on (\S+)"))[1]
        await process.line("^admin on")
        first = child_of(process.pid)
        assert (await fetch(f"{url}/")).body == b"abc"
        # A shell in the container that leaves a child behind, as an exec probe may.
        orphan = [require("nsenter"), "--target", str(first), "--pid", "sh", "-c", "sleep 0.05 & exit 0"]
        await asyncio.to_thread(subprocess.run, orphan, check=True, timeout=20)
        await until(
            lambda: not Path(f"/proc/{first}/task/{first}/children").read_text().split(), "the orphan to be reaped"
        )
        os.kill(first, signal.SIGHUP)
        await process.line("the configuration was reloaded")
        os.kill(first, signal.SIGTERM)
        assert await process.exited() == 0
