"""One sitting: every peer under every load, in alternating rounds.

Theory of operation. Machines are shared, and their speed swings by a factor of two within minutes. So a load is run
over all peers before it is run again, each round begins with another peer, and numbers are only ever compared within
the sitting. A peer is started afresh for each measurement: nothing that a load leaves behind is another's.
"""

from __future__ import annotations

import http.client
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.loads import LOADS, carries, measure
from benchmarks.package import built_revision
from benchmarks.peers import Peer
from benchmarks.programs import BenchError
from benchmarks.rig import Cores, Numbers, Programs, Session, Sizes


class Sample(NamedTuple):
    """What one measurement gave."""

    round: int
    load: str
    peer: str
    numbers: Numbers


class Sitting(NamedTuple):
    """Everything that was measured, and what it was measured with."""

    facts: dict[str, Any]
    samples: list[Sample]
    failures: list[str]

    def as_json(self) -> dict[str, Any]:
        """The sitting as JSON has it."""
        return {
            "facts": self.facts,
            "samples": [sample._asdict() for sample in self.samples],
            "failures": self.failures,
        }

    @staticmethod
    def of_json(document: dict[str, Any]) -> Sitting:
        """The sitting that `as_json` gave."""
        return Sitting(document["facts"], [Sample(**sample) for sample in document["samples"]], document["failures"])


def order(peers: Sequence[Peer], number: int) -> Iterator[Peer]:
    """The peers, each round beginning with another one."""
    shift = number % len(peers) if peers else 0
    yield from peers[shift:]
    yield from peers[:shift]


def turns(peers: Sequence[Peer], loads: Sequence[str], rounds: int) -> Iterator[tuple[int, str, Peer]]:
    """What is measured, in this order: each load over all peers that carry it, and then the next round."""
    for number in range(rounds):
        for name in loads:
            if number < LOADS[name].rounds:
                yield from ((number, name, peer) for peer in order(peers, number) if carries(name, peer))


def sit(
    peers: Sequence[Peer],
    loads: Sequence[str],
    rounds: int,
    sizes: Sizes,
    programs: Programs,
    cores: Cores,
    say: Callable[[str], None],
) -> Sitting:
    """Measure. What fails is noted and left out, and the rest goes on; an interrupt ends it with what there is."""
    samples: list[Sample] = []
    failures: list[str] = []
    busy = [os.getloadavg()[0]]
    began = time.time()
    try:
        for number, name, peer in turns(peers, loads, rounds):
            what = f"{number + 1} {name:9} {peer.name:22}"
            try:
                numbers = measure(LOADS[name], Session(peer, sizes, programs, cores))
            except (BenchError, OSError, http.client.HTTPException, subprocess.SubprocessError) as fault:
                failures.append(f"{peer.name} under {name}, round {number + 1}: {fault}")
                say(f"{what} failed: {fault}")
                continue
            samples.append(Sample(number + 1, name, peer.name, numbers))
            busy.append(os.getloadavg()[0])
            say(f"{what} {_brief(numbers)}")
    except KeyboardInterrupt:
        failures.append("interrupted: the rest was not measured")
    found = facts(peers, rounds, sizes, cores, time.time() - began)
    found["machine"]["load_average"] = [round(value, 2) for value in (min(busy), median(busy), max(busy))]
    return Sitting(found, samples, failures)


def _brief(numbers: Numbers) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def facts(peers: Sequence[Peer], rounds: int, sizes: Sizes, cores: Cores, took: float) -> dict[str, Any]:
    """When, on what and with what the sitting was."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "took_seconds": round(took),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0) | cores.proxy | cores.load | cores.upstream),
            "kernel": platform.release(),
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "real_time": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
            "pinned": bool(cores.proxy),
            "shared_core": cores.upstream == cores.load,
        },
        "python": platform.python_version(),
        "versions": {peer.name: peer.version() for peer in peers if peer.launch is not None},
        "labels": {peer.name: peer.label for peer in peers},
        "revision": built_revision(),
        "command": command(sys.argv[1:]),
        "rounds": rounds,
        "sizes": sizes._asdict(),
    }


def command(words: Sequence[str]) -> str:
    """The command that would measure the same; where it wrote to does not matter."""
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("--results"):
            kept.append(word)
        skip = word == "--results"
    return " ".join(["python", "-m", "benchmarks", *kept])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
