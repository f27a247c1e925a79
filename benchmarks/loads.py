"""The loads, and what is measured under each.

A load is driven by the generator in C against one proxy; it gives numbers by name. ``cpu_us`` is the time that the
proxy's process tree ran, in microseconds a unit of the load; times that end in ``_us`` are microseconds, too. ``limit``
is the share of their core that upstream and generator took, of the busier one where each has its own: near 1, they
were the bottleneck, and rates say nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import proc
from benchmarks.peers import Peer, Place
from benchmarks.programs import BenchError, Generator, Upstream, free_port, running, wait_ready

Numbers = dict[str, float]

MB = 1_000_000
_SETTLE = 0.5  # seconds between a standing load and its measurement


class Cores(NamedTuple):
    """Where things run; empty sets leave it to the kernel. ``several`` are for a proxy of several processes."""

    proxy: set[int]
    upstream: set[int]
    load: set[int]
    several: Set[int] = frozenset()


class Sizes(NamedTuple):
    """How big the loads are."""

    seconds: float  # of a measurement
    idle_streams: int
    keepalive: int  # seconds
    download: int  # bytes
    aborts: int


class Programs(NamedTuple):
    """The compiled upstream and generator, and a directory for what runs."""

    upstream: Path
    load: Path
    directory: Path


class Session:
    """One peer between a fresh upstream and the generators that a load starts."""

    def __init__(self, peer: Peer, sizes: Sizes, programs: Programs, cores: Cores) -> None:
        self.peer = peer
        self.sizes = sizes
        self._programs = programs
        self._cores = cores
        self._stack = contextlib.ExitStack()
        self._root: int | None = None
        self._port = 0
        self.upstream: Upstream

    def __enter__(self) -> Session:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        command = [str(self._programs.upstream)]
        child = self._stack.enter_context(running(command, cores=self._cores.upstream, piped=True))
        self.upstream = Upstream(child)
        self._port = self.upstream.port
        if self.peer.launch is None:
            return
        directory = self._programs.directory / self.peer.name
        directory.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        launch = self.peer.launch(Place(self._port, self.upstream.port, directory, self.sizes.keepalive))
        log = directory / "output.log"
        cores = set(self._cores.several) if self.peer.several else self._cores.proxy
        proxy = self._stack.enter_context(running(launch.command, cores=cores, env=launch.env, log=log))
        try:
            wait_ready(self._port, self.peer.ready, proxy)
        except BenchError as fault:
            raise BenchError(f"{fault}; what it said is in {log}") from fault
        self._root = proxy.pid

    @contextlib.contextmanager
    def load(self, mode: str, path: str, *arguments: str) -> Iterator[Generator]:
        """A generator whose load stands."""
        ask = self.peer.ask(path)
        command = [str(self._programs.load), mode, str(self._port), ask.path, *ask.arguments, *arguments]
        with running(command, cores=self._cores.load, piped=True) as child:
            generator = Generator(child)
            generator.ready()
            yield generator

    def pids(self) -> list[int]:
        """The proxy's processes."""
        return [] if self._root is None else proc.tree(self._root)

    def busiest(self, upstream: float, generator: float) -> float:
        """The share that was taken of the busier core, by what upstream and generator took of theirs."""
        return upstream + generator if self._cores.upstream == self._cores.load else max(upstream, generator)

    def memory(self) -> int:
        """Bytes (Pss) of the proxy's processes."""
        return proc.pss(self.pids())


class Window:
    """Times from ``mark`` to ``close``: the proxy's, and that of the upstream and the generator."""

    def __init__(self, session: Session, generator: Generator) -> None:
        self._session = session
        self._pids = session.pids(), [session.upstream.pid], [generator.pid]
        self._before = [proc.cpu(pids) for pids in self._pids]
        self._began = time.monotonic()
        generator.mark()
        self.cpu = 0.0  # seconds
        self.limit = 0.0

    def close(self) -> None:
        seconds = time.monotonic() - self._began
        ran = [proc.cpu_between(before, proc.cpu(pids)) for before, pids in zip(self._before, self._pids, strict=True)]
        self.cpu = ran[0]
        self.limit = self._session.busiest(ran[1] / seconds, ran[2] / seconds)

    def numbers(self, units: float, session: Session) -> Numbers:
        """What every load reports, for so many units of it."""
        numbers = {"limit": self.limit}
        if session.peer.launch is not None:
            if units <= 0:
                raise BenchError("nothing came through")
            numbers["cpu_us"] = self.cpu * 1e6 / units
            numbers["pss_mb"] = session.memory() / MB
        return numbers


def _steady(session: Session, generator: Generator, seconds: float) -> tuple[Window, dict[str, Any]]:
    """Measure a standing load for some seconds."""
    time.sleep(_SETTLE)
    window = Window(session, generator)
    time.sleep(seconds)
    window.close()  # before the generator ends its connections, which costs the proxy something
    return window, generator.end()


def tiny(session: Session) -> Numbers:
    """One-event responses over 32 connections, each asking again as soon as it has its answer."""
    with session.load("closed", "/tiny", "conns=32") as generator:
        window, result = _steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["responses"], session)
    return numbers | {
        "per_second": result["responses"] / result["seconds"],
        "p50_us": result["first_byte"]["p50"],
        "p99_us": result["first_byte"]["p99"],
        "errors": result["errors"],
    }


def ttfb(session: Session) -> Numbers:
    """Time to the first byte, one request at a time, 200 a second: nothing waits for anything else."""
    with session.load("paced", "/tiny", "conns=1", "rate=200") as generator:
        window, result = _steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["responses"], session)
    first = result["first_byte"]
    return numbers | {"p50_us": first["p50"], "p99_us": first["p99"], "errors": result["errors"]}


def events(session: Session) -> Numbers:
    """100 streams with 50 events a second each, or as many as the peer can carry.

    The delay is from the upstream's stamp to the client's read.
    """
    streams = session.peer.streams
    with session.load("streams", "/events?rate=50", f"conns={streams}") as generator:
        window, result = _steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["events"], session)
        dropped = session.upstream.stats()["dropped"]
    delay = result["delay"]
    return numbers | {
        "streams": streams,
        "per_second": result["events"] / result["seconds"],
        "p50_us": delay["p50"],
        "p99_us": delay["p99"],
        "p999_us": delay["p999"],
        "errors": result["errors"] + result["lost"] + dropped,
    }


def flood(session: Session) -> Numbers:
    """8 streams of events of 1 KiB, as fast as the proxy carries them. A unit is a megabyte."""
    with session.load("flood", "/flood", "conns=8") as generator:
        window, result = _steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["bytes"] / MB, session)
    return numbers | {
        "mb_per_second": result["bytes"] / MB / result["seconds"],
        "errors": result["errors"] + result["lost"],
    }


def idle(session: Session) -> Numbers:
    """Thousands of streams that are silent, but for a keepalive. A unit is one stream for one second."""
    streams, keepalive = session.sizes.idle_streams, session.sizes.keepalive
    with session.load("closed", "/tiny", "conns=32") as generator:
        _steady(session, generator, 0.3)  # what a proxy makes once is not the streams'
    before = session.memory()
    # Who sends no keepalives itself carries those of the upstream.
    path = "/idle" if session.peer.keepalive else f"/idle?keepalive={keepalive}"
    with session.load("idle", path, f"conns={streams}") as generator:
        time.sleep(_SETTLE)
        memory = session.memory()
        window, result = _steady(session, generator, keepalive)
        numbers = window.numbers(streams * result["seconds"], session)
    return numbers | {
        "streams": streams,
        "kib_a_stream": (memory - before) / 1024 / streams,
        "keepalives_a_stream": result["reads"] / streams,
        "errors": result["errors"] + result["lost"],
    }


def _bulk(session: Session, mode: str, path: str, *arguments: str) -> Numbers:
    with session.load(mode, path, *arguments) as generator:
        window = Window(session, generator)
        result = generator.result()
        window.close()
        numbers = window.numbers(session.sizes.download / MB, session)
    return numbers | {
        "cpu_s": window.cpu,
        "mb_per_second": session.sizes.download / MB / result["seconds"],
        "errors": result["errors"],
    }


def download(session: Session) -> Numbers:
    """One response of 1 GB with its length. A unit is a megabyte."""
    return _bulk(session, "download", f"/download?bytes={session.sizes.download}", "count=1")


def upload(session: Session) -> Numbers:
    """Four requests, one after the other, with a body of 250 MB each. A unit is a megabyte."""
    return _bulk(session, "upload", "/upload", "method=POST", "count=4", f"bytes={session.sizes.download // 4}")


def abort(session: Session) -> Numbers:
    """Connect, ask for a stream, take its first event, leave; 16 clients at once. A unit is one of those."""
    count = session.sizes.aborts
    with session.load("abort", "/idle", "conns=16", f"count={count}") as generator:
        window = Window(session, generator)
        result = generator.result()
        deadline = time.monotonic() + 2.0
        while (left := session.upstream.stats()["open_streams"]) and time.monotonic() < deadline:
            time.sleep(0.02)
        window.close()
        numbers = window.numbers(count, session)
    return numbers | {
        "per_second": result["responses"] / result["seconds"],
        "left_open": left,
        "errors": result["errors"],
    }


class Load(NamedTuple):
    """A load by name. ``rounds`` is the most that it is worth."""

    run: Callable[[Session], Numbers]
    unit: str
    rounds: int


LOADS: dict[str, Load] = {
    "tiny": Load(tiny, "request", 100),
    "ttfb": Load(ttfb, "request", 100),
    "events": Load(events, "event", 100),
    "flood": Load(flood, "MB", 100),
    "idle": Load(idle, "stream and second", 2),
    "download": Load(download, "MB", 100),
    "upload": Load(upload, "MB", 100),
    "abort": Load(abort, "stream", 100),
}


def choose_cores() -> Cores:
    """The proxy has a core for itself; upstream and generator share another on a machine with two.

    Several processes have all that those two leave, or where they leave one, every core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return Cores(set(), set(), set())
    several = frozenset(cores[2:] if len(cores) > 3 else cores)
    return Cores({cores[-1]}, {cores[0]}, {cores[1]} if len(cores) > 2 else {cores[0]}, several)


def measure(load: Load, session: Session) -> Numbers:
    """Start the peer, run the load, stop the peer. Raises BenchError when it could not be done."""
    with session:
        return load.run(session)
