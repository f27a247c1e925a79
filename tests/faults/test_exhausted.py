"""The proxy on a system without descriptors or disk space left: what is open goes on, and the rest is refused."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.doubles.client import RawClient, accepts, connect, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.parts import require
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.process import Process
from tests.integration.proxy import RunningProxy, configuration, write_configuration

MOST = 64  # descriptors of the proxy


async def echo_until_told(conn: Conn) -> None:
    """A stream that sends an event at once, and another one when the test says so."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.upstream.go.wait()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


async def open_stream(proxy: RunningProxy) -> RawClient | None:
    """A client whose stream has begun; None if it was refused."""
    client = await connect(proxy.url)
    await client.request("/")
    with suppress(PeerEnded):
        head = await client.read_head()
        if head.status == 200:
            await client.read_body_until(b"\n\n")
            return client
        assert head.status in (502, 503), head.raw
    await client.aclose()
    return None


@pytest.mark.parametrize("most", [30, 10_000])
async def test_without_descriptors_open_streams_go_on_and_new_ones_are_refused(
    serve: Serve, tmp_path: Path, most: int
) -> None:
    upstream = await serve(echo_until_told)
    file = write_configuration(tmp_path, configuration(upstream.url, server={"max_connections": most}))
    command = f"ulimit -n {MOST} && exec {sys.executable} -m streamproxy run -c {file}"
    clients: list[RawClient] = []
    refused = 0
    with Process([require("sh"), "-c", command]) as process:
        main = (await process.line(r"^listening on (https?://\S+)"))[1]
        admin = (await process.line(r"^admin on (http://\S+)"))[1]
        proxy = RunningProxy(process, main, admin, file)
        for _ in range(40 if most > MOST else most - 1):
            client = await open_stream(proxy)
            refused += client is None
            clients += [client] if client is not None else []
        assert refused, "there were descriptors for all"
        assert len(clients) >= 10
        upstream.go.set()
        for client in clients:
            answer = await client.read_rest()
            assert (answer.body, answer.complete) == (b"data: 2\n\n", True)
            await client.aclose()
        await proxy.until_streams("the end of all streams", lambda live: live == [])
        again = await fetch(proxy.url + "/")
        assert (again.status, again.complete) == (200, True)
        assert await process.stop() == 0
    assert "Traceback" not in process.output, process.output[-3000:]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > MOST


@pytest.mark.parametrize("log", ["/dev/full", "a file that may not grow"])
async def test_a_full_disk_costs_log_lines_and_no_stream(serve: Serve, tmp_path: Path, log: str) -> None:
    upstream = await serve(echo_until_told)
    upstream.go.set()
    main = tmp_path / "main.sock"
    config = configuration(upstream.url, server={"listen": f"unix:{main}"}, log={"format": "json"})
    file = write_configuration(tmp_path, config)
    path = Path(log) if log == "/dev/full" else tmp_path / "log"
    command = f"ulimit -f 1 && exec {sys.executable} -B -m streamproxy run -c {file} > {path} 2>&1"  # 512 bytes
    with Process([require("sh"), "-c", command]) as process:
        await until(lambda: accepts(f"unix:{main}"), "the listener")
        for _ in range(20):
            async with await connect(f"unix:{main}") as client:
                answer = await client.get("/")
                assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
        assert await process.stop() == 0
    assert log == "/dev/full" or path.stat().st_size <= 512
