"""`streamproxy top` on a pseudo-terminal, and where there is none."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.connection import GUARD, guarded
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.process import ROOT, Process
from tests.integration.proxy import RunningProxy, configuration, write_configuration
from tests.integration.test_commands import command

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"  # the terminal's other screen, and back
SHOW_CURSOR = b"\x1b[?25h"


async def for_ever(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()


class Terminal:
    """A pseudo-terminal with a program in it; ``output`` is everything the program has sent."""

    def __init__(self, arguments: list[str], *, rows: int = 24, columns: int = 120) -> None:
        self._master, self._slave = os.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = self.mode()
        self.output = b""
        self._more = asyncio.Event()
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "streamproxy", "top", *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
            start_new_session=True,
        )

    def _read(self) -> None:
        self.output += os.read(self._master, 65536)
        self._more.set()

    def mode(self) -> list[object]:
        """How the terminal treats what goes through it."""
        return termios.tcgetattr(self._slave)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def shows(self, text: str) -> None:
        """Wait until the program has written this since the last call, colours and moves aside."""
        start = len(self.output)
        async with guarded(f"{text!r} on the terminal"):
            while text not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output[start:].decode("utf-8", "ignore")):
                self._more.clear()
                await self._more.wait()

    async def exited(self) -> int:
        return await asyncio.to_thread(self.child.wait, GUARD)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)


@asynccontextmanager
async def terminal(*arguments: str) -> AsyncIterator[Terminal]:
    opened = Terminal(list(arguments))
    try:
        yield opened
    finally:
        opened.close()


async def a_proxy(run_proxy: RunProxy, serve: Serve) -> RunningProxy:
    upstream = await serve(for_ever)
    return await run_proxy(configuration([{"name": "chat", "path": "/*", "upstream": upstream.url}]))


async def test_x_and_y_stop_the_selected_stream_and_q_leaves_the_terminal_as_it_was(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    proxy = await a_proxy(run_proxy, serve)
    clients = []
    for name in ("first", "second"):
        clients.append(await dial(proxy.url))
        await clients[-1].request(f"/{name}", headers=[("X-Request-Id", name)])
        await clients[-1].read_head()
    async with terminal("--admin", proxy.admin, "--interval", "250ms") as screen:
        await screen.shows("GET /second")
        screen.press("\x1b[Bx")  # down
        await screen.shows("y stops second")
        screen.press("n")
        await screen.shows("q quit")
        assert len(await proxy.streams()) == 2
        screen.press("xy")
        await screen.shows("second was stopped")
        assert not (await clients[1].read_rest()).complete
        await screen.shows("1 of 1 streams")
        assert [stream["id"] for stream in await proxy.streams()] == ["first"]
        assert screen.mode() != screen.before
        screen.press("q")
        assert await screen.exited() == 0
        assert screen.mode() == screen.before
        assert screen.output.count(ALTERNATE) == screen.output.count(NORMAL) == 1
        assert SHOW_CURSOR in screen.output


@pytest.mark.parametrize("way", ["ctrl-c", "SIGTERM"])
async def test_however_it_is_ended_the_terminal_is_restored(
    run_proxy: RunProxy, serve: Serve, dial: Connect, way: str
) -> None:
    proxy = await a_proxy(run_proxy, serve)
    async with terminal("--admin", proxy.admin) as screen:
        await screen.shows("0 of 0 streams")
        if way == "ctrl-c":
            screen.press("\x03")
        else:
            screen.child.terminate()
        assert await screen.exited() == 0
        assert screen.mode() == screen.before
        assert NORMAL in screen.output
        assert b"Traceback" not in screen.output


async def test_a_proxy_that_goes_away_is_said_to_be_lost(run_proxy: RunProxy, serve: Serve) -> None:
    proxy = await a_proxy(run_proxy, serve)
    async with terminal("--admin", proxy.admin) as screen:
        await screen.shows("0 of 0 streams")
        assert await proxy.process.stop() == 0
        await screen.shows("connection lost")
        screen.press("q")
        assert await screen.exited() == 0


async def test_once_prints_a_plain_table_over_a_unix_socket(
    run_proxy: RunProxy, serve: Serve, dial: Connect, tmp_path: Path
) -> None:
    upstream = await serve(for_ever)
    socket = tmp_path / "admin.sock"
    path = write_configuration(tmp_path, configuration(upstream.url, admin={"listen": f"unix:{socket}"}))
    with Process([sys.executable, "-m", "streamproxy", "run", "-c", str(path)]) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        admin = (await process.line(r"^admin on (\S+)"))[1]
        client = await dial(url)
        await client.request("/events", headers=[("X-Request-Id", "the-one")])
        await client.read_head()
        status, output = await command(["top", "--admin", admin, "--once"], tmp_path)
        await client.aclose()
        assert await process.stop() == 0
    assert status == 0
    summary, empty, names, row = output.splitlines()
    assert (summary, empty) == ("ready, 1 live, 1 streaming, 0 queued", "")
    assert names.startswith("ROUTE ")
    assert row.split()[-3:] == ["the-one", "GET", "/events"]
    assert "\x1b" not in output


async def test_where_nobody_listens_one_line_says_so(tmp_path: Path) -> None:
    status, output = await command(["top", "--admin", "127.0.0.1:1"], tmp_path)
    assert (status, output) == (1, "streamproxy: no admin listener at http://127.0.0.1:1: Connection refused")


async def test_a_listener_of_another_kind_is_told_apart(run_proxy: RunProxy, serve: Serve, tmp_path: Path) -> None:
    proxy = await run_proxy(configuration([{"path": "/only", "upstream": "http://127.0.0.1:9"}]))
    status, output = await command(["top", "--admin", proxy.url], tmp_path)
    assert (status, output) == (1, f"streamproxy: {proxy.url} is no admin listener: it answers 404")


async def test_a_refusal_is_shown_with_the_way_out(serve: Serve, tmp_path: Path) -> None:
    body = b'{"status": 403, "detail": "proxy.example is no name of this listener"}'
    listener = await serve(answering(response(body, status="403 Forbidden")))
    status, output = await command(["top", "--admin", listener.url], tmp_path)
    assert (status, output) == (
        1,
        f"streamproxy: {listener.url} refuses: proxy.example is no name of this listener",
    )


async def test_a_wrong_option_is_wrong_usage(tmp_path: Path) -> None:
    status, output = await command(["top", "--interval", "1ms"], tmp_path)
    assert status == 2
    assert "--interval" in output


async def test_the_token_comes_from_an_option_the_environment_or_the_configuration(
    run_proxy: RunProxy, tmp_path: Path
) -> None:
    proxy = await run_proxy(configuration("http://127.0.0.1:9", admin={"token": "s3cret"}))
    once = ["top", "--once", "--admin", proxy.admin]
    shown = "ready, 0 live, 0 streaming, 0 queued"
    status, output = await command([*once, "--token", "s3cret"], tmp_path)
    assert (status, output[: len(shown)]) == (0, shown)
    status, output = await command([*once, "--config", str(proxy.file)], tmp_path)
    assert (status, output[: len(shown)]) == (0, shown)
    with Process([sys.executable, "-m", "streamproxy", *once], env={"STREAMPROXY_ADMIN_TOKEN": "s3cret"}) as process:
        assert await process.exited() == 0
        assert process.output.startswith(shown)


async def test_without_the_right_token_the_way_out_is_shown(run_proxy: RunProxy, tmp_path: Path) -> None:
    proxy = await run_proxy(configuration("http://127.0.0.1:9", admin={"token": "s3cret"}))
    once = ["top", "--once", "--admin", proxy.admin]
    status, output = await command(once, tmp_path)
    refusal = f"streamproxy: {proxy.admin} refuses: "
    assert (status, output) == (1, f"{refusal}The admin listener asks for its token (--token or --config)")
    status, output = await command([*once, "--token", "wr0ng"], tmp_path)
    assert (status, output) == (1, f"{refusal}This is not the token of the admin listener (--token or --config)")
    status, output = await command([*once, "--token", "two words"], tmp_path)
    assert status == 2
    assert "two words" not in output
