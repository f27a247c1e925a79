"""Reload of the running program: by a signal, by the admin listener, by a change of the file."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import Config, RunningProxy, configuration, write_configuration


async def two_events(conn: Conn) -> None:
    """Answer each request with an event, and another when the test says so."""
    while True:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.stall()
        await conn.send_chunk(b"data: 2\n\n")
        await conn.send_chunk(b"")


def rewrite(proxy: RunningProxy, config: Config) -> None:
    write_configuration(proxy.file.parent, config)


async def reload(proxy: RunningProxy) -> tuple[int, Any]:
    """Ask the admin listener for a reload; its status and its answer."""
    answer = await fetch(f"{proxy.admin}/reload", method="POST")
    return answer.status, json.loads(answer.body)


async def test_streams_finish_under_the_old_configuration_and_new_requests_see_the_new(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    old, new = await serve(two_events), await serve(answering(response(b"new")))
    proxy = await run_proxy(configuration(old.url))
    stream = await dial(proxy.url)
    await stream.request("/events")
    await stream.read_head()
    assert await stream.read_body_until(b"\n\n") == b"data: 1\n\n"

    rewrite(proxy, configuration(new.url))
    proxy.process.signal(signal.SIGHUP)
    await proxy.until_reloaded(1)
    assert (await fetch(f"{proxy.url}/x")).body == b"new"
    assert [live["path"] for live in await proxy.streams()] == ["/events"]

    (await old.connection()).go.set()
    rest = await stream.read_rest()
    assert (rest.body, rest.complete) == (b"data: 2\n\n", True)
    assert (await stream.get("/y")).body == b"new"  # on the connection that carried the stream


async def test_connections_to_an_unchanged_upstream_stay(run_proxy: RunProxy, serve: Serve) -> None:
    kept, changed = await serve(answering(response(b"kept"))), await serve(answering(response(b"changed")))

    def config(idle: str) -> Config:
        upstreams = {
            "kept": {"endpoints": [kept.url]},
            "changed": {"endpoints": [changed.url], "connections": {"idle_timeout": idle}},
        }
        routes = [{"path": "/kept", "upstream": "kept"}, {"path": "/changed", "upstream": "changed"}]
        return configuration(routes, upstreams=upstreams)

    proxy = await run_proxy(config("30s"))
    for path in ("/kept", "/changed"):
        assert (await fetch(proxy.url + path)).status == 200
    rewrite(proxy, config("40s"))
    assert await reload(proxy) == (200, {"result": "ok"})
    assert (await (await changed.connection()).wait_ended()).how in ("eof", "reset")
    for path in ("/kept", "/changed"):
        assert (await fetch(proxy.url + path)).status == 200
    assert (len(kept.connections), len(changed.connections)) == (1, 2)


async def test_connections_to_a_removed_upstream_close_with_their_last_stream(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    old, new = await serve(two_events), await serve(answering(response(b"new")))
    proxy = await run_proxy(configuration(old.url))
    stream = await dial(proxy.url)
    await stream.request("/events")
    await stream.read_head()
    await stream.read_body_until(b"\n\n")
    rewrite(proxy, configuration(new.url))
    assert (await reload(proxy))[0] == 200
    upstream = await old.connection()
    assert upstream.ended is None
    upstream.go.set()
    assert (await stream.read_rest()).complete
    await upstream.wait_ended()


async def test_a_broken_file_changes_nothing_and_is_reported_everywhere(run_proxy: RunProxy, serve: Serve) -> None:
    upstream = await serve(answering(response(b"still here")))
    good = configuration(upstream.url)
    proxy = await run_proxy(good)
    proxy.file.write_text(
        f"routes:\n  - path: /*\n    upstream: {upstream.url}\n    bufer: 1KiB\nlog: {{level: loud}}\n"
    )
    proxy.process.signal(signal.SIGHUP)
    await proxy.until_reloaded(1, "error")

    first, second = f"{proxy.file}:4:5: routes[0].bufer: unknown key", f"{proxy.file}:5:14: log.level: "
    for start in (first, second):
        await proxy.process.line(start.replace("[", r"\[").replace("]", r"\]"))
    ready = await fetch(f"{proxy.admin}/readyz")
    body = json.loads(ready.body)
    assert (ready.status, body["ready"]) == (200, True)
    assert [problem.startswith(start) for problem, start in zip(body["reload"], (first, second), strict=True)]
    status, answer = await reload(proxy)
    assert (status, answer["problems"]) == (422, body["reload"])
    assert (await fetch(f"{proxy.url}/")).body == b"still here"

    rewrite(proxy, good)
    assert (await reload(proxy))[0] == 200
    assert "reload" not in json.loads((await fetch(f"{proxy.admin}/readyz")).body)


async def test_a_change_of_the_file_is_a_reload(run_proxy: RunProxy, serve: Serve, tmp_path: Path) -> None:
    first, second, third = [await serve(answering(response(body))) for body in (b"first", b"second", b"third")]
    proxy = await run_proxy(configuration(first.url))
    assert (await fetch(f"{proxy.url}/")).body == b"first"
    rewrite(proxy, configuration(second.url))  # written in place
    await proxy.until_reloaded(1)
    assert (await fetch(f"{proxy.url}/")).body == b"second"
    os.replace(write_configuration(tmp_path, configuration(third.url)), proxy.file)  # as editors do it
    await proxy.until_reloaded(2)
    assert (await fetch(f"{proxy.url}/")).body == b"third"


async def test_a_configmap_that_kubernetes_swaps_is_a_reload(serve: Serve, tmp_path: Path) -> None:
    bodies = (b"first", b"second", b"third")
    upstreams = [await serve(answering(response(body))) for body in bodies]
    file = publish(tmp_path, "..1", configuration(upstreams[0].url))
    with Process([sys.executable, "-m", "streamproxy", "run", "-c", str(file)]) as process:
        url = (await process.line(r"^listening on (\S+)"))[1]
        admin = (await process.line(r"^admin on (\S+)"))[1]
        proxy = RunningProxy(process, url, admin, file)
        for number, upstream in enumerate(upstreams[1:], 1):
            publish(tmp_path, f"..{number + 1}", configuration(upstream.url))
            await proxy.until_reloaded(number)
            assert (await fetch(f"{url}/")).body == bodies[number]
        assert await process.stop() == 0


def publish(volume: Path, name: str, config: Config) -> Path:
    """What the kubelet does with a ConfigMap: a new folder, and the link ``..data`` swapped to it."""
    (volume / name).mkdir()
    file = volume / write_configuration(volume / name, config).name
    link = volume / "..data_tmp"
    link.symlink_to(name)
    before = os.path.realpath(volume / "..data")
    link.rename(volume / "..data")
    if file.is_symlink():
        shutil.rmtree(before)
    else:
        file.symlink_to(Path("..data") / file.name)
    return file


async def test_what_a_restart_is_needed_for_is_said(run_proxy: RunProxy, serve: Serve) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url))
    rewrite(proxy, configuration(upstream.url, server={"listen": "127.0.0.1:1", "head_timeout": "5s"}))
    status, answer = await reload(proxy)
    assert (status, answer) == (200, {"result": "ok", "restart": ["server.listen", "server.head_timeout"]})
    await proxy.process.line("restart required to apply: server.listen, server.head_timeout")
    in_force = json.loads((await fetch(f"{proxy.admin}/config")).body)["server"]
    assert (in_force["listen"], in_force["head_timeout"]) == (["127.0.0.1:0"], 30.0)
    assert (await fetch(f"{proxy.url}/")).body == b"abc"


async def test_a_file_that_the_configuration_quotes_is_read_again(
    run_proxy: RunProxy, serve: Serve, tmp_path: Path
) -> None:
    upstream = await serve(answering(response(b"abc")))
    key = tmp_path / "key"
    key.write_text("one\n")
    rules = {"set": {"X-Key": f"${{file:{key}}}"}}
    proxy = await run_proxy(configuration([{"path": "/*", "upstream": upstream.url, "request_headers": rules}]))
    await fetch(f"{proxy.url}/")
    key.write_text("two\n")
    assert (await reload(proxy))[0] == 200
    await fetch(f"{proxy.url}/")
    assert [head.get("x-key") for head in upstream.requests] == [b"one", b"two"]
    assert len(upstream.connections) == 1


async def test_the_access_log_is_switched_by_a_reload(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url, log={"access": "off"}))
    client = await dial(proxy.url)
    await client.get("/", headers=[("X-Request-Id", "the-first")])
    rewrite(proxy, configuration(upstream.url, log={"access": "on", "format": "console"}))
    assert (await reload(proxy))[0] == 200
    await client.get("/", headers=[("X-Request-Id", "the-second")])
    line = (await proxy.process.line("the-second"))[0]
    assert line
    assert "the-first" not in proxy.process.output
    rewrite(proxy, configuration(upstream.url, log={"access": "off"}))
    assert (await reload(proxy))[0] == 200
    await client.get("/", headers=[("X-Request-Id", "the-third")])
    await client.get("/", headers=[("X-Request-Id", "the-fourth")])
    assert "the-third" not in proxy.process.output


async def test_a_place_that_is_taken_stays_taken(run_proxy: RunProxy, serve: Serve, dial: Connect) -> None:
    upstream = await serve(two_events)

    def config(buffer: str) -> Config:
        return configuration([{"path": "/*", "upstream": upstream.url, "limits": {"max_streams": 1}, "buffer": buffer}])

    proxy = await run_proxy(config("64KiB"))
    stream = await dial(proxy.url)
    await stream.request("/events")
    await stream.read_head()
    rewrite(proxy, config("32KiB"))
    assert (await reload(proxy))[0] == 200
    assert (await fetch(f"{proxy.url}/")).status == 503
    (await upstream.connection()).go.set()
    assert (await stream.read_rest()).complete


@pytest.mark.parametrize("times", [20])
async def test_many_reloads_at_once_come_one_after_the_other(run_proxy: RunProxy, serve: Serve, times: int) -> None:
    upstream = await serve(answering(response(b"abc")))
    proxy = await run_proxy(configuration(upstream.url))
    async with guarded("all the reloads"):
        results = await asyncio.gather(*(reload(proxy) for _ in range(times)))
    assert results == [(200, {"result": "ok"})] * times
    assert await proxy.metric('streamproxy_config_reloads_total{result="ok"}') == times
    assert (await fetch(f"{proxy.url}/")).body == b"abc"


async def test_no_request_fails_while_the_configuration_changes_under_it(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    upstreams = [await serve(answering(response(body))) for body in (b"one", b"two")]
    proxy = await run_proxy(configuration(upstreams[0].url))
    over = asyncio.Event()

    async def ask() -> set[bytes]:
        seen: set[bytes] = set()
        client = await dial(proxy.url)
        while not over.is_set():
            answer = await client.get("/")
            assert (answer.status, answer.complete) == (200, True)
            seen.add(answer.body)
        return seen

    asking = [asyncio.get_running_loop().create_task(ask()) for _ in range(4)]
    for number in range(1, 21):
        rewrite(proxy, configuration(upstreams[number % 2].url))
        assert (await reload(proxy))[0] == 200
        assert (await fetch(f"{proxy.url}/")).body == (b"one", b"two")[number % 2]
    over.set()
    assert await asyncio.gather(*asking) == [{b"one", b"two"}] * 4


async def test_under_another_server_the_admin_listener_can_ask_for_it(serve: Serve, tmp_path: Path) -> None:
    first, second = [await serve(answering(response(body))) for body in (b"first", b"second")]
    file = write_configuration(tmp_path, configuration(first.url, admin={"mount": "/-"}))
    command = [sys.executable, "-m", "uvicorn", "streamproxy.asgi:app", "--host", "127.0.0.1", "--port", "0"]
    with Process(command, env={"STREAMPROXY_CONFIG": str(file)}) as process:
        url = (await process.line(r"running on (http://\S+)"))[1]
        assert (await fetch(f"{url}/")).body == b"first"
        write_configuration(tmp_path, configuration(second.url, admin={"mount": "/admin"}))
        assert (await fetch(f"{url}/-/reload", method="POST")).status == 200
        assert (await fetch(f"{url}/")).body == b"second"
        assert (await fetch(f"{url}/admin/readyz")).status == 200
        await process.stop()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_name_of_the_admin_listener_is_known_from_the_reload_that_lists_it(
    run_proxy: RunProxy, workers: int
) -> None:
    def config(*hosts: str) -> Config:
        return configuration("http://127.0.0.1:1", server={"workers": workers}, admin={"hosts": hosts})

    async def asked(path: str) -> int:
        return (await fetch(proxy.admin + path, headers=[("Host", "proxy.internal:9090")])).status

    proxy = await run_proxy(config())
    assert [await asked(path) for path in ("/metrics", "/readyz", "/streams", "/config")] == [200, 200, 403, 403]
    rewrite(proxy, config("*.internal"))
    assert await reload(proxy) == (200, {"result": "ok"})
    assert [await asked(path) for path in ("/metrics", "/streams", "/config")] == [200, 200, 200]


async def test_a_file_that_became_a_pipe_changes_nothing_and_holds_nothing_up(
    run_proxy: RunProxy, serve: Serve
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await run_proxy(configuration(upstream.url))
    proxy.file.unlink()
    os.mkfifo(proxy.file)
    status, answer = await reload(proxy)
    assert (status, answer["problems"]) == (422, [f"{proxy.file}: is not a regular file, so it cannot be read again"])
    assert (await fetch(f"{proxy.url}/x")).body == b"ok"
    proxy.file.unlink()
    rewrite(proxy, configuration(upstream.url))
    assert await reload(proxy) == (200, {"result": "ok"})


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_reload_that_hangs_does_not_keep_it_from_its_end(
    run_proxy: RunProxy, serve: Serve, tmp_path: Path, workers: int
) -> None:
    upstream = await serve(answering(response(b"ok")))
    config = configuration(upstream.url, server={"workers": workers})
    proxy = await run_proxy(config)
    pipe = tmp_path / "token"
    os.mkfifo(pipe)
    config["routes"][0]["request_headers"] = {"set": {"X-Token": f"${{file:{pipe}}}"}}
    rewrite(proxy, config)
    proxy.process.signal(signal.SIGHUP)
    writer = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # opened once the reload reads
    try:
        assert (await fetch(f"{proxy.url}/x")).body == b"ok"
        assert await proxy.process.stop() == 0
    finally:
        os.close(writer)
