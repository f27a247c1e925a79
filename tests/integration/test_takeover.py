"""A process that takes the place of another by `--takeover`: under load, without a refusal, a cut, or a gap in what is
seen of it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import RawClient, connect, fetch
from tests.doubles.connection import guarded
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response, stream_head
from tests.integration.process import Process
from tests.integration.proxy import Config, RunningProxy, configuration, write_configuration

RATE = float(os.environ.get("STREAMPROXY_TEST_RATE", "500"))  # requests a second, where the machine can
AT_ONCE = 50  # requests that wait for their answers; where there are so many, the load is as high as it can be
STREAMS = 100
ANSWERS = 200  # requests that are answered between two upgrades, at least


async def ticking(conn: Conn) -> None:
    """/events is a stream of one event at each tick, until the test ends all; anything else is answered at once."""
    while (await conn.read_head()).target != b"/events":
        await conn.send(response(b"abc"))
    await conn.send(stream_head())
    number = 0
    while not conn.upstream.go.is_set():
        number += 1
        await conn.send_chunk(b"data: %d\n\n" % number)
        await conn.go.wait()
        conn.go.clear()
    await conn.send_chunk(b"")


class Load:
    """Requests at `RATE`, each on a connection of its own, and looks at the metrics, until it is told to stop."""

    def __init__(self, url: str, admin: str, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._admin = admin
        self._tls = tls
        self._over = asyncio.Event()
        self._answered = asyncio.Condition()
        self.answers = 0
        self.scrapes = 0

    async def _ask(self) -> None:
        async with await connect(self._url, tls=self._tls) as client:
            await client.request("/", headers=[("Connection", "close")])
            answer = await client.read_response()
        assert (answer.status, answer.body, answer.complete) == (200, b"abc", True)
        async with self._answered:
            self.answers += 1
            self._answered.notify_all()

    async def _scrape(self) -> None:
        """No look is without an answer, and no counter goes back."""
        before = 0.0
        while not self._over.is_set():
            answer = await fetch(f"{self._admin}/metrics")
            assert (answer.status, answer.complete) == (200, True)
            now = requests_in(answer.body)
            assert now >= before
            before = now
            self.scrapes += 1
            await asyncio.sleep(0.05)  # the pace of the scrapes

    async def run(self) -> None:
        """Everything that goes wrong is raised here."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scrape())
            at, asked = loop.time(), 0
            while not self._over.is_set():
                due = int((loop.time() - at) * RATE)
                at += due / RATE
                for _ in range(min(due, AT_ONCE - (asked - self.answers))):
                    group.create_task(self._ask())
                    asked += 1
                await asyncio.sleep(0.002)

    async def more(self) -> None:
        """Wait until a good number more has been answered."""
        goal = self.answers + ANSWERS
        async with self._answered, guarded("more answers"):
            await self._answered.wait_for(lambda: self.answers >= goal)

    def stop(self) -> None:
        self._over.set()


def requests_in(exposition: bytes) -> float:
    lines = exposition.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("streamproxy_requests_total{"))


@asynccontextmanager
async def under(load: Load) -> AsyncIterator[Load]:
    """Leaving waits for the last answers."""
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        try:
            yield load
        finally:
            load.stop()


@contextmanager
def program(file: Path, *options: str) -> Iterator[Process]:
    with Process([sys.executable, "-m", "streamproxy", "run", "-c", str(file), *options]) as process:
        yield process


async def served(process: Process, file: Path) -> RunningProxy:
    main = await process.line(r"^listening on (\S+)")
    admin = await process.line(r"^admin on (\S+)")
    return RunningProxy(process, main[1], admin[1], file)


class Streams:
    """Event streams that are read in step with what their upstream sends."""

    def __init__(self, upstream: Upstream, url: str, dial: Connect, tls: ssl.SSLContext | None = None) -> None:
        self._upstream = upstream
        self._url = url
        self._dial = dial
        self._tls = tls
        self.seen: dict[RawClient, int] = {}

    async def open(self, count: int) -> None:
        for _ in range(count):
            client = await self._dial(self._url, tls=self._tls)
            await client.request("/events")
            await client.read_head()
            self.seen[client] = 0
            await self._next(client)

    async def _next(self, client: RawClient) -> None:
        self.seen[client] += 1
        assert await client.read_body_until(b"\n\n") == b"data: %d\n\n" % self.seen[client]

    def _tick(self) -> None:
        for conn in self._upstream.connections:
            conn.go.set()

    async def tick(self) -> None:
        """One event more on each stream."""
        self._tick()
        for client in self.seen:
            await self._next(client)

    async def finish(self) -> None:
        """All end in good order, and nothing was missed."""
        self._upstream.go.set()
        self._tick()
        for client in self.seen:
            rest = await client.read_rest()
            assert (rest.body, rest.complete) == (b"", True)


async def until_active(proxy: RunningProxy, count: int) -> None:
    await until(
        lambda: proxy.metric('streamproxy_streams_active{route="/*",upstream="up"}'),
        f"{count} streams in the metrics",
        holds=lambda value: value == count,
    )


@pytest.mark.parametrize(
    ("engine", "workers", "secure"),
    [
        ("uvicorn", 1, False),
        ("uvicorn", 2, False),
        ("hypercorn", 1, False),
        ("hypercorn", 2, False),
        ("uvicorn", 1, True),
    ],
)
async def test_upgrades_under_load_refuse_no_connection_and_cut_no_stream(
    serve: Serve, dial: Connect, tmp_path: Path, certificate: Certificate, engine: str, workers: int, secure: bool
) -> None:
    upstream = await serve(ticking)
    tls = certificate.client_context() if secure else None
    with reserved_port() as port, reserved_port() as admin:
        server: Config = {"listen": f"127.0.0.1:{port}", "engine": engine, "workers": workers}
        server["drain_timeout"] = "10m"  # three successors have to start within it, on a slow machine too
        if secure:
            server["tls"] = {"cert": str(certificate.cert), "key": str(certificate.key)}
        upstreams: Config = {"up": {"endpoints": [upstream.url], "connections": {"idle_timeout": "5s"}}}
        routes = [{"path": "/*", "upstream": "up"}]
        config = configuration(routes, server=server, admin={"listen": f"127.0.0.1:{admin}"}, upstreams=upstreams)
        file = write_configuration(tmp_path, config)
        async with AsyncExitStack() as stack:
            processes = [stack.enter_context(program(file))]
            proxy = await served(processes[0], file)
            streams = Streams(upstream, proxy.url, dial, tls)
            await streams.open(STREAMS)
            async with under(Load(proxy.url, proxy.admin, tls)) as load:
                for generation in (2, 3, 4):
                    await load.more()
                    processes.append(stack.enter_context(program(file, "--takeover")))
                    await processes[-1].line(f"^takes over from process {processes[-2].pid}$")
                    await served(processes[-1], file)
                    await load.more()
                    await streams.open(5)
                    await streams.tick()
                    # Those that drain all run still, and what they do counts.
                    assert [process.child.poll() for process in processes] == [None] * generation
                    await until_active(proxy, len(streams.seen))
                assert load.scrapes
            await streams.finish()
            for process in processes[:-1]:
                assert await process.exited() == 0
            await until_active(proxy, 0)
            total = requests_in((await fetch(f"{proxy.admin}/metrics")).body)
            assert total == load.answers + len(streams.seen)
            assert await processes[-1].stop() == 0


@pytest.fixture
def address() -> Iterator[str]:
    with reserved_port() as port:
        yield f"127.0.0.1:{port}"


def quiet(upstream: Upstream, listen: str | list[str], **server: object) -> Config:
    """A configuration whose listener another process can be told to take over.

    Its upstream is not left with an idle connection for as long as processes take to start on a slow machine.
    """
    upstreams: Config = {"up": {"endpoints": [upstream.url], "connections": {"idle_timeout": "5s"}}}
    server = {"listen": listen, "drain_timeout": "10m", **server}
    return configuration([{"path": "/*", "upstream": "up"}], server=server, upstreams=upstreams)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_successor_that_does_not_start_changes_nothing(
    serve: Serve, dial: Connect, tmp_path: Path, address: str, workers: int
) -> None:
    upstream = await serve(ticking)
    path = tmp_path / "main.sock"
    config = quiet(upstream, [address, f"unix:{path}"], workers=workers)
    file = write_configuration(tmp_path, config)
    with program(file) as old:
        proxy = await served(old, file)
        streams = Streams(upstream, proxy.url, dial)
        await streams.open(1)
        for broken, status in (
            ({**config, "routes": []}, 2),
            ({**config, "server": {**config["server"], "listen": [address, "192.0.2.1:1"]}}, 1),
            ({**config, "server": {**config["server"], "tls": {"cert": str(file), "key": str(file)}}}, 1),
        ):
            other = tmp_path / "broken"
            other.mkdir(exist_ok=True)
            with program(write_configuration(other, broken), "--takeover") as new:
                assert await new.exited() in (status, 2)
            assert not any("has taken over" in line for line in old.lines)
            assert (await fetch(f"{proxy.url}/")).body == b"abc"
            assert (await (await dial(f"unix:{path}")).get("/")).body == b"abc"
            assert (await fetch(f"{proxy.admin}/readyz")).status == 200
            await streams.tick()
        await old.line("a successor did not take over, nothing has changed: it ended before it served")
        with program(file, "--takeover") as new:
            await new.line("^listening on")
            await old.line("another process has taken over")
            await streams.finish()
            assert await old.exited() == 0
            assert await new.stop() == 0
        assert not path.exists()


async def test_the_file_of_a_unix_socket_stays_while_somebody_listens(
    serve: Serve, dial: Connect, tmp_path: Path
) -> None:
    upstream = await serve(ticking)
    path, admin = tmp_path / "main.sock", tmp_path / "admin.sock"
    config = configuration(upstream.url, server={"listen": f"unix:{path}"}, admin={"listen": f"unix:{admin}"})
    file = write_configuration(tmp_path, config)
    with program(file) as old:
        await old.line("^admin on")
        inode = path.stat().st_ino
        with program(file, "--takeover") as new:
            await new.line("^admin on")
            assert await old.exited() == 0
            assert path.stat().st_ino == inode
            assert (await (await dial(f"unix:{path}")).get("/")).body == b"abc"
            assert (await (await dial(f"unix:{admin}")).get("/readyz")).status == 200
            assert await new.stop() == 0
        assert not path.exists()
        assert not admin.exists()


async def test_workers_may_become_more_and_fewer(serve: Serve, dial: Connect, tmp_path: Path, address: str) -> None:
    upstream = await serve(ticking)
    async with AsyncExitStack() as stack:
        before: Process | None = None
        for workers in (1, 3, 1, 2):
            file = write_configuration(tmp_path, quiet(upstream, address, workers=workers))
            process = stack.enter_context(program(file, "--takeover"))
            await process.line("^there is no process" if before is None else f"^takes over from process {before.pid}$")
            proxy = await served(process, file)
            if before is not None:
                assert await before.exited() == 0
            for _ in range(12):
                assert (await fetch(f"{proxy.url}/")).body == b"abc"
            before = process


async def test_sigterm_does_not_hurry_who_has_been_replaced_and_a_second_one_does(
    serve: Serve, dial: Connect, tmp_path: Path, address: str
) -> None:
    upstream = await serve(ticking)
    file = write_configuration(tmp_path, quiet(upstream, address, drain_timeout="off"))
    with program(file) as old:
        streams = Streams(upstream, (await served(old, file)).url, dial)
        await streams.open(3)
        with program(file, "--takeover") as new:
            await new.line("^admin on")
            await old.line("draining")
            old.signal(signal.SIGTERM)
            await streams.tick()
            await streams.tick()
            old.signal(signal.SIGTERM)
            assert await old.exited() == 0
            for stream in streams.seen:
                assert not (await stream.read_rest()).complete
            await new.line(f"process {old.pid}, which was taken over, has ended")
            assert await new.stop() == 0


async def test_idle_connections_may_ask_once_more(serve: Serve, dial: Connect, tmp_path: Path, address: str) -> None:
    upstream = await serve(ticking)
    file = write_configuration(tmp_path, quiet(upstream, address))
    with program(file) as old:
        proxy = await served(old, file)
        kept = await dial(proxy.url)
        assert (await kept.get("/")).get("connection") is None
        with program(file, "--takeover") as new:
            await old.line("draining")
            answer = await kept.get("/")
            assert (answer.status, answer.body, answer.get("connection")) == (200, b"abc", b"close")
            assert (await kept.wait_ended()).how == "eof"
            assert await new.stop() == 0


async def test_without_being_told_a_second_process_does_not_take_over(
    serve: Serve, tmp_path: Path, address: str
) -> None:
    upstream = await serve(ticking)
    for workers in (1, 2):
        file = write_configuration(tmp_path, quiet(upstream, address, workers=workers))
        with program(file) as old:
            proxy = await served(old, file)
            with program(file) as second:
                assert await second.exited() == 1
                assert "Address already in use" in second.output
            assert (await fetch(f"{proxy.url}/")).body == b"abc"


async def test_a_handshake_that_is_slow_ends_in_a_connection_that_may_ask_once(
    serve: Serve, tmp_path: Path, address: str, certificate: Certificate
) -> None:
    upstream = await serve(ticking)
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    file = write_configuration(tmp_path, quiet(upstream, address, tls=tls))
    host, _, port = address.partition(":")
    with program(file) as old:
        await served(old, file)
        reader, writer = await asyncio.open_connection(host, int(port))
        # Another connection is answered, so this one has been accepted.
        async with await connect(f"https://{address}", tls=certificate.client_context()) as other:
            await other.get("/")
        with program(file, "--takeover") as new:
            await new.line("^listening on")
            await writer.start_tls(certificate.client_context(), server_hostname=host)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with guarded("the answer, and the end"):
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer.lower()
            writer.close()
            assert await old.exited() == 0
            assert await new.stop() == 0


async def test_a_proxy_header_that_is_slow_ends_in_a_connection_that_may_ask_once(
    serve: Serve, dial: Connect, tmp_path: Path, address: str
) -> None:
    upstream = await serve(ticking)
    file = write_configuration(tmp_path, quiet(upstream, address, proxy_protocol=["127.0.0.0/8"]))
    header, request = b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with program(file) as old:
        proxy = await served(old, file)
        slow = await dial(proxy.url)
        await slow.send(header[:7])
        other = await dial(proxy.url)  # is answered, so the first has been accepted
        await other.send(header + request)
        assert (await other.read_response()).status == 200
        with program(file, "--takeover") as new:
            await new.line("^listening on")
            await slow.send(header[7:] + request)
            answer = await slow.read_response()
            assert (answer.status, answer.get("connection")) == (200, b"close")
            await other.aclose()
            assert await old.exited() == 0
            late = await dial(proxy.url)
            await late.send(header + request)
            assert (await late.read_response()).status == 200
            await late.aclose()
            assert await new.stop() == 0
