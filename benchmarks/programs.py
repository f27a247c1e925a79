"""Starting and stopping what a measurement needs: the upstream and the load generator in C, and the proxies.

Everything that is started is stopped by its own process, whatever happens. The C programs end by themselves when their
standard input does, so that even a killed harness leaves none of them behind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

SOURCES = Path(__file__).parent / "native"
_STOP = 5.0  # seconds that a program has to end by itself
_START = 180.0  # seconds; where others have the cores, a start of several processes took more than 60
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


class BenchError(Exception):
    """A measurement could not be made; the text says why."""


def build(out: Path) -> tuple[Path, Path]:
    """Compile the upstream and the load generator into ``out``; gives both. Raises BenchError without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BenchError("the upstream and the load generator are written in C, and there is no gcc here")
    out.mkdir(parents=True, exist_ok=True)
    built = []
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir())
    for name in ("upstream", "load"):
        program = out / name
        if not program.exists() or program.stat().st_mtime < newest:
            command = [compiler, *_FLAGS, "-o", str(program), str(SOURCES / f"{name}.c")]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise BenchError(f"{name}.c does not compile:\n{done.stderr}")
        built.append(program)
    return built[0], built[1]


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Processes that are started inside run on these cores; an empty set leaves them anywhere."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    cores: set[int],
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    piped: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs while the block does. ``piped`` gives its standard input and output to the block."""
    with contextlib.ExitStack() as stack:
        output: IO[str] | int = subprocess.DEVNULL if log is None else stack.enter_context(log.open("w"))
        with pinned(cores):
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=None if piped else output,
                env={**os.environ, **(env or {})},
                text=True,
                start_new_session=True,
            )
        _weigh(child.pid)
        try:
            yield child
        finally:
            _stop(child, piped)


def _weigh(pid: int) -> None:
    """Have the niceness of the harness count for a program, too: Linux weighs each session as one (sched(7))."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def _stop(child: subprocess.Popen[str], piped: bool) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        if not piped:
            child.terminate()
        child.wait(_STOP)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # it leads a session of its own: nobody else is in it
        child.wait()


def free_port() -> int:
    """A loopback port that nobody had a moment ago."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port


def fetch(port: int, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
    """Status and body of one GET. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_listening(port: int) -> None:
    """Wait until a port takes connections. Raises BenchError if it takes too long."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port}")


def wait_ready(port: int, path: str, child: subprocess.Popen[str], patience: float = _START) -> None:
    """Wait until a program answers 200, for ``patience`` seconds. Raises BenchError when it ends instead."""
    deadline = time.monotonic() + patience
    last = ""
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise BenchError(f"it ended with status {child.returncode} while it started")
        try:
            status, _ = fetch(port, path)
            if status == 200:
                return
            last = f"status {status}"
        except (OSError, http.client.HTTPException) as fault:
            last = str(fault)
        time.sleep(0.05)
    raise BenchError(f"it does not answer: {last}")


def _line(child: subprocess.Popen[str], seconds: float) -> str:
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], seconds)[0]:
        raise BenchError(f"nothing came of it in {seconds:.0f} s")
    line = child.stdout.readline()
    if not line:
        raise BenchError("the load generator gave up")
    return line


class Upstream:
    """The C upstream, while it runs."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.pid = child.pid
        self.port = int(_line(child, _STOP))

    def stats(self) -> dict[str, int]:
        """``open_streams``, and events that were ``dropped`` or ``late``."""
        found: dict[str, int] = json.loads(fetch(self.port, "/stats")[1])
        return found


class Generator:
    """The C load generator, while it runs. ``ready``, ``mark``, then ``end`` or, for a load that ends, ``result``."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.pid = child.pid
        self._child = child

    def ready(self, seconds: float = 120.0) -> None:
        """Wait until the load stands."""
        line = _line(self._child, seconds)
        if line != "ready\n":
            raise BenchError(f"the load generator said {line!r}")

    def _say(self, command: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(command)
            self._child.stdin.flush()
        except OSError as fault:
            raise BenchError("the load generator gave up") from fault

    def mark(self) -> None:
        """Begin to measure."""
        self._say("m")

    def end(self) -> dict[str, Any]:
        """Stop, and give what was measured."""
        self._say("e")
        return self.result(10.0)

    def result(self, seconds: float = 180.0) -> dict[str, Any]:
        """Wait for the load's own end, and give what was measured."""
        found: dict[str, Any] = json.loads(_line(self._child, seconds))
        return found
