"""``python -m benchmarks.workers``: how evenly long streams are spread over workers.

Streams are opened one after the other, so many a second, and stay open. Then the client connections of each worker are
counted, as the system lists them. ``off`` is by how much the worker that is furthest from an equal share is off it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import sys
import time
from pathlib import Path

from benchmarks.__main__ import OUT
from benchmarks.peers.base import Peer
from benchmarks.peers.ours import ours, streamproxy
from benchmarks.programs import BenchError, build
from benchmarks.rig import Cores, Programs, Session, Sizes

_ESTABLISHED = "01"
_REQUEST = b"GET /events?rate=1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
_LOOKS = 10  # the system's list of connections may skip one while it changes
_PATIENCE = 30.0  # seconds for an answer
_SIZES = Sizes(0.0, 0, 15, 0, 0)


def connections(pid: int, port: int) -> int:
    """How many connections to a local port a process has open."""
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _ESTABLISHED:
            inodes.add(f"socket:[{fields[9]}]")
    return sum(os.readlink(one) in inodes for one in Path(f"/proc/{pid}/fd").iterdir())


def off(counts: list[int]) -> float:
    """The share by which the count that is furthest from the mean is off it."""
    mean = sum(counts) / len(counts)
    return max(abs(count - mean) for count in counts) / mean


def spread(workers: int, streams: int, rate: float, programs: Programs) -> list[int]:
    """Streams of each worker. Raises BenchError."""
    launch = streamproxy(build="pure", server={"workers": workers})
    peer = Peer(f"streamproxy-{workers}-spread", "", ours, launch, True, several=True)
    session = Session(peer, _SIZES, programs, Cores(set(), set(), set()))
    with session, contextlib.ExitStack() as stack:
        began, clients = time.monotonic(), []
        for number in range(streams):
            address = ("127.0.0.1", session.place.listen)
            clients.append(stack.enter_context(socket.create_connection(address, _PATIENCE)))
            clients[-1].sendall(_REQUEST)
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
        for client in clients:
            client.recv(1)  # it is served
        for _ in range(_LOOKS):
            counts = [connections(pid, session.place.listen) for pid in session.pids()]
            if sum(counts) == streams:
                break
    counts = [count for count in counts if count]
    if sum(counts) != streams:
        raise BenchError(f"{streams} streams on {workers} workers, but these connections: {counts}")
    return counts


def main() -> int:
    """Print a line for each number of workers and each time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.partition(": ")[2])
    parser.add_argument("--workers", default="2,4", help="comma-separated")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0, help="arrivals a second")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    programs = Programs(*build(OUT), OUT)
    for workers in map(int, options.workers.split(",")):
        for _ in range(options.times):
            counts = spread(workers, options.streams, options.rate, programs)
            print(f"{workers} workers: {' '.join(map(str, counts))}, off by {off(counts):.1%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
