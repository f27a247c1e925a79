"""The supervisor of worker processes, for `server.workers` above 1.

Theory of operation. The supervisor holds the listening sockets and the admin listener, and serves no exchanges. Workers
inherit sockets (see `Shares`), whose queues outlive them: a connection that was not yet accepted is not lost with a
dead worker. A worker is started as a new program (not by fork, which event loops and threads do not survive). It exits
when the supervisor does, and is replaced when it dies, with growing pauses if it keeps dying. A worker that hangs is
killed (`streamproxy.process.watchdog`).

Signals and changes of the configuration are passed on by the supervisor::

    reload   read and check once ──▶ every worker prepares ──▶ all come into force, or none
    drain    not ready ──▶ every worker drains ──▶ their sockets closed: close ours ──▶ all gone ──▶ admin, end
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time

from streamproxy.config import Config
from streamproxy.config.advice import advice
from streamproxy.process import watchdog
from streamproxy.process.drain import FLUSH, MOMENT, Stop
from streamproxy.process.fleet import Fleet
from streamproxy.process.lifecycle import Launch, Main, Program, StartFailed, on_signals
from streamproxy.process.shares import Arrivals, Shares
from streamproxy.process.workers import Backoff, Worker, ending
from streamproxy.server.sockets import BindError
from streamproxy.upstream.sessions import shared_memory

logger = logging.getLogger("streamproxy.server")

STARTING = 60.0  # seconds for a worker to accept connections
_GRACE = 5.0  # seconds for a worker to end, in addition to its drain
_OVER = MOMENT + FLUSH + _GRACE


class Supervisor(Main):
    """Keeps the configured number of workers running on sockets that are already listening."""

    def __init__(self, fleet: Fleet, listeners: list[socket.socket]) -> None:
        self._fleet = fleet
        self._count = fleet.in_force.server.workers
        self._shares = Shares(listeners, self._count)
        self._sessions = shared_memory()  # outlives every worker
        self._stopping = asyncio.Event()
        self._places: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> list[socket.socket]:
        """The main listener's sockets."""
        return self._shares.all()

    async def start(self) -> None:
        """Starts all workers; returns once they accept connections. Raises StartFailed."""
        started = await asyncio.gather(*(self._start(number) for number in range(1, self._count + 1)))
        for worker in started:
            await self._await_ready(worker)
        loop = asyncio.get_running_loop()
        self._places = [loop.create_task(self._keep(worker), name=f"place {worker.number}") for worker in started]
        self._watching = loop.create_task(self._watch(), name="watchdog")

    async def _start(self, number: int) -> Worker:
        worker = await Worker.start(number, self._fleet.in_force, self._shares.of(number - 1), self._sessions)
        self._fleet.joined(worker)
        return worker

    async def _await_ready(self, worker: Worker) -> None:
        done, _ = await asyncio.wait({worker.ready}, timeout=STARTING)
        problem = worker.ready.result() if done else "a worker does not start"
        if problem is not None:
            raise StartFailed(problem)

    async def _keep(self, worker: Worker) -> None:
        """Waits for a worker to exit and replaces it, repeatedly."""
        backoff, number = Backoff(), worker.number
        while True:
            began = time.monotonic()
            await worker.gone.wait()
            self._fleet.left(worker)
            if self._stopping.is_set():
                return
            pause = backoff.after(time.monotonic() - began)
            if pause:
                self._shares.withdraw(number - 1)
            how = ending(worker.process.returncode)
            logger.error("worker %d ended with %s; starting another in %.1f s", number, how, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return
            worker = await self._replace(number)

    async def _replace(self, number: int) -> Worker:
        """Starts a worker. A failure to start shows as its exit."""
        # Not while the configuration changes, because the worker would start with the old one and miss the new one.
        async with self._fleet.changing:
            while True:
                try:
                    self._shares.restore(number - 1)
                    worker = await self._start(number)
                    break
                except (OSError, BindError) as error:
                    logger.error("worker %d can't be started: %s", number, error)
                    await asyncio.sleep(1.0)
            if self._stopping.is_set():
                worker.stop(at_once=True)
            try:
                await self._await_ready(worker)
            except StartFailed as error:
                logger.error("worker %d did not start: %s", number, error)
                worker.process.kill()
        return worker

    async def _watch(self) -> None:
        """Kills workers that hang, which `_keep` then replaces, and keeps the workers' streams in balance."""
        hanging: watchdog.Watchdog[Worker] = watchdog.Watchdog(watchdog.SILENCE)
        arrivals = Arrivals()
        while True:
            began = time.monotonic()
            await asyncio.sleep(watchdog.TICK)
            heard = {worker: worker.heard for worker in self._fleet.workers if worker.serving}
            for worker in hanging.tick(time.monotonic() - began, heard):
                logger.error("worker %d hangs: it is alive but does not report; killing it", worker.number)
                worker.process.kill()
            coming = arrivals.count(self._fleet.metrics.arrived())
            if not self._stopping.is_set():
                answering = [worker for worker in heard if hanging.answers(worker)]
                self._balance(answering, coming if hanging.prompt else 0.0)

    def _balance(self, answering: list[Worker], arrivals: float) -> None:
        streams: list[int | None] = [None] * self._count
        for worker in answering:
            streams[worker.number - 1] = self._fleet.metrics.streams(worker)
        self._shares.balance(streams, arrivals)

    async def drain(self, stop: Stop) -> None:
        """Drains all workers, and ends them at once on the second signal; returns when they have exited."""
        self._stopping.set()
        self._fleet.draining = not stop.replaced
        logger.info("draining: %d workers", len(self._fleet.workers))
        workers = list(self._fleet.workers)
        for worker in workers:
            worker.stop(replaced=stop.replaced)
        hurry = asyncio.get_running_loop().create_task(self._hurry(stop, workers))
        server = self._fleet.in_force.server
        limit = None if server.drain_timeout is None else server.drain_delay + server.drain_timeout + _OVER
        ends = [asyncio.ensure_future(worker.end(limit)) for worker in workers]
        for worker in workers:
            await worker.closed.wait()
        self._shares.close()
        stop.released.set()
        await asyncio.gather(*ends)
        hurry.cancel()
        await asyncio.gather(hurry, return_exceptions=True)
        await asyncio.gather(*self._places)

    async def _hurry(self, stop: Stop, workers: list[Worker]) -> None:
        await stop.at_once.wait()
        for worker in workers:
            worker.stop(at_once=True)
        await asyncio.gather(*(worker.end(_OVER) for worker in workers))

    async def stop(self) -> None:
        """Ends all remaining workers, after a drain or a failed start."""
        self._stopping.set()
        for task in (*self._places, *filter(None, [self._watching])):
            task.cancel()
        for worker in self._fleet.workers:
            worker.stop(at_once=True)
        await asyncio.gather(*(worker.end(_OVER) for worker in self._fleet.workers))


async def supervise(config: Config, launch: Launch) -> None:
    """Serves with several workers on listening sockets until a signal or a successor ends it.

    Raises StreamproxyError.
    """
    stop = on_signals()
    fleet = Fleet(config)
    for sentence in advice(config):
        logger.warning("%s", sentence)
    supervisor = Supervisor(fleet, launch.listeners.main)
    _reap_orphans(fleet)
    await Program(stop, fleet, fleet.admin, supervisor, launch).run()


def _reap_orphans(fleet: Fleet) -> None:
    """Reaps orphaned processes if this is the first process of a container."""
    if os.getpid() != 1:
        return

    def reap() -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                worker = next((one for one in fleet.workers if one.process.pid == ended.si_pid), None)
                if worker is None:
                    os.waitpid(ended.si_pid, 0)
                else:
                    worker.process.poll()

    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(reap)

    signal.signal(signal.SIGCHLD, on_signal)  # not by the loop, because uvloop reserves this signal
