"""What every load needs: one peer between an upstream and a load generator, each on its cores, and a window of time.

``cpu_us`` is the time that the proxy's process tree ran, in microseconds a unit of the load; times that end in ``_us``
are microseconds, too. ``limit`` is the share of their core that upstream and generator took, of the busier one where
each has its own: near 1, they were the bottleneck, and rates say nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import proc
from benchmarks.peers.base import Peer, Place
from benchmarks.programs import BenchError, Generator, Upstream, free_port, pinned, running, wait_listening, wait_ready

Numbers = dict[str, float]

MB = 1_000_000
SETTLE = 0.5  # seconds between a standing load and its measurement


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
    streams: tuple[int, ...] = (10, 100)  # open at once, one number after the other
    sustained: int = 1000  # the most chats at once that are tried


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
        self.cores = cores
        self._stack = contextlib.ExitStack()
        self._root: int | None = None
        self.place: Place
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
        child = self._stack.enter_context(running(command, cores=self.cores.upstream, piped=True))
        self.upstream = Upstream(child)
        directory = self._programs.directory / self.peer.name
        self.place = Place(self.upstream.port, self.upstream.port, directory, self.sizes.keepalive)
        if self.peer.launch is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        own, beside = (free_port() for _ in range(2))
        listen = free_port()
        http2 = own if self.peer.http2 == "own" else listen
        self.place = self.place._replace(listen=listen, http2=http2, beside=beside)
        launch = self.peer.launch(self.place)
        if launch.beside:
            self._stack.enter_context(running(launch.beside, cores=self.cores.upstream))
            wait_listening(beside)
        # Not in the directory of the configuration, which streamproxy watches: it would be told of each line.
        log = directory.with_name(f"{self.peer.name}.log")
        cores = set(self.cores.several) if self.peer.several else self.cores.proxy
        proxy = self._stack.enter_context(running(launch.command, cores=cores, env=launch.env, log=log))
        try:
            wait_ready(listen, self.peer.ready, proxy)
        except BenchError as fault:
            raise BenchError(f"{fault}; what it said is in {log}") from fault
        self._root = proxy.pid

    @contextlib.contextmanager
    def load(self, mode: str, path: str, *arguments: str) -> Iterator[Generator]:
        """A generator in C whose load stands."""
        ask = self.peer.ask(path, self.place)
        command = [str(self._programs.load), mode, str(self.place.listen), ask.path, *ask.arguments, *arguments]
        with self.generator(command) as generator:
            yield generator

    @contextlib.contextmanager
    def generator(self, command: Sequence[str]) -> Iterator[Generator]:
        """Any program that speaks as the generator in C does, once its load stands."""
        with running(command, cores=self.cores.load, piped=True) as child:
            generator = Generator(child)
            generator.ready()
            yield generator

    def run(self, command: Sequence[str]) -> tuple[float, str]:
        """A generator that ends by itself. Returns the CPU seconds of the proxy meanwhile, and what it printed.

        Raises BenchError if it fails.
        """
        before = proc.cpu(self.pids())
        with pinned(self.cores.load):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise BenchError(f"{command[0]} failed: {done.stderr or done.stdout}")
        return proc.cpu_between(before, proc.cpu(self.pids())), done.stdout

    def pids(self) -> list[int]:
        """The proxy's processes."""
        return [] if self._root is None else proc.tree(self._root)

    def busiest(self, upstream: float, generator: float) -> float:
        """The share that was taken of the busier core, by what upstream and generator took of theirs."""
        return upstream + generator if self.cores.upstream == self.cores.load else max(upstream, generator)

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


def steady(session: Session, generator: Generator, seconds: float) -> tuple[Window, dict[str, Any]]:
    """Measure a standing load for some seconds."""
    time.sleep(SETTLE)
    window = Window(session, generator)
    time.sleep(seconds)
    window.close()  # before the generator ends its connections, which costs the proxy something
    return window, generator.end()


def choose_cores() -> Cores:
    """The proxy has a core for itself; upstream and generator share another on a machine with two.

    Several processes have all that those two leave, or where they leave one, every core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        return Cores(set(), set(), set())
    several = frozenset(cores[2:] if len(cores) > 3 else cores)
    return Cores({cores[-1]}, {cores[0]}, {cores[1]} if len(cores) > 2 else {cores[0]}, several)
