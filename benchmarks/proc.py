"""What the kernel says of a process tree: the time it ran, and the memory that is its own (proc(5), Linux).

The time is read from ``schedstat`` in nanoseconds, thread by thread. Should a thread have ended in between, its time is
lost there, and the ticks of ``stat``, which keep it, are taken for that process instead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
TICK = 1.0 / os.sysconf("SC_CLK_TCK")  # seconds


class Stat(NamedTuple):
    """What ``/proc/PID/stat`` says: the parent, and the ticks of the process and of the children it has waited for."""

    parent: int
    ticks: int


class Cpu(NamedTuple):
    """Time that some processes ran: nanoseconds of each thread, and ticks of each process."""

    threads: dict[int, dict[int, int]]
    ticks: dict[int, int]


def parse_stat(text: str) -> Stat:
    """The fields after the command's name, which may itself hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return Stat(int(fields[1]), sum(int(ticks) for ticks in fields[11:15]))


def parse_pss(text: str) -> int:
    """Bytes of ``Pss`` in a ``smaps_rollup``; 0 when it is not there."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(parse_stat((entry / "stat").read_text()).parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu(pids: Iterable[int]) -> Cpu:
    """The time that processes have run so far; one that is gone is left out."""
    threads: dict[int, dict[int, int]] = {}
    ticks: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks[pid] = parse_stat((_PROC / str(pid) / "stat").read_text()).ticks
            threads[pid] = {
                int(task.name): int((task / "schedstat").read_text().split()[0])
                for task in (_PROC / str(pid) / "task").iterdir()
            }
    return Cpu(threads, ticks)


def cpu_between(before: Cpu, after: Cpu) -> float:
    """Seconds that the processes of ``after`` ran since ``before``; a new process counts from its start."""
    seconds = 0.0
    for pid, threads in after.threads.items():
        earlier = before.threads.get(pid, {})
        if earlier.keys() <= threads.keys():
            seconds += sum(time - earlier.get(thread, 0) for thread, time in threads.items()) / 1e9
        else:
            seconds += (after.ticks[pid] - before.ticks.get(pid, 0)) * TICK
    return seconds


def pss(pids: Iterable[int]) -> int:
    """Bytes of memory of the processes, each shared page in shares (Pss)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += parse_pss((_PROC / str(pid) / "smaps_rollup").read_text())
    return total
