"""Several workers behind one supervisor: seen as one proxy, and none missed when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from jwt.algorithms import ECAlgorithm

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient, accepts, fetch
from tests.doubles.connection import guarded
from tests.doubles.parts import require
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import Config, RunningProxy, configuration, write_configuration
from tests.integration.test_commands import command
from tests.integration.test_drain import in_a_container

BYTES = 'streamproxy_response_bytes_total{{route="/*",upstream="{}"}}'
ACTIVE = 'streamproxy_streams_active{{route="/*",upstream="{}"}}'
DONE = 'streamproxy_requests_total{code="200",method="GET",route="/*"}'


async def endless(conn: Conn) -> None:
    """A stream of one event, and another when the test says so; then it ends."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


def two(upstream: str, **server: object) -> Config:
    return configuration(upstream, server={"workers": 2, **server})


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def inside(pid: int, port: int) -> int:
    """How many connections to this local port a process has open."""
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    found = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a process that starts closes some meanwhile
            found += os.readlink(one) in inodes
    return found


async def stream(proxy: RunningProxy, dial: Connect, headers: Sequence[tuple[str, str]] = ()) -> RawClient:
    client = await dial(proxy.url)
    await client.request("/events", headers=headers)
    await client.read_head()
    assert await client.read_body_until(b"data: 1\n\n") == b"data: 1\n\n"
    return client


async def streams_of_both(
    proxy: RunningProxy, dial: Connect, headers: Sequence[tuple[str, str]] = ()
) -> dict[int, list[RawClient]]:
    """Streams, until each worker has one; by the worker's process."""
    port = int(proxy.url.rpartition(":")[2])
    pids = children(proxy.process.pid)
    counts, found = dict.fromkeys(pids, 0), {pid: list[RawClient]() for pid in pids}
    async with guarded("a stream in each worker"):
        while not all(found.values()):
            client = await stream(proxy, dial, headers)
            now = {pid: inside(pid, port) for pid in pids}
            (pid,) = (pid for pid in pids if now[pid] > counts[pid])
            found[pid].append(client)
            counts = now
    return found


@pytest.fixture(params=["uvicorn", "hypercorn"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def test_both_workers_serve_and_are_seen_as_one(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(endless)
    proxy = await run_proxy(two(upstream.url, engine=engine))
    found = await streams_of_both(proxy, dial)
    assert len(found) == 2
    total = sum(map(len, found.values()))
    for _ in range(5):
        assert await proxy.metric(ACTIVE.format(upstream.url)) == total
        assert await proxy.metric(BYTES.format(upstream.url)) == 9 * total
        assert len(await proxy.streams()) == total
    assert json.loads((await fetch(f"{proxy.admin}/readyz")).body) == {"ready": True, "reasons": []}
    lines = [line for line in proxy.process.lines if line.startswith("listening on")]
    assert lines == [f"listening on {proxy.url}"]


async def test_every_worker_reads_published_keys_for_itself(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    key = generate_private_key(SECP256R1())
    jwks = {"keys": [ECAlgorithm.to_jwk(key.public_key(), as_dict=True)]}
    issuer = await serve(answering(response(json.dumps(jwks).encode())))
    upstream = await serve(endless)
    route = {"path": "/*", "upstream": upstream.url, "auth": {"jwt": {"jwks_url": issuer.url}}}
    proxy = await run_proxy(configuration([route], server={"workers": 2}))
    assert len(issuer.requests) == 2
    bearer = [("Authorization", f"Bearer {jwt.encode({'sub': 'a'}, key, algorithm='ES256')}")]
    found = await streams_of_both(proxy, dial, bearer)
    assert len(found) == 2


async def test_a_stream_is_stopped_on_whichever_worker_it_is(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(endless)
    proxy = await run_proxy(two(upstream.url))
    found = await streams_of_both(proxy, dial)
    for one in await proxy.streams():
        assert (await fetch(f"{proxy.admin}/streams/{one['id']}", method="DELETE")).status == 202
    for client in (client for clients in found.values() for client in clients):
        assert not (await client.read_rest()).complete
    await proxy.until_streams("no stream", lambda live: live == [])
    assert (await fetch(f"{proxy.admin}/streams/none", method="DELETE")).status == 404


async def test_a_dead_worker_is_replaced_and_its_numbers_stay(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(endless)
    proxy = await run_proxy(two(upstream.url))
    found = await streams_of_both(proxy, dial)
    total = sum(map(len, found.values()))
    assert await proxy.metric(BYTES.format(upstream.url)) == 9 * total
    (dead, cut), (alive, others) = found.items()
    os.kill(dead, signal.SIGKILL)
    await proxy.process.line("worker [12] ended with signal 9")
    await until(lambda: len(children(proxy.process.pid)) == 2, "another worker")
    (successor,) = set(children(proxy.process.pid)) - {alive}
    assert inside(successor, int(proxy.url.rpartition(":")[2])) == 0  # it would keep streams from ending
    for client in cut:
        assert not (await client.read_rest()).complete
    await proxy.until_streams("the other's streams", lambda live: len(live) == len(others))
    assert await proxy.metric(BYTES.format(upstream.url)) >= 9 * total
    for conn in upstream.connections:
        conn.go.set()
    for client in others:
        rest = await client.read_rest()
        assert (rest.body, rest.complete) == (b"data: 2\n\n", True)


async def test_no_number_goes_back_while_workers_die(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(two(upstream.url))
    before = 0.0
    for turn in range(3):
        for _ in range(20):
            assert (await (await dial(proxy.url)).get("/")).status == 200
        now = await proxy.metric(DONE)
        assert now == before + 20
        os.kill(children(proxy.process.pid)[0], signal.SIGTERM if turn == 1 else signal.SIGKILL)

        async def ended(least: float = now) -> int:
            assert await proxy.metric(DONE) >= least
            return len([line for line in proxy.process.lines if " ended with " in line])

        await until(ended, "the worker to be gone", holds=lambda count, turn=turn: count > turn)
        await until(lambda: len(children(proxy.process.pid)) == 2, "another worker")
        before = now


async def test_a_reload_reaches_every_worker_or_none(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    old, new = await serve(answering(response(b"old"))), await serve(answering(response(b"new")))
    config = two(old.url)
    proxy = await run_proxy(config)
    write_configuration(proxy.file.parent, {**config, "routes": [{"path": "/*", "upstream": new.url}]})
    proxy.process.signal(signal.SIGHUP)
    await proxy.until_reloaded(1)
    for _ in range(12):
        assert (await (await dial(proxy.url)).get("/")).body == b"new"
    proxy.file.write_text("routes: 1")
    assert (await fetch(f"{proxy.admin}/reload", method="POST")).status == 422
    assert "reload" in json.loads((await fetch(f"{proxy.admin}/readyz")).body)
    for pid in children(proxy.process.pid):
        os.kill(pid, signal.SIGKILL)
    # Who is started again begins with what is in force, not with what the file says.
    await until(lambda: len(children(proxy.process.pid)) == 2, "other workers")
    await until(lambda: fetch(f"{proxy.admin}/readyz"), "them to be ready", holds=lambda answer: answer.status == 200)
    assert (await (await dial(proxy.url)).get("/")).body == b"new"


async def test_all_workers_drain_before_the_admin_listener_goes(
    run_proxy: RunProxy, serve: Serve, dial: Connect, engine: str
) -> None:
    upstream = await serve(endless)
    proxy = await run_proxy(two(upstream.url, engine=engine, drain_timeout="20s"))
    found = await streams_of_both(proxy, dial)
    total = sum(map(len, found.values()))
    proxy.process.signal(signal.SIGTERM)
    await until(lambda: accepts(proxy.url), "the port to be closed", holds=lambda accepted: not accepted)
    answer = await fetch(f"{proxy.admin}/readyz")
    assert (answer.status, json.loads(answer.body)["reasons"]) == (503, ["draining"])
    assert await proxy.metric(ACTIVE.format(upstream.url)) == total
    for conn in upstream.connections:
        conn.go.set()
    for client in (client for clients in found.values() for client in clients):
        assert (await client.read_rest()).complete
    assert await proxy.process.exited() == 0


async def test_a_second_signal_ends_all_workers_at_once(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(endless)
    proxy = await run_proxy(two(upstream.url, drain_timeout="off"))
    found = await streams_of_both(proxy, dial)
    proxy.process.signal(signal.SIGTERM)
    await proxy.process.line("draining: 2 workers")
    proxy.process.signal(signal.SIGTERM)
    for client in (client for clients in found.values() for client in clients):
        assert not (await client.read_rest()).complete
    assert await proxy.process.exited() == 0


async def test_workers_do_not_outlive_their_supervisor(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"abc")))
    file = write_configuration(tmp_path, two(upstream.url))
    with Process([sys.executable, "-m", "streamproxy", "run", "-c", str(file)]) as process:
        await process.line("^admin on")
        workers = children(process.pid)
        assert len(workers) == 2
        process.signal(signal.SIGKILL)
        assert await process.exited() == -9
        await until(lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in workers), "the workers to end")


# The program, but for the silence after which a worker hangs: 5 s instead of 30.
IMPATIENT = """
import sys
from streamproxy.process import watchdog
watchdog.SILENCE = 5
from streamproxy.cli import main
main()
"""


@pytest.mark.parametrize("draining", [False, True], ids=["serving", "draining"])
async def test_a_worker_that_hangs_is_killed_and_the_others_streams_go_on(
    serve: Serve, dial: Connect, tmp_path: Path, draining: bool
) -> None:
    upstream = await serve(endless)
    file = write_configuration(tmp_path, two(upstream.url, drain_timeout="off"))
    with Process([sys.executable, "-c", IMPATIENT, "run", "-c", str(file)]) as process:
        main, admin = await process.line(r"^listening on (\S+)"), await process.line(r"^admin on (\S+)")
        proxy = RunningProxy(process, main[1], admin[1], file)
        found = await streams_of_both(proxy, dial)
        (hung, _), (_, others) = found.items()
        if draining:
            process.signal(signal.SIGTERM)
            await process.line("draining: 2 workers")
        os.kill(hung, signal.SIGSTOP)
        await process.line("worker [12] hangs")
        if not draining:
            await process.line("worker [12] ended with signal 9")
            await until(lambda: hung not in children(process.pid), "the worker that hung to be gone")
            await until(
                lambda: fetch(f"{proxy.admin}/readyz"), "another worker", holds=lambda answer: answer.status == 200
            )
        for conn in upstream.connections:
            conn.go.set()
        for client in others:
            rest = await client.read_rest()
            assert (rest.body, rest.complete) == (b"data: 2\n\n", True)
        if not draining:
            process.signal(signal.SIGTERM)
        assert await process.exited() == 0


async def test_as_the_first_process_it_keeps_its_workers_and_leaves_no_zombies(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"abc")))
    with Process(await in_a_container(tmp_path, two(upstream.url))) as process:
        url = (await process.line(r"^listening on (\S+)"))[1]
        await process.line("^admin on")
        (first,) = children(process.pid)
        orphan = [require("nsenter"), "--target", str(first), "--pid", "sh", "-c", "sleep 0.05 & exit 0"]
        await asyncio.to_thread(subprocess.run, orphan, check=True, timeout=20)
        workers = set(children(first))
        await until(lambda: len(children(first)) == 2, "the orphan to be reaped")
        os.kill(children(first)[0], signal.SIGKILL)
        await process.line("ended with signal 9")
        await until(lambda: len(children(first)) == 2 and set(children(first)) != workers, "another worker")
        assert (await fetch(f"{url}/")).body == b"abc"
        os.kill(first, signal.SIGTERM)
        assert await process.exited() == 0


async def test_check_warns_of_limits_that_each_worker_counts_for_itself(tmp_path: Path) -> None:
    routes = [{"name": "chat", "path": "/*", "upstream": "http://127.0.0.1:9", "limits": {"max_streams": 10}}]
    file = write_configuration(tmp_path, configuration(routes, server={"workers": 2}))
    status, output = await command(["check", "-c", str(file)], tmp_path)
    assert status == 0
    assert "warning: routes.chat.limits: each of the 2 workers counts its own max_streams: 10" in output
    assert "ok: 1 routes, 1 upstreams" in output


async def test_a_session_that_one_worker_has_seen_named_is_kept_by_the_other(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    named: list[bytes] = []  # the targets of the requests, by the upstream that got them

    def upstream_of(name: bytes) -> Script:
        async def script(conn: Conn) -> None:
            while True:
                head = await conn.read_head()
                headers = [("Mcp-Session-Id", "s-1")] if head.target == b"/name" else []
                named.append(name)
                await conn.send(response(name, headers=headers))

        return script

    a, b = await serve(upstream_of(b"a")), await serve(upstream_of(b"b"))
    pool = {"endpoints": [a.url, b.url], "balance": "round_robin", "sticky": {"learn": "header:Mcp-Session-Id"}}
    routes = [{"path": "/*", "upstream": "pool"}]
    proxy = await run_proxy(configuration(routes, upstreams={"pool": pool}, server={"workers": 2}))
    home = (await fetch(f"{proxy.url}/name")).body
    session = [("Mcp-Session-Id", "s-1")]
    # Each request is a connection of its own, and which worker takes it is up to the system.
    answers = [(await fetch(f"{proxy.url}/", headers=session)).body for _ in range(40)]
    assert set(answers) == {home}
    assert {(await fetch(f"{proxy.url}/")).body for _ in range(8)} == {b"a", b"b"}
