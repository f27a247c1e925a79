"""One of three backends is killed, started again, stopped, continued and slowed under load, all as real processes.

What is held: no request is lost that another backend could have served, no stream on the others is touched, the
attempts stay in their budget, and nothing is left when the load has gone.

The run is short by default. ``STREAMPROXY_BAD_DAY=60`` makes it a minute, with 200 streams and 500 requests a second.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import backend
from tests.doubles.client import RawClient, connect, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.process import Process
from tests.integration.proxy import RunningProxy, configuration, running

SECONDS = float(os.environ.get("STREAMPROXY_BAD_DAY", "6"))
LONG = SECONDS >= 30
STREAMS = 200 if LONG else 45
WORKERS = 50 if LONG else 10  # connections of clients that send requests
RATE = {"native": 500 if LONG else 100, "httpx": 150 if LONG else 50}  # requests a second, all workers together
PROBES = "1s" if LONG else "500ms"  # a machine under such a load needs its time for an answer
NAMES = ("a", "b", "c")


class Backends:
    """Three backend processes; ``b`` is the one with the bad day."""

    def __init__(self, ports: dict[str, int], exits: ExitStack) -> None:
        self.ports = ports
        self.processes: dict[str, Process] = {}
        self._exits = exits

    @property
    def b(self) -> Process:
        return self.processes["b"]

    async def start(self, name: str) -> None:
        process = Process([sys.executable, backend.__file__, name, str(self.ports[name])])
        self.processes[name] = self._exits.enter_context(process)
        await process.line("ready")


class Stream:
    """One live stream and the task that reads it, event by event."""

    def __init__(self, client: RawClient, name: str) -> None:
        self.client = client
        self.name = name
        self.events = 1
        self.ended: str | None = None
        self.task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, proxy: RunningProxy) -> Stream:
        client = await connect(proxy.url)
        await client.request("/stream")
        assert (await client.read_head()).status == 200
        first = await client.read_body_until(b"\n\n")
        assert first.endswith(b" 0\n\n")
        return cls(client, first[6:7].decode())

    async def _read(self) -> None:
        try:
            while True:
                while (at := self.client.decoded.find(b"\n\n")) < 0:
                    piece = await self.client.read_piece()
                    if not piece:
                        self.ended = "complete"
                        return
                    self.client.decoded += piece
                event = bytes(self.client.decoded[:at])
                del self.client.decoded[: at + 2]
                assert event == b"data: %s %d" % (self.name.encode(), self.events), event
                self.events += 1
        except PeerEnded as error:
            self.ended = error.ended.how
        except AssertionError as error:
            self.ended = f"out of order: {error}"

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.client.aclose()


class Load:
    """Requests at a steady rate over kept connections; ``answers`` counts what came back."""

    def __init__(self, proxy: RunningProxy, rate: int) -> None:
        self.answers: Counter[str] = Counter()
        self._proxy = proxy
        self._period = WORKERS / rate
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.come()

    def come(self) -> None:
        """As many workers more: those that were there may all wait for a backend that does not answer."""
        delays = [number * self._period / WORKERS for number in range(WORKERS)]
        self._tasks += [asyncio.create_task(self._work(delay)) for delay in delays]

    async def _work(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        async with await connect(self._proxy.url) as client:
            while not self._stop.is_set():
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due + self._period, loop.time() - self._period)
                answer = await client.get("/")
                self.answers[f"{answer.status} {answer.body.decode()}" if answer.complete else "broken"] += 1

    async def go_on(self, seconds: float) -> None:
        """Wait for as many more answers as come in so many seconds where the machine keeps up with the rate."""
        goal = self.answers.total() + seconds * WORKERS / self._period
        await until(self.answers.total, f"{goal} answers", holds=lambda total: total >= goal, timeout=30 + 10 * seconds)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


async def metric(proxy: RunningProxy, name: str, **labels: str) -> float:
    """The sum of the samples of this name with these labels."""
    text = (await fetch(f"{proxy.admin}/metrics")).body.decode()
    samples = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(value) for found, value in samples if all(label in found for label in wanted))


async def until_up(proxy: RunningProxy, port: int, up: int) -> None:
    """Wait until the proxy shows the endpoint as up or down."""
    await until(
        lambda: metric(proxy, "streamproxy_endpoint_up", endpoint=f"http://127.0.0.1:{port}"),
        f"endpoint {port} to be shown as {'up' if up else 'down'}",
        holds=lambda value: value == up,
    )


@asynccontextmanager
async def scene(client: str, folder: Path) -> AsyncIterator[tuple[RunningProxy, Backends]]:
    with ExitStack() as exits:
        backends = Backends({name: exits.enter_context(reserved_port()) for name in NAMES}, exits)
        for name in NAMES:
            await backends.start(name)
        pool: dict[str, Any] = {
            "endpoints": [f"http://127.0.0.1:{port}" for port in backends.ports.values()],
            "client": client,
            "health": {"interval": PROBES, "timeout": "1s", "unhealthy_after": 2},
            # The streams that die with their backend would have it ejected at once: leave some requests to be retried.
            "outlier": {"consecutive_failures": STREAMS // 3 + 8, "eject_for": "500ms"},
        }
        # A stopped backend keeps what it was sent: those requests wait for it, for longer than it is stopped.
        route = {"path": "/*", "upstream": "pool", "retry": {"attempts": 3, "backoff": "10ms"}}
        route["timeouts"] = {"first_byte": f"{10 * SECONDS:g}s"}
        async with running(configuration([route], upstreams={"pool": pool}, log={"access": "off"}), folder) as proxy:
            yield proxy, backends


async def bad_day(proxy: RunningProxy, backends: Backends, streams: list[Stream], load: Load) -> None:
    """What happens to ``b``; new streams are opened when it is back."""
    part = SECONDS / 6
    await load.go_on(part)
    backends.b.signal(signal.SIGKILL)
    await until_up(proxy, backends.ports["b"], 0)
    await load.go_on(part)
    await backends.start("b")
    await until_up(proxy, backends.ports["b"], 1)
    while sum(stream.name == "b" and stream.ended is None for stream in streams) < STREAMS / 10:
        streams.append(await Stream.open(proxy))
    backends.b.signal(signal.SIGSTOP)
    await until_up(proxy, backends.ports["b"], 0)
    load.come()
    await load.go_on(part)
    backends.b.signal(signal.SIGCONT)
    await until_up(proxy, backends.ports["b"], 1)
    backends.b.signal(signal.SIGUSR1)
    await load.go_on(part)
    backends.b.signal(signal.SIGUSR1)
    await load.go_on(part)


@pytest.mark.parametrize("client", ["native", "httpx"])
async def test_a_bad_day_of_one_backend_is_not_its_clients(client: str, tmp_path: Path) -> None:
    async with scene(client, tmp_path) as (proxy, backends):
        streams = [await Stream.open(proxy) for _ in range(STREAMS)]
        first = list(streams)
        load = Load(proxy, RATE[client])
        try:
            await bad_day(proxy, backends, streams, load)
            await load.stop()
            before = {stream: stream.events for stream in streams}
            await until(
                lambda: all(stream.ended is not None or stream.events > before[stream] for stream in streams),
                "every live stream to go on",
            )
            requests = sum(load.answers.values())
            assert set(load.answers) <= {"200 a", "200 b", "200 c"}, load.answers
            assert requests >= RATE[client] * SECONDS * 5 / 6, "the load was not one"
            spread = Counter(stream.name for stream in first)
            assert max(spread.values()) - min(spread.values()) <= 1, spread
            killed = [stream for stream in first if stream.name == "b"]
            assert {stream.ended for stream in killed} <= {"eof", "reset"}
            assert all(stream.ended is None for stream in streams if stream not in killed)
            retries = await metric(proxy, "streamproxy_retries_total")
            assert retries >= 1, "nothing was tried again: the day was not bad"
            assert retries <= 0.2 * (requests + len(streams)) + 30
        finally:
            for stream in streams:
                await stream.close()
        await proxy.until_streams("the end of all streams", lambda live: live == [])
        assert await metric(proxy, "streamproxy_endpoint_streams") == 0
