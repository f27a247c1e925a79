"""``python -m benchmarks.websocket``: the cost of WebSocket through a proxy, in CPU a message and in memory a socket.

Open sockets send a fixed number of messages per second each, not in step, and the upstream echoes them. The CPU time is
that of the proxy's process tree. Every message that passes the proxy counts, in either direction. Memory is what silent
sockets add to a proxy that has served some before. Upstream and load generator are one process, which does not run on
the proxy's core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import cast

import uvloop

from benchmarks import proc
from benchmarks.__main__ import OUT
from benchmarks.peers import PEERS, Peer, Place, prepare
from benchmarks.programs import BenchError, free_port, running, wait_ready
from benchmarks.rig import Cores, choose_cores
from streamproxy.wire.websocket import accept_of

PATH = b"/socket"
KEEPALIVE = 15
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: %b\r\n\r\n"
)
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)
_READY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_SETTLE = 1.0  # seconds
_FIRST = 200  # sockets that are open before memory is measured
_MASK = bytes(4)  # shows what it masks, so that neither end works for it


class Echo(asyncio.Protocol):
    """The upstream: answers a handshake, and each frame with one. Every frame has ``size`` bytes of payload."""

    def __init__(self, size: int) -> None:
        self._taken = 8 + size  # a client's frame of 126 bytes or more
        self._answer = b"\x82\x7e" + size.to_bytes(2, "big") + bytes(size)
        self._left = 0
        self._open = False
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, _, data = self._head.partition(b"\r\n\r\n")
            self._head = b""
            if not head.startswith(b"GET " + PATH):
                self._transport.write(_READY)
                return
            self._open = True
            self._transport.write(_SWITCH % accept_of(_KEY))
        self._left += len(data)
        count, self._left = divmod(self._left, self._taken)
        if count:
            self._transport.write(self._answer * count)


class Talker(asyncio.Protocol):
    """One socket: sends a message every ``interval`` seconds, and counts what comes back."""

    def __init__(self, size: int, interval: float, opened: asyncio.Semaphore) -> None:
        self._frame = b"\x82\xfe" + size.to_bytes(2, "big") + _MASK + bytes(size)
        self._interval = interval
        self._opened = opened
        self._size = 4 + size
        self._open = False
        self._got = b""
        self.bytes = 0

    @property
    def messages(self) -> int:
        return self.bytes // self._size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's
        self._transport.write(_HANDSHAKE % (PATH, _KEY))

    def data_received(self, data: bytes) -> None:
        if self._open:
            self.bytes += len(data)
            return
        self._got += data
        if b"\r\n\r\n" in self._got:
            if b" 101 " not in self._got[:16]:
                raise BenchError(f"no socket: {self._got[:100]!r}")
            self._open = True
            self._opened.release()

    def begin(self, after: float) -> None:
        """Send from then on."""
        asyncio.get_running_loop().call_later(after, self._send)

    def _send(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._frame)
        asyncio.get_running_loop().call_later(self._interval, self._send)


async def talk(size: int, port: int, count: int, interval: float) -> list[Talker]:
    """Opens ``count`` sockets, each of which then sends a message every ``interval`` seconds; none if that is 0."""
    loop = asyncio.get_running_loop()
    opened = asyncio.Semaphore(0)
    talkers: list[Talker] = []
    for _ in range(count):
        _, talker = await loop.create_connection(lambda: Talker(size, interval, opened), "127.0.0.1", port)
        talkers.append(talker)
    for _ in talkers:
        await opened.acquire()
    if interval:
        for number, talker in enumerate(talkers):
            talker.begin(interval * number / count)
    return talkers


async def serve(size: int) -> None:
    """The upstream, in a process of its own with the generator: says its port, then takes one command a line."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(size), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    talkers: list[Talker] = []
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        if words[0] == "open":
            talkers += await talk(size, int(words[1]), int(words[2]), float(words[3]))
        print(sum(talker.messages for talker in talkers), flush=True)


class Ends:
    """Upstream and generator, while they run."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._in, self._out = child.stdin, child.stdout
        self.port = self._line()

    def _line(self) -> int:
        line = self._out.readline()
        if not line:
            raise BenchError("the upstream and load generator have ended")
        return int(line)

    def close(self) -> None:
        """Have them end, and close their sockets."""
        with contextlib.suppress(OSError):
            self._in.close()

    def say(self, command: str) -> int:
        """Returns how many messages have come back so far."""
        self._in.write(command + "\n")
        self._in.flush()
        return self._line()


@contextlib.contextmanager
def started(peer: Peer, options: argparse.Namespace, cores: Cores) -> Iterator[tuple[Ends, int, int]]:
    """Runs a proxy between the ends; yields these, its port and its process. Raises BenchError if it does not start."""
    assert peer.launch is not None
    directory: Path = OUT / "run" / f"websocket-{peer.name}"
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks.websocket", "--serve", "--size", str(options.size)]
        ends = Ends(stack.enter_context(running(command, cores=cores.load, piped=True)))
        port = free_port()
        launch = peer.launch(Place(port, ends.port, directory, KEEPALIVE))
        log = directory / "output.log"
        proxy = stack.enter_context(running(launch.command, cores=cores.proxy, env=launch.env, log=log))
        wait_ready(port, peer.ready, proxy)
        try:
            yield ends, port, proxy.pid
        finally:
            ends.close()  # before the proxy is stopped, which would wait for its sockets


def measure_cpu(peer: Peer, options: argparse.Namespace, cores: Cores) -> float:
    """Returns microseconds of CPU a message. Raises BenchError if it could not be measured."""
    with started(peer, options, cores) as (ends, port, pid):
        ends.say(f"open {port} {options.sockets} {1 / options.rate}")
        time.sleep(_SETTLE)
        pids = proc.tree(pid)
        before, first = proc.cpu(pids), ends.say("count")
        time.sleep(options.seconds)
        after, last = proc.cpu(pids), ends.say("count")
        if last <= first:
            raise BenchError("no message came back")
        return proc.cpu_between(before, after) * 1e6 / (2 * (last - first))


def measure_memory(peer: Peer, options: argparse.Namespace, cores: Cores) -> float:
    """Returns KiB of memory a silent socket. Raises BenchError if it could not be measured."""
    with started(peer, options, cores) as (ends, port, pid):
        ends.say(f"open {port} {_FIRST} 0")
        time.sleep(_SETTLE)
        before = proc.pss(proc.tree(pid))
        ends.say(f"open {port} {options.silent} 0")
        time.sleep(_SETTLE)
        count: int = options.silent
        return (proc.pss(proc.tree(pid)) - before) / 1024 / count


def main() -> int:
    """Measures the peers in turn, and prints the medians of the rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.websocket", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default="streamproxy,nginx,envoy", help="comma-separated")
    parser.add_argument("--sockets", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0, help="messages a second that each sends")
    parser.add_argument("--size", type=int, default=200, help="bytes of a message, 126 to 65535")
    parser.add_argument("--silent", type=int, default=2000, help="sockets whose memory is measured; 0 for none")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve(options.size))
        return 0
    names = options.peers.split(",")
    prepare(names)
    cores = choose_cores()
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            cpu[name].append(measure_cpu(PEERS[name], options, cores))
    for name, values in cpu.items():
        line = f"{name:18} {median(values):6.1f} us of CPU a message ({min(values):.1f} to {max(values):.1f})"
        if options.silent:
            line += f", {measure_memory(PEERS[name], options, cores):.1f} KiB of memory a socket"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
