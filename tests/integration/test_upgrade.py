"""One process after another on sockets that outlive both."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient, fetch
from tests.doubles.connection import GUARD, guarded
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.upstream import Conn, response, stream_head
from tests.integration.process import ROOT, Process
from tests.integration.proxy import configuration, write_configuration

STREAMS = 20
# A service manager puts the sockets where the program looks for them, and names its process.
MANAGER = """
import os, sys
for to, number in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(number, to)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(to - 2), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, "-m", "streamproxy", "run", "-c", sys.argv[3]])
"""


async def either(conn: Conn) -> None:
    """/events is a stream that ends when the test says so; anything else is answered at once."""
    while (head := await conn.read_head()).target != b"/events":
        await conn.send(response(b"abc"))
    del head
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


@contextmanager
def activated(listener: socket.socket, file: Path) -> Iterator[Process]:
    """The program with a socket that a service manager made."""
    command = [sys.executable, "-c", MANAGER, str(listener.fileno()), "main", str(file)]
    with Process(command, pass_fds=(listener.fileno(),)) as process:
        yield process


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_next_process_takes_over_without_a_refusal_or_a_cut(
    serve: Serve, dial: Connect, tmp_path: Path, workers: int
) -> None:
    upstream = await serve(either)
    config = configuration(upstream.url, server={"workers": workers, "drain_timeout": "20s"})
    file = write_configuration(tmp_path, config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with activated(listener, file) as old:
            assert (await old.line("^listening on (.*)"))[1] == url
            streams = [await stream(url, dial) for _ in range(STREAMS)]
            over = asyncio.Event()
            asking = [asyncio.create_task(ask(url, over)) for _ in range(2)]
            with activated(listener, file) as new:
                await new.line("^admin on")
                old.signal(signal.SIGTERM)
                await old.line("draining")
                for conn in upstream.connections:
                    conn.go.set()
                for client in streams:
                    rest = await client.read_rest()
                    assert (rest.body, rest.complete) == (b"data: 2\n\n", True)
                assert await old.exited() == 0
                over.set()
                assert min(await asyncio.gather(*asking)) > 0
                assert (await fetch(f"{url}/")).body == b"abc"
                assert await new.stop() == 0


async def test_sockets_of_systemd_are_the_listeners_and_it_hears_when_they_accept(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(either)
    file = write_configuration(tmp_path, configuration(upstream.url))
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with heard, reserved_port() as port, reserved_port() as admin:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(GUARD)
        listen = [f"--listen=127.0.0.1:{port}", f"--listen=127.0.0.1:{admin}", "--fdname=main:admin"]
        given = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NOTIFY_SOCKET": heard.getsockname()}
        environ = [f"--setenv={name}={value}" for name, value in given.items()]
        program = [sys.executable, "-m", "streamproxy", "run", "-c", str(file)]
        with Process([require("systemd-socket-activate"), *listen, *environ, *program]) as process:
            await process.line("Listening on")
            # The first connection starts the program, and waits for it.
            assert (await fetch(f"http://127.0.0.1:{port}/")).body == b"abc"
            assert (await process.line("^listening on (.*)"))[1] == f"http://127.0.0.1:{port}"
            assert (await process.line("^admin on (.*)"))[1] == f"http://127.0.0.1:{admin}"
            assert await asyncio.to_thread(heard.recv, 100) == b"READY=1"
            assert (await fetch(f"http://127.0.0.1:{admin}/readyz")).status == 200
            assert await process.stop() == 0
            assert await asyncio.to_thread(heard.recv, 100) == b"STOPPING=1"


async def stream(url: str, dial: Connect) -> RawClient:
    client = await dial(url)
    await client.request("/events")
    await client.read_head()
    assert await client.read_body_until(b"data: 1\n\n") == b"data: 1\n\n"
    return client


async def ask(url: str, over: asyncio.Event) -> int:
    """Ask again and again, on a new connection each time; how often that went well."""
    count = 0
    async with guarded("the takeover"):
        while not over.is_set():
            assert (await fetch(f"{url}/")).status == 200
            count += 1
    return count
