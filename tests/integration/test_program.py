"""The program from outside: its ports, its metrics, its end; and the application under other servers."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import accepts, fetch
from tests.doubles.parts import require
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head, streaming
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import configuration, write_configuration


async def two_events(conn: Conn) -> None:
    """Send an event, and another when the test says so."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


@pytest.mark.parametrize("engine", ["uvicorn", "hypercorn"])
async def test_sigterm_lets_a_stream_finish_and_takes_no_more(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(two_events)
    proxy = await run_proxy(configuration(upstream.url, server={"drain_timeout": "20s", "engine": engine}))
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
    assert (await fetch(f"{proxy.admin}/readyz")).status == 200

    proxy.process.signal(signal.SIGTERM)
    await until(lambda: accepts(proxy.url), "new connections to be refused", holds=lambda accepted: not accepted)
    assert (await fetch(f"{proxy.admin}/readyz")).status == 503
    assert (await fetch(f"{proxy.admin}/healthz")).status == 200

    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    assert (rest.body, rest.complete) == (b"data: 2\n\n", True)
    assert await proxy.process.exited() == 0


@pytest.mark.parametrize("engine", ["uvicorn", "hypercorn"])
async def test_a_stream_that_outlives_the_drain_is_not_made_to_look_finished(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(two_events)
    proxy = await run_proxy(configuration(upstream.url, server={"drain_timeout": "100ms", "engine": engine}))
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    await client.read_body_until(b"\n\n")
    proxy.process.signal(signal.SIGTERM)
    rest = await client.read_rest()
    assert (rest.body, rest.complete) == (b"", False)
    assert (await (await upstream.connection()).wait_ended()).how in ("eof", "reset")
    assert await proxy.process.exited() == 0


async def test_a_second_sigterm_ends_at_once(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(two_events)
    proxy = await run_proxy(configuration(upstream.url, server={"drain_timeout": "1h"}))
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    await client.read_body_until(b"\n\n")
    proxy.process.signal(signal.SIGTERM)
    await until(lambda: fetch(f"{proxy.admin}/readyz"), "the drain to begin", holds=lambda answer: answer.status == 503)
    proxy.process.signal(signal.SIGTERM)
    assert await proxy.process.exited() == 0
    assert not (await client.read_rest()).complete


async def test_promtool_finds_nothing_wrong_with_the_metrics(
    run_proxy: RunProxy, serve: Serve, dial: Connect, part: Callable[[str], str]
) -> None:
    promtool = part("promtool")
    upstream = await serve(streaming(b"data: 1\n\n", b"data: 2\n\n"))
    proxy = await run_proxy(configuration(upstream.url))
    client = await dial(proxy.url)
    for _ in range(3):
        assert (await client.get("/events")).complete
    metrics = (await fetch(f"{proxy.admin}/metrics")).body
    assert b"streamproxy_events_total{" in metrics
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=metrics, capture_output=True, check=False, timeout=20
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_metrics_of_a_run_count_what_went_through(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b"data: 1\n\n", b"data: 2\n\n"))
    proxy = await run_proxy(configuration(upstream.url))
    client = await dial(proxy.url)
    for _ in range(3):
        assert (await client.get("/events")).complete
    lines = (await fetch(f"{proxy.admin}/metrics")).body.decode().splitlines()
    requests = next(line for line in lines if line.startswith("streamproxy_requests_total{") and "GET" in line)
    assert 'code="200"' in requests
    assert float(requests.rpartition(" ")[2]) == 3
    events = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("streamproxy_events_total{")]
    assert sum(events) == 6


async def test_the_access_log_has_one_json_line_an_exchange(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, log={"format": "json"}))
    client = await dial(proxy.url)
    await client.get("/a?token=hush", headers=[("X-Request-Id", "the-first")])
    found = await proxy.process.line(r"^\{.*the-first.*")
    record = json.loads(found[0])
    expected = {"request_id": "the-first", "path": "/a", "status": 200, "response_bytes": 3, "end": "complete"}
    assert expected.items() <= {**record, "path": record["path"].partition("?")[0]}.items()
    assert "hush" not in proxy.process.output


ASGI_SERVERS = {
    "uvicorn": (["uvicorn", "streamproxy.asgi:app", "--host", "127.0.0.1", "--port", "0"], r"running on (http://\S+)"),
    "hypercorn": (["hypercorn", "streamproxy.asgi:app", "--bind", "127.0.0.1:0"], r"[Rr]unning on (http://\S+)"),
}


@pytest.mark.parametrize("server", list(ASGI_SERVERS))
async def test_the_application_runs_under_another_server(
    serve: Serve, dial: Connect, tmp_path: Path, server: str
) -> None:
    upstream = await serve(two_events)
    file = write_configuration(tmp_path, configuration(upstream.url, admin={"mount": "/-"}))
    command, ready = ASGI_SERVERS[server]
    with Process([sys.executable, "-m", *command], env={"STREAMPROXY_CONFIG": str(file)}) as process:
        url = (await process.line(f"(?i){ready}"))[1]
        client = await dial(url)
        await client.request("/events")
        assert (await client.read_head()).get("x-accel-buffering") == b"no"
        assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
        (await upstream.connection()).go.set()
        assert (await client.read_rest()).complete
        assert (await fetch(f"{url}/-/healthz")).status == 200
        metrics = await fetch(f"{url}/-/metrics")
        assert b"\nstreamproxy_build_info{" in metrics.body
        assert b"engine=" not in metrics.body  # what the configuration says of it does not count here
        await process.stop()
    assert "Traceback" not in process.output


async def test_it_serves_where_nobody_can_take_its_output(dial: Connect, tmp_path: Path) -> None:
    main = tmp_path / "main.sock"
    config = configuration("http://127.0.0.1:9", server={"listen": f"unix:{main}"}, admin={"listen": "off"})
    file = write_configuration(tmp_path, config)
    command = f"exec {sys.executable} -m streamproxy run -c {file} > /dev/full"
    with Process([require("sh"), "-c", command]) as process:
        await until(lambda: accepts(f"unix:{main}"), "the listener")
        client = await dial(f"unix:{main}")
        assert (await client.get("/")).status == 502
        assert await process.stop() == 0
    assert "Traceback" not in process.output


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_takes_as_many_descriptors_as_the_system_gives(tmp_path: Path, workers: int) -> None:
    file = write_configuration(tmp_path, configuration("http://127.0.0.1:9", server={"workers": workers}))
    command = f"ulimit -Sn 100 && exec {sys.executable} -m streamproxy run -c {file}"
    with Process([require("sh"), "-c", command]) as process:
        admin = (await process.line(r"^admin on (http://\S+)"))[1]
        metrics = (await fetch(f"{admin}/metrics")).body.decode()
        (limit,) = re.findall(r"^process_max_fds (\S+)$", metrics, re.MULTILINE)
        assert float(limit) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert await process.stop() == 0


# The program, which is sent a signal when it begins to import a module.
STOPPED_EARLY = """
import os, sys
module, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Stop())
from streamproxy.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["streamproxy.cli", "streamproxy.app", "streamproxy.process.run", "uvloop"])
async def test_a_stop_while_it_starts_is_no_failure(tmp_path: Path, module: str, number: signal.Signals) -> None:
    file = write_configuration(tmp_path, configuration("http://127.0.0.1:9"))
    command = [sys.executable, "-c", STOPPED_EARLY, module, str(int(number)), "run", "-c", str(file)]
    with Process(command) as process:
        assert await process.exited() == 0
        assert process.output == ""


@pytest.mark.parametrize("engine", ["uvicorn", "hypercorn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_either_signal_ends_either_engine_with_status_0(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str, number: signal.Signals
) -> None:
    upstream = await serve(two_events)
    config = configuration(upstream.url, server={"engine": engine, "drain_timeout": "100ms"})
    proxy = await run_proxy(config)
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    await client.read_body_until(b"data: 1\n\n")
    proxy.process.signal(number)
    assert not (await client.read_rest()).complete
    assert await proxy.process.exited() == 0
    assert "Traceback" not in proxy.process.output
