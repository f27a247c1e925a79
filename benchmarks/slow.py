"""``python -m benchmarks.slow``: what slow clients cost in memory, and how much of it comes back when they have left.

Clients of one kind, or of all in equal parts, stay for a while: ``heads`` send a request head piece by piece and never
end it, ``bodies`` do so with a request body, ``readers`` ask for a flood and take nothing of it. Memory is the process
tree's own (Pss): before, at the peak while they are there, and some seconds after they left. What the kernel holds for
their sockets is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import proc
from benchmarks.__main__ import OUT
from benchmarks.peers import PEERS, Peer, Place, prepare
from benchmarks.programs import BenchError, Generator, Upstream, build, free_port, running, wait_ready

DEFAULT = "streamproxy"
KEEPALIVE = 15
ROUNDS = 12  # pieces that a slow client sends
PIECE = 4096  # bytes of each
_PAUSE = 0.25  # seconds between two of them
_WARM = 2000  # requests before the first measurement: what a proxy makes once is not the clients'
_READER_BUFFER = 4096  # bytes that a reader's kernel takes


class Found(NamedTuple):
    """Bytes of memory before, at the peak, and after; how many clients there were at the peak."""

    before: int
    peak: int
    after: int
    clients: int

    @property
    def kib_a_client(self) -> float:
        return (self.peak - self.before) / 1024 / self.clients

    @property
    def given_back(self) -> float:
        """The share of what the clients cost that is the system's again."""
        cost = self.peak - self.before
        return (self.peak - self.after) / cost if cost > 0 else 1.0


class Client:
    """One slow client: ``begin`` is what it sends at once, ``piece`` what it sends of the rest in a round."""

    def __init__(self, port: int, begin: bytes, piece: Callable[[int], bytes]) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READER_BUFFER)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(begin)
        self._piece = piece

    def send(self, number: int) -> None:
        data = self._piece(number)
        if data:
            self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


def head(port: int) -> Client:
    """A head in pieces: four fields of a kilobyte a round."""
    field = b"x-%d-%d: " + b"v" * (PIECE // 4 - 16) + b"\r\n"
    return Client(
        port,
        b"GET /tiny HTTP/1.1\r\nHost: slow.example\r\n",
        lambda number: b"".join(field % (number, part) for part in range(4)),
    )


def body(port: int) -> Client:
    """A body in pieces."""
    begin = b"POST /upload HTTP/1.1\r\nHost: slow.example\r\nContent-Length: 100000000\r\n\r\n"
    return Client(port, begin, lambda number: b"b" * PIECE)


def reader(port: int) -> Client:
    """A client that asks for a flood and reads nothing."""
    begin = b"GET /flood HTTP/1.1\r\nHost: slow.example\r\nAccept: text/event-stream\r\n\r\n"
    return Client(port, begin, lambda number: b"")


KINDS: dict[str, tuple[Callable[[int], Client], ...]] = {
    "heads": (head,),
    "bodies": (body,),
    "readers": (reader,),
    "mixed": (head, body, reader),
}


@contextlib.contextmanager
def slow_clients(kind: str, count: int, port: int) -> Iterator[list[Client]]:
    """So many clients of a kind, connected."""
    clients: list[Client] = []
    try:
        makers = KINDS[kind]
        for number in range(count):  # one by one, so that all are closed that were opened
            clients.append(makers[number % len(makers)](port))  # noqa: PERF401
        yield clients
    finally:
        for client in clients:
            client.close()


def measure(peer: Peer, kind: str, options: argparse.Namespace, tools: tuple[Path, Path]) -> Found:
    """Start the peer, bring the clients, see them leave, and wait. Raises BenchError or OSError."""
    assert peer.launch is not None
    directory = OUT / "slow" / peer.name
    directory.mkdir(parents=True, exist_ok=True)
    with running([str(tools[0])], cores=set(), piped=True) as upstream:
        port = free_port()
        launch = peer.launch(Place(port, Upstream(upstream).port, directory, KEEPALIVE))
        with running(launch.command, cores=set(), env=launch.env, log=directory / "output.log") as proxy:
            wait_ready(port, peer.ready, proxy)
            _warm(tools[1], port)
            before = peak = proc.pss(proc.tree(proxy.pid))
            with slow_clients(kind, options.clients, port) as clients:
                for number in range(ROUNDS):
                    for client in clients:
                        client.send(number)
                    time.sleep(_PAUSE)
                    peak = max(peak, proc.pss(proc.tree(proxy.pid)))
            time.sleep(options.after)
            return Found(before, peak, proc.pss(proc.tree(proxy.pid)), options.clients)


def _warm(load: Path, port: int) -> None:
    with running(
        [str(load), "download", str(port), "/tiny", f"count={_WARM}", "conns=32"], cores=set(), piped=True
    ) as child:
        generator = Generator(child)
        generator.ready()
        generator.mark()
        generator.result()


def main() -> int:
    """Measure each peer with each kind, and print a line each; the exit status is 1 when one could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default=DEFAULT, help="comma-separated")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated; default: all")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--after", type=float, default=10.0, help="seconds from their leaving to the last measurement")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * options.clients + 100)), hard))
    failed = False
    tools = build(OUT)
    prepare(options.peers.split(","))
    for name in options.peers.split(","):
        for kind in options.kinds.split(","):
            try:
                found = measure(PEERS[name], kind, options, tools)
            except (BenchError, OSError, subprocess.SubprocessError) as fault:
                failed = True
                print(f"{name:18} {kind:8} {fault}", file=sys.stderr)
                continue
            print(
                f"{name:18} {kind:8} {found.kib_a_client:7.1f} KiB a client at the peak, "
                f"{100 * found.given_back:3.0f} % given back ({found.before / 2**20:.0f}, {found.peak / 2**20:.0f}, "
                f"{found.after / 2**20:.0f} MiB)",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
