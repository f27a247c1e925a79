"""The supervisor's side of a worker: its process, its line and its state."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from streamproxy.config import Config
from streamproxy.process.channel import (
    Answer,
    Boot,
    Closed,
    Failed,
    Line,
    Message,
    Prepare,
    Prepared,
    Question,
    Ready,
    Report,
    ReportRequest,
    Stop,
)

logger = logging.getLogger("streamproxy.server")

# A worker uses the module path of this process; `-m` would add the working directory. A signal for the whole process
# group may arrive while it imports modules; the supervisor then ends it. The garbage collector: see `__main__`.
_START = (
    "import gc, json, sys; from signal import *; signal(SIGTERM, SIG_IGN); signal(SIGINT, SIG_IGN); gc.disable();"
    " sys.path[:] = json.loads(sys.argv[1]); from streamproxy.process.worker import main;"
    " gc.freeze(); gc.enable(); main()"
)

LONGEST_PAUSE = 30.0  # the maximum seconds before a worker that keeps dying is started again
_FIRST_PAUSE = 0.1
_HANGS = 15.0  # seconds between the end of a line and the exit of its process
_LASTED = 30.0  # seconds; a worker that has lived this long is replaced at once


class Backoff:
    """Calculates how long to wait before a process is started again."""

    def __init__(self) -> None:
        self._pause = 0.0

    def after(self, lived: float) -> float:
        """Returns the seconds to wait after a process has lived ``lived`` seconds: 0 at first, then more each time."""
        if lived >= _LASTED:
            self._pause = 0.0
        pause, self._pause = self._pause, min(max(self._pause * 2, _FIRST_PAUSE), LONGEST_PAUSE)
        return pause


class Worker:
    """A worker process. ``on_report`` is called with each of its reports.

    The result of ``ready`` is None once it accepts connections, or the reason why it never will. ``closed`` is set once
    it accepts no more, and ``gone`` once the process has exited and was waited for.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes], line: Line) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.process = process
        self.on_report: Callable[[Report], None] = lambda report: None
        self.ready: asyncio.Future[str | None] = loop.create_future()
        self.heard = 0  # messages
        self.closed = asyncio.Event()
        self.gone = asyncio.Event()
        self._line = line
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Report | Prepared | None]] = {}
        self._reading = loop.create_task(self._read(), name=f"worker {number}")

    @classmethod
    async def start(cls, number: int, config: Config, listeners: Sequence[socket.socket], sessions: int) -> Worker:
        """Starts a process that serves ``config`` on these sockets. Raises OSError if the system cannot start one.

        ``sessions`` is the descriptor of the memory of sticky sessions, which all workers share.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = tuple(listener.fileno() for listener in listeners)
            try:
                process = _spawn(theirs.fileno(), (*numbers, sessions))
            except OSError:
                ours.close()
                raise
        line = await Line.over(ours)
        line.send(Boot(config, numbers, sessions))
        return cls(number, process, line)

    @property
    def serving(self) -> bool:
        """Whether it accepts connections, or drains."""
        return self.ready.done() and self.ready.result() is None and not self.gone.is_set()

    def send(self, message: Message) -> None:
        """Sends a message, which is lost if it has exited."""
        self._line.send(message)

    async def report(self, *, streams: bool, timeout: float) -> Report | None:
        """Requests a report; None if it does not respond within ``timeout`` seconds or has exited."""
        answer = await self._ask(ReportRequest(streams), timeout)
        return answer if isinstance(answer, Report) else None

    async def prepare(self, config: Config, *, timeout: float) -> str | None:
        """Makes it prepare a configuration. Returns what is wrong, or None, also if it has exited."""
        answer = await self._ask(Prepare(config), timeout)
        if isinstance(answer, Prepared):
            return answer.problem
        return None if self.gone.is_set() else f"worker {self.number} does not answer"

    async def _ask(self, ask: ReportRequest | Prepare, timeout: float) -> Report | Prepared | None:
        if self._reading.done():
            return None
        number = next(self._numbers)
        future: asyncio.Future[Report | Prepared | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self.send(Question(number, ask))
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    async def _read(self) -> None:
        """Receives its messages until the end of the line, and waits for the process."""
        try:
            while (message := await self._line.receive()) is not None:
                self._hear(message)
        finally:
            await self._line.aclose()
            await self._reap()
            self.gone.set()
            self.closed.set()
            if not self.ready.done():
                self.ready.set_result(f"a worker ended while it started: {ending(self.process.returncode)}")
            for future in self._asked.values():
                if not future.done():
                    future.set_result(None)

    async def _reap(self) -> None:
        """Waits for a process whose line has ended: it is about to exit, or it hangs."""
        deadline = asyncio.get_running_loop().time() + _HANGS
        while self.process.poll() is None:
            await asyncio.sleep(0.01)
            if asyncio.get_running_loop().time() > deadline:
                self.process.kill()

    def _hear(self, message: Message) -> None:
        self.heard += 1
        match message:
            case Ready():
                self.ready.set_result(None)
            case Failed(why):
                if not self.ready.done():
                    self.ready.set_result(why)
            case Answer(number, content):
                future = self._asked.get(number)
                if isinstance(content, Report):
                    self.on_report(content)
                if future is not None and not future.done():
                    future.set_result(content)
            case Report():
                self.on_report(message)
            case Closed():
                self.closed.set()

    def stop(self, *, at_once: bool = False, replaced: bool = False) -> None:
        """Requests it to drain, or to end at once; ``replaced`` if another process serves on its sockets."""
        self.send(Stop(at_once, replaced))

    async def end(self, timeout: float | None) -> None:
        """Waits for its exit, and kills it after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.gone.wait()
        if not self.gone.is_set():
            logger.error("worker %d does not exit; killing it", self.number)
            self.process.kill()
            await self.gone.wait()


def _spawn(end: int, inherited: tuple[int, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(end)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(end, *inherited))


def ending(status: int) -> str:
    """Describes how a process ended."""
    return f"signal {-status}" if status < 0 else f"exit status {status}"
