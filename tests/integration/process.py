"""Programs as child processes: started, waited for by a line of their output, and always stopped.

A thread reads the output (both streams together), so that a child never blocks on a full pipe. Waits are guarded by
`GUARD` seconds and fail with the output so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import streamproxy
from tests.doubles.connection import GUARD

ROOT = Path(__file__).parents[2]
# A child runs the build that is tested here, installed or not.
PATHS = os.pathsep.join((str(Path(streamproxy.__file__).parents[1]), str(ROOT)))


class Process:
    """A running program. Leaving the ``with`` block stops it, and its whole process group if it does not listen."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = Path(command[0]).name
        self.lines: list[str] = []
        self._change = threading.Condition()
        self._over = False
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": PATHS, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def output(self) -> str:
        with self._change:
            return "\n".join(self.lines)

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._change:
                self.lines.append(line.rstrip("\n"))
                self._change.notify_all()
        with self._change:
            self._over = True
            self._change.notify_all()

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    def wait_line(self, pattern: str) -> re.Match[str]:
        """`line` for code that runs without an event loop."""
        with self._change:
            self._change.wait_for(lambda: self._over or self._find(pattern) is not None, GUARD)
            found = self._find(pattern)
        if found is None:
            raise AssertionError(f"{self.name} did not print {pattern!r}; its output:\n{self.output}")
        return found

    async def line(self, pattern: str) -> re.Match[str]:
        """The first line of output that matches, waited for."""
        return await asyncio.to_thread(self.wait_line, pattern)

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    async def exited(self) -> int:
        """Wait for the program to end by itself; its exit status, negative for a signal."""
        try:
            return await asyncio.to_thread(self.child.wait, GUARD)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end; its output:\n{self.output}") from None

    async def stop(self) -> int:
        """Ask the program to end with SIGTERM, and wait for it; its exit status."""
        if self.child.poll() is None:
            self.signal(signal.SIGTERM)
        return await self.exited()

    def memory(self, field: str) -> int:
        """Bytes of ``VmRSS`` (now) or ``VmHWM`` (the most so far) of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1]) * 1024

    def reset_peak(self) -> None:
        """Let ``VmHWM`` start again from what the process holds now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.child.poll() is None and kind is None:  # a test that failed does not wait for streams to end
                self.child.terminate()
                self.child.wait(GUARD)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill_group()
            self.child.wait()
            self._reader.join(GUARD)
            assert self.child.stdout is not None
            self.child.stdout.close()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # the child leads a session of its own: nobody else is in it
