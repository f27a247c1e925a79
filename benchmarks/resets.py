"""``python -m benchmarks.resets``: what a flood of HTTP/2 streams costs that are reset as soon as they are opened.

One connection sends the heads of all requests, each with its RST_STREAM behind it, as fast as the proxy reads ("rapid
reset", CVE-2023-44487). Counted are the CPU time of the proxy's process tree, up to the end of the connection or to the
answer of a request behind the flood, and the requests that came to the upstream.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import proc
from benchmarks.__main__ import OUT
from benchmarks.peers import PEERS, Peer, Place, prepare
from benchmarks.programs import BenchError, fetch, free_port, pinned, running, wait_ready
from benchmarks.rig import Cores, choose_cores
from streamproxy.wire.http2.frames import PREFACE

_FIELDS: Final = b"\x82\x86\x84\x41\x01x"  # GET, http, /, and x as the authority, by HPACK
_END_OF_BOTH: Final = 0x05  # END_HEADERS and END_STREAM
_CANCEL: Final = (8).to_bytes(4, "big")
_READY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_PATIENCE: Final = 30.0  # seconds


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def flood(count: int) -> bytes:
    """A connection's bytes with ``count`` requests that are reset at once."""
    streams, settings = range(1, 2 * count, 2), frame(4, 0, 0, b"")
    return PREFACE + settings + b"".join(frame(1, _END_OF_BOTH, n, _FIELDS) + frame(3, 0, n, _CANCEL) for n in streams)


class _Counting(socketserver.ThreadingTCPServer):
    """The upstream."""

    daemon_threads = True
    request_queue_size = 128
    requests = 0


class _Answering(socketserver.StreamRequestHandler):
    """Answers each request of a connection."""

    def handle(self) -> None:
        while self.rfile.readline():
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            assert isinstance(self.server, _Counting)
            self.server.requests += 1
            with contextlib.suppress(OSError):
                self.wfile.write(_READY)


@contextlib.contextmanager
def upstream() -> Iterator[_Counting]:
    """Runs the upstream in a thread."""
    with _Counting(("127.0.0.1", 0), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def send(port: int, data: bytes) -> None:
    """Sends a flood, and reads until the proxy closes, or has nothing more to say for a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        client.settimeout(1.0)
        with contextlib.suppress(OSError):
            while client.recv(65536):
                pass


def measure(peer: Peer, count: int, cores: Cores) -> tuple[float, int]:
    """Returns milliseconds of CPU and the requests that came through. Raises BenchError if the proxy does not work."""
    assert peer.launch is not None
    directory: Path = OUT / "run" / f"resets-{peer.name}"
    directory.mkdir(parents=True, exist_ok=True)
    data = flood(count)
    with pinned(cores.load), upstream() as server, contextlib.ExitStack() as stack:
        port, own = free_port(), free_port()
        http2 = own if peer.http2 == "own" else port
        launch = peer.launch(Place(port, server.server_address[1], directory, 15, http2=http2))
        log = directory / "output.log"
        proxy = stack.enter_context(running(launch.command, cores=cores.proxy, env=launch.env, log=log))
        wait_ready(port, "/", proxy)
        send(http2, flood(1))  # what is made once is not the flood's
        pids = proc.tree(proxy.pid)
        before, first = proc.cpu(pids), server.requests
        send(http2, data)
        if fetch(port, "/")[0] != 200:
            raise BenchError("it does not answer any more")
        after, last = proc.cpu(pids), server.requests
        return proc.cpu_between(before, after) * 1e3, last - first - 1


def main() -> int:
    """Measures the peers in turn, and prints the medians of the rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resets", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default="streamproxy,nginx,envoy", help="comma-separated")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    names = options.peers.split(",")
    prepare(names)
    cores = choose_cores()
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(measure(PEERS[name], options.count, cores))
    for name, rounds in found.items():
        times, requests = [time for time, _ in rounds], [number for _, number in rounds]
        spread = f"({min(times):.1f} to {max(times):.1f})"
        print(f"{name:18} {median(times):7.1f} ms of CPU {spread}, up to {max(requests)} requests upstream", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
