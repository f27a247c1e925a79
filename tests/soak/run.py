"""The soak itself: starts the parts, lets the clients at them, does harm every minute, and judges."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from streamproxy.version import BUILD
from tests.doubles.ports import reserved_port
from tests.integration.process import Process
from tests.integration.proxy import RunningProxy, configuration, write_configuration
from tests.integration.redis import RedisServer, redis_server
from tests.soak.clients import Kill, Scene, client
from tests.soak.watch import Delays, Sample, Watch, probe, table

NAMES = ("a", "b", "c")  # "a" is never killed: the probes read from it
_SETTLE = 60.0  # seconds beyond ``keep`` in which everything must be gone at the end
_LOOK = 1.0  # seconds between two looks at what is left
_MORE = 1.10  # the last third may use a tenth more than the second
_LONG_ENOUGH = 300.0  # seconds from which growth and delay are judged
_LATER = 10.0  # milliseconds beyond twice the rig's own delay that half of the events may take through the proxy


@dataclass(frozen=True)
class Plan:
    """Times in seconds, but ``gap``, which is in milliseconds."""

    seconds: float
    clients: int
    period: float
    gap: int
    events: int
    pause: float
    keep: int  # how long streams are kept after their end, and idle connections


@dataclass
class Report:
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Backends:
    """Three processes; each has a port for HTTP and one for WebSocket."""

    def __init__(self, exits: ExitStack) -> None:
        self.ports = {name: exits.enter_context(reserved_port()) for name in NAMES}
        self.websocket_ports = {name: exits.enter_context(reserved_port()) for name in NAMES}
        self.processes: dict[str, Process] = {}
        self._exits = exits

    async def start(self, name: str) -> None:
        ports = (str(self.ports[name]), str(self.websocket_ports[name]))
        process = Process([sys.executable, "-m", "tests.soak.backend", name, *ports])
        self.processes[name] = self._exits.enter_context(process)
        await process.line("ready")

    async def kill(self, name: str) -> None:
        self.processes[name].signal(signal.SIGKILL)
        await self.processes[name].exited()


def _urls(ports: dict[str, int]) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in ports.values()]


def proxy_configuration(backends: Backends, redis: RedisServer, keep: int, number: int) -> dict[str, Any]:
    """The configuration, in which each ``number`` changes a route that every stream uses."""
    health = {"interval": "1s", "timeout": "1s", "unhealthy_after": 2}
    common = {"connections": {"idle_timeout": f"{keep}s"}}
    pool = common | {"endpoints": _urls(backends.ports), "health": health}
    sockets = common | {"endpoints": _urls(backends.websocket_ports)}
    said = {"response_headers": {"set": {"x-configuration": str(number)}}}
    retry = {"retry": {"attempts": 3, "backoff": "50ms"}}
    resume = {"store": redis.url, "window": f"{keep}s", "grace": f"{keep}s"}
    routes: list[dict[str, Any]] = [
        {"path": "/probe/*", "upstream": _urls(backends.ports)[0]},
        {"path": "/llm", "upstream": "pool", "protocol": "openai", **retry, **said},
        {"path": "/resume/*", "upstream": "pool", "resume": resume, **retry, **said},
        {"path": "/shared/*", "upstream": "pool", "share": {"key": ["path", "query"]}, **retry, **said},
        {"path": "/ws", "upstream": "sockets", **said},
        {"path": "/*", "upstream": "pool", **retry, **said},
    ]
    return configuration(routes, upstreams={"pool": pool, "sockets": sockets}, log={"access": "off"})


@asynccontextmanager
async def parts(folder: Path, exits: ExitStack, keep: int) -> AsyncIterator[tuple[RunningProxy, Backends, RedisServer]]:
    backends = Backends(exits)
    for name in NAMES:
        await backends.start(name)
    async with redis_server(folder) as redis:
        file = write_configuration(folder, proxy_configuration(backends, redis, keep, 0))
        command = [sys.executable, "-m", "tests.soak.proxy", str(folder / "tasks"), "run", "-c", str(file)]
        with Process(command) as process:
            main = await process.line(r"^listening on (https?://\S+)")
            admin = await process.line(r"^admin on (http://\S+)")
            yield RunningProxy(process, main[1], admin[1], file), backends, redis
            assert await process.stop() == 0, process.output[-5000:]


async def harm(scene: Scene, proxy: RunningProxy, backends: Backends, redis: RedisServer, plan: Plan) -> None:
    """Every period: a reload in its middle, and a backend killed at its end and started again. Until cancelled."""
    number = 0
    while True:
        await asyncio.sleep(plan.period / 2)
        number += 1
        write_configuration(proxy.file.parent, proxy_configuration(backends, redis, plan.keep, number))
        proxy.process.signal(signal.SIGHUP)
        await proxy.until_reloaded(number)
        await asyncio.sleep(plan.period / 2)
        name = NAMES[1 + number % 2]
        kill = Kill(name, time.monotonic())
        scene.kills.append(kill)
        await backends.kill(name)
        await asyncio.sleep(min(5.0, plan.period / 4))
        await backends.start(name)
        kill.back = time.monotonic()


async def soak(plan: Plan, folder: Path, say: Callable[[str], None] = lambda line: None) -> Report:
    """Runs it; returns the figures, and what was wrong."""
    report = Report()
    with ExitStack() as exits:
        async with parts(folder, exits, plan.keep) as (proxy, backends, redis):
            scene = Scene(proxy.url, plan.gap, plan.events)
            watch = Watch(proxy, redis, folder / "tasks")
            through, direct = Delays(), Delays()
            # The first look costs what every look costs; the second is the idle proxy.
            await watch.look()
            idle = await watch.look()
            watch.samples.clear()
            began = time.monotonic()
            await _load(plan, scene, (proxy, backends, redis), watch, (through, direct), say)
            seconds = time.monotonic() - began
            samples = list(watch.samples)
            after = await _settled(plan, watch, idle, report)
            if "Traceback" in proxy.process.output:
                report.problems.append("the proxy logged a traceback:\n" + proxy.process.output[-3000:])
            used = table(samples, idle, after)
            slow = await proxy.metric('streamproxy_store_errors_total{store="resume"}')
            if scene.without_cursor and not slow:
                report.problems.append(f"{scene.without_cursor} streams had no cursor, and Redis was never too slow")
            report.problems += scene.wrong
            delays = {"through": through.percentiles(), "direct": direct.percentiles()}
            if plan.seconds >= _LONG_ENOUGH:
                report.problems += judged(used, delays["through"], delays["direct"])
            report.figures = {
                "plan": asdict(plan), "machine": f"{os.cpu_count()} cores, {platform.platform()}", "build": BUILD,
                "seconds": round(seconds), "exchanges": dict(scene.done), "kills": len(scene.kills),
                "cut by a kill": dict(scene.broken), "wrong": len(scene.wrong), "bytes checked": scene.verified,
                "errors of the store": int(slow), "streams without a cursor": scene.without_cursor,
                "used": used, "cpu of the proxy": round((samples[-1].cpu - samples[0].cpu) / max(seconds, 1), 3),
                "delay through the proxy (ms)": delays["through"], "delay without it (ms)": delays["direct"],
            }  # fmt: skip
    return report


async def _load(
    plan: Plan,
    scene: Scene,
    running: tuple[RunningProxy, Backends, RedisServer],
    watch: Watch,
    delays: tuple[Delays, Delays],
    say: Callable[[str], None],
) -> None:
    proxy, backends, redis = running
    stop = asyncio.Event()
    helpers = [
        asyncio.create_task(harm(scene, proxy, backends, redis, plan)),
        asyncio.create_task(watch.every(min(10.0, plan.seconds / 12))),
        asyncio.create_task(probe(proxy.url, delays[0])),
        asyncio.create_task(probe(f"http://127.0.0.1:{backends.ports['a']}", delays[1])),
    ]
    clients = [asyncio.create_task(client(scene, number, plan.pause, stop)) for number in range(plan.clients)]
    told = 0
    until_then = time.monotonic() + plan.seconds
    try:
        while (left := until_then - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 30.0))
            for helper in helpers:
                if helper.done():
                    helper.result()
            done = f"{scene.done.total()} done, {len(scene.wrong)} wrong"
            for problem in scene.wrong[told:]:
                say(f"WRONG: {problem}")
            told = len(scene.wrong)
            say(f"{plan.seconds - left:6.0f} s  {done}, {watch.samples[-1]}")
    finally:
        # The last exchanges end by themselves, while a killed backend comes back.
        stop.set()
        await asyncio.gather(*clients)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _settled(plan: Plan, watch: Watch, idle: Sample, report: Report) -> Sample:
    """Waits until nothing is left of the clients; notes what is."""

    def is_settled(sample: Sample) -> bool:
        # The list of stops and the beat of the process stay in Redis.
        return sample.streams == 0 and sample.keys <= 2 and sample.descriptors <= idle.descriptors + 3

    deadline = time.monotonic() + plan.keep + _SETTLE
    while not is_settled(sample := await watch.look()) and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK)
    if not is_settled(sample):
        report.problems.append(f"left behind: {sample}, where the idle proxy had {idle}")
    if sample.lasting > 1:
        report.problems.append(f"{sample.lasting} keys of Redis never expire")
    if sample.tasks > idle.tasks + 3:
        report.problems.append(f"{sample.tasks} tasks are left, where the idle proxy had {idle.tasks}")
    return sample


def judged(used: dict[str, Any], through: dict[str, float], direct: dict[str, float]) -> Iterator[str]:
    """What is wrong with a long run: what grows, and a delay of the proxy's own."""
    for name, values in used.items():
        if name != "remembered" and values["last third"] > values["second third"] * _MORE + 5:
            yield f"{name} grows: {values}"
    if not through or not direct:
        yield "no event was timed"
    elif through["p50"] > 2 * direct["p50"] + _LATER:
        yield f"half of the events took {through['p50']} ms, and {direct['p50']} ms without the proxy"
