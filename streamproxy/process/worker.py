"""A worker process: started by the supervisor, and controlled over a private connection.

Theory of operation. A worker inherits the listening sockets and one end of a `Line`. The first message says what to
serve. The worker then reports that it is ready. While it serves, it executes the supervisor's requests, and it reports
its numbers every `PUSH` seconds, so that little is lost if it dies.

    boot ──▶ ready ──▶ draining ──▶ last report, end
                       by the supervisor's message, by SIGTERM, or when the supervisor has exited

SIGTERM starts the drain, and further ones have no effect: terminals and service managers send signals to every process
of a group, and a second one may be meant for another process. Only the supervisor handles SIGHUP.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from streamproxy.app import Application, create_app
from streamproxy.deployment import Deployment
from streamproxy.errors import StreamproxyError
from streamproxy.observe.series import Totals
from streamproxy.process.channel import (
    Answer,
    Boot,
    Closed,
    Commit,
    Discard,
    Failed,
    Interrupt,
    Line,
    Message,
    Prepare,
    Prepared,
    Question,
    Ready,
    Report,
    ReportRequest,
    read_boot,
    row_of,
)
from streamproxy.process.channel import Stop as StopMessage
from streamproxy.process.drain import Stop
from streamproxy.process.engine import loop_factory, main_engine
from streamproxy.process.lifecycle import Lifecycle, OwnEngine
from streamproxy.process.memory import keep_buffers
from streamproxy.process.threads import run_in_daemon_thread
from streamproxy.server.engines import Engine
from streamproxy.server.http1.limits import NEWCOMER
from streamproxy.server.sockets import close, inherit
from streamproxy.server.tls import ListenerTls
from streamproxy.upstream.sessions import SessionTable

PUSH = 1.0  # seconds between two reports without a request
_BATCH = 100  # exchanges between two iterations of the event loop


class Service:
    """Answers the supervisor's requests: reports, and changes of the configuration."""

    def __init__(self, app: Application, tls: ListenerTls | None, stop: Stop) -> None:
        self._app = app
        self._tls = tls
        self._stop = stop
        self._prepared: tuple[Deployment, Callable[[], None] | None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, line: Line) -> None:
        """Executes the supervisor's messages until it exits; then drains."""
        while (message := await line.receive()) is not None:
            await self._hear(message, line)
        self._stop.begun.set()

    async def _hear(self, message: Message, line: Line) -> None:
        match message:
            case Question():
                # In a separate task, because a long request must not delay a stop.
                task = asyncio.get_running_loop().create_task(self._answer(message, line))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Interrupt():
                self._app.stop(message.id)
            case Commit():
                await self._commit()
            case Discard():
                await self._discard()
            case StopMessage():
                self._stop.replaced |= message.replaced
                self._stop.begun.set()
                if message.at_once:
                    self._stop.at_once.set()

    async def _answer(self, question: Question, line: Line) -> None:
        match question.ask:
            case ReportRequest(streams):
                line.send(Answer(question.number, await self.report(streams=streams)))
            case Prepare():
                line.send(Answer(question.number, Prepared(await self._prepare(question.ask))))

    async def report(self, *, streams: bool) -> Report:
        """Returns the current numbers, and the live exchanges if requested.

        An exchange that ends meanwhile is still reported as live, so that each is counted once.
        """
        app = self._app
        finished, live, running = app.metrics.finished(), list(app.ledger.live.values()), Totals()
        ended, ends = tuple(app.ended.kept()), app.ended.counts.copy()
        batches: list[bytes] = []
        for start in range(0, len(live), _BATCH):
            batch = live[start : start + _BATCH]
            for exchange in batch:
                running.progress(exchange, time.monotonic())
            if streams:
                batches.append(pickle.dumps([row_of(exchange) for exchange in batch], pickle.HIGHEST_PROTOCOL))
            await asyncio.sleep(0)
        rows = tuple(batches) if streams else None
        return Report(finished, running, rows, ended, ends, tuple(app.ready()))

    async def push(self, line: Line) -> None:
        """Reports every `PUSH` seconds until it is cancelled."""
        while True:
            await asyncio.sleep(PUSH)
            line.send(await self.report(streams=False))
            await line.flush()

    async def _prepare(self, ask: Prepare) -> str | None:
        await self._discard()
        try:
            swap = None
            if self._tls is not None and ask.config.server.tls is not None:
                swap = await run_in_daemon_thread(partial(self._tls.prepare, ask.config.server.tls))
            self._prepared = await self._app.prepare(ask.config), swap
        except (StreamproxyError, OSError, ValueError) as error:
            return str(error)
        return None

    async def _commit(self) -> None:
        if self._prepared is None:
            return
        (deployment, swap), self._prepared = self._prepared, None
        if swap is not None:
            swap()
        await self._app.commit(deployment)

    async def _discard(self) -> None:
        if self._prepared is not None:
            (deployment, _), self._prepared = self._prepared, None
            await deployment.discard()

    async def aclose(self) -> None:
        """Stops answering requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._discard()


class _Announced:
    """An engine that reports its drain to the supervisor, which then closes its own copies of the sockets."""

    def __init__(self, engine: Engine, line: Line) -> None:
        self._engine = engine
        self._line = line

    async def start(self) -> None:
        await self._engine.start()

    def drain(self, patience: float = NEWCOMER) -> None:
        self._engine.drain(patience)
        self._line.send(Closed())

    @property
    def connections(self) -> int:
        return self._engine.connections

    async def stop(self) -> None:
        await self._engine.stop()


async def work(boot: Boot, end: socket.socket) -> None:
    """Serves until the supervisor stops it or exits."""
    line, stop = await Line.over(end), Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.begun.set)
    try:
        await _serve(boot, line, stop)
    except (StreamproxyError, OSError, ImportError) as error:
        line.send(Failed(str(error)))
    finally:
        await line.aclose()


async def _serve(boot: Boot, line: Line, stop: Stop) -> None:
    config = boot.config
    listeners: list[socket.socket] = [inherit(number) for number in boot.listeners]
    tls = ListenerTls(config.server.tls, config.server.serves_http2) if config.server.tls is not None else None
    app = create_app(config, sessions=SessionTable(boot.sessions))
    os.close(boot.sessions)  # the table has mapped the memory
    # All workers together accept as many connections as one process; a full worker leaves them to the others.
    most = max(1, config.server.max_connections // config.server.workers)
    engine = main_engine(config, app, listeners, tls, max_connections=most)
    main = OwnEngine(app, _Announced(engine, line), listeners)
    await _WorkerLifecycle(stop, app, main, Service(app, tls, stop), line).run()


class _WorkerLifecycle(Lifecycle):
    def __init__(self, stop: Stop, app: Application, main: OwnEngine, service: Service, line: Line) -> None:
        super().__init__(stop, app, main)
        self._service = service
        self._line = line
        # From the beginning, so that a stop or the exit of the supervisor is noticed during the start.
        self._tasks = [asyncio.get_running_loop().create_task(service.listen(line), name="supervisor")]

    async def _accepting(self) -> None:
        self._line.send(Ready())
        self._tasks.append(asyncio.get_running_loop().create_task(self._service.push(self._line), name="reports"))

    async def _gone(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._service.aclose()
        self._line.send(await self._service.report(streams=False))
        for listener in self._main.listeners:
            close(listener)


def main() -> None:
    """The entry point of a worker; the last argument is the descriptor of its end of the line."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keep_buffers()
    end = socket.socket(fileno=int(sys.argv[-1]))
    end.set_inheritable(False)
    try:
        boot = read_boot(end)
    except EOFError:
        sys.exit(0)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(boot, end))
