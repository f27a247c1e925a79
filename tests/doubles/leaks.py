"""A check that a test left nothing behind: no task, no socket, nothing counted by a gauge.

What was there when the check began is not its business, nor are uvloop's own sockets. What a test leaves may need a
few turns of the event loop to go away, so `LeakCheck.verify` waits for that, and fails with a list of what stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvloop

from tests.doubles.until import until

PATIENCE = 20.0  # seconds


def open_sockets() -> set[str]:
    """The sockets this process holds, by inode."""
    inodes = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor that lists the directory is gone by now
            link = os.readlink(f"/proc/self/fd/{fd}")
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    return inodes


def nameless_pairs() -> set[str]:
    """The inodes of nameless pairs of unix sockets, of which uvloop makes one for signals each time it is run."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            link = os.readlink(f"/proc/self/fd/{number}")
            if link.startswith("socket:["):
                with socket.socket(fileno=os.dup(int(number))) as one:
                    if one.family == socket.AF_UNIX and not one.getsockname() and not one.getpeername():
                        found.add(link[8:-1])
    return found


def describe_sockets(inodes: set[str]) -> list[str]:
    """One line for each of these sockets: its ports, and the kernel's number for its state (8 is CLOSE_WAIT)."""
    lines: list[str] = []
    for name in ("tcp", "tcp6") if inodes else ():  # the tables are long on a busy machine
        for row in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[9] in inodes:
                inodes = inodes - {fields[9]}
                lines.append(f"{name} port {_port(fields[1])} to port {_port(fields[2])}, state {fields[3]}")
    return lines + [f"another socket, inode {inode}" for inode in sorted(inodes)]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


class LeakCheck:
    """Made before a test's own parts, verified after they are gone."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._sockets = open_sockets()
        self._gauges: dict[str, Callable[[], object]] = {}

    def gauge(self, name: str, value: Callable[[], object]) -> None:
        """Watch a number or a collection too: it leaks while ``value()`` is true (not zero, not empty)."""
        self._gauges[name] = value

    def left(self) -> list[str]:
        """What is there now that was not there at the beginning, one line each."""
        if isinstance(asyncio.get_running_loop(), uvloop.Loop):
            self._sockets |= nameless_pairs()
        tasks = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        sockets = open_sockets() - self._sockets
        gauges = {name: value() for name, value in self._gauges.items()}
        return [
            *(f"task {task.get_name()}: {task.get_coro()}" for task in tasks),
            *describe_sockets(sockets),
            *(f"{name}: {value!r}" for name, value in gauges.items() if value),
        ]

    async def verify(self) -> None:
        """Wait until nothing is left; fail with the list when something stays."""
        await until(self.left, "nothing to be left behind", holds=lambda left: not left, timeout=PATIENCE)
