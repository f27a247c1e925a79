"""``python -m benchmarks.keep``: what resuming and sharing streams, and events from Redis, cost.

It prints one line for each of these, the median of the rounds; CPU is that of the proxy's process tree, and every ratio
is between figures of one round:

- ``resume``: CPU an event of 100 streams with 50 events a second each, without ``resume``, with it in memory and in
  Redis (whose own CPU is not in it).
- ``share``: CPU an event and client, where 1,000 clients share one stream with 50 events a second, beside that of 100
  streams that are not shared; and memory a client.
- ``kept``: memory of a kept stream that has ended, beyond the bytes of its body.
- ``pubsub``, ``stream``: the delay from PUBLISH or XADD to the client's read, and the messages that were lost, with
  10,000 clients on 5,000 channels and 1,000 messages a second.
- ``stop``: the delay from a DELETE in one sidecar until the upstream of another has lost its connection; ``leave`` the
  same from the close of the last client's connection, less the ``grace`` of 0.1 s.
- ``published``: CPU an event and client, where 1,000 clients read one channel into which 50 messages a second are
  published, of this proxy (``redis: {kind: pubsub}``), nchan and Pushpin, where they are installed.

``resume``, ``share`` and ``published`` are loads of ``python -m benchmarks`` too.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import redis

from benchmarks import proc
from benchmarks.__main__ import OUT
from benchmarks.loads import LOADS, measure
from benchmarks.package import ENVIRONMENT, compile_package
from benchmarks.peers import PEERS, Launch, Peer, Place
from benchmarks.programs import BenchError, build, free_port, running, wait_ready
from benchmarks.rig import Cores, Programs, Session, Sizes, choose_cores

KIB = 1024
_GRACE = 100  # ms
_SIZES = Sizes(3.0, 0, 15, 0, 0)
_READY = "/json"
_EVENT = 224  # bytes of one event of the upstream in C


@dataclass
class Bench:
    """What the measurements need, and what they found: figures by name, one a round."""

    programs: Programs
    cores: Cores
    seconds: float
    redis: str  # the URL of a server of its own
    found: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)


def configured(*, upstream: dict[str, Any] | None = None, **route: Any) -> Callable[[Place], Launch]:
    """`streamproxy run` with one route that has these keys; ``/json`` is always the upstream's plain answer."""

    def launch(place: Place) -> Launch:
        plain = {"endpoints": [f"http://127.0.0.1:{place.upstream}"], "connections": {"max": 20000}}
        config = {
            "server": {"listen": f"127.0.0.1:{place.listen}", "max_connections": 20000},
            "admin": {"listen": "off"},
            "log": {"access": False, "format": "json"},
            "upstreams": {"plain": plain, "bench": upstream or plain},
            "routes": [
                {"name": "ready", "path": _READY, "upstream": "plain"},
                {"name": "bench", "path": "/*", "upstream": "bench", **route},
            ],
        }
        path = place.write("streamproxy.yaml", json.dumps(config, indent=2))
        return Launch([sys.executable, "-m", "streamproxy", "run", "-c", path], ENVIRONMENT["compiled"])

    return launch


# The C upstream and generator.


def measure_load(load: str, *peers: str) -> Callable[[Bench], None]:
    """CPU a unit of a load of ``python -m benchmarks``, and memory a stream, of each of these peers."""

    def run(bench: Bench) -> None:
        sizes = _SIZES._replace(seconds=bench.seconds)
        for name in peers:
            peer = PEERS[name]
            if peer.version() is None:
                print(f"{name} is not installed, and left out", file=sys.stderr)
                continue
            try:
                numbers = measure(LOADS[load], Session(peer, sizes, bench.programs, bench.cores))
            except BenchError as fault:
                print(f"{load}, {name}: {fault}", file=sys.stderr)
                continue
            if numbers["errors"]:
                print(f"{load}, {name}: {numbers['errors']:.0f} errors", file=sys.stderr)
            bench.note(f"{load} {name} us", numbers["cpu_us"])
            bench.note(f"{load} {name} KiB", numbers["kib_a_stream"])
            bench.note(f"{load} {name} p99 ms", numbers["p99_us"] / 1e3)

    return run


def measure_kept(bench: Bench) -> None:
    """4,000 streams of one event each that are kept after their end, less what as many cost that are not."""
    count, memory = 4000, []
    for route in ({}, {"resume": {"store": "memory", "window": "1h"}}):
        with Session(
            Peer("kept", "kept", lambda: "", configured(**route)), _SIZES, bench.programs, bench.cores
        ) as session:
            for sum_up in (False, True):
                before = session.memory()
                with session.load("paced", "/tiny", "conns=32", "rate=2000") as generator:
                    generator.mark()
                    time.sleep(count / 2000)
                    result = generator.end()
                if sum_up:
                    memory.append((session.memory() - before) / result["responses"])
    bench.note("kept KiB", (memory[1] - memory[0] - _EVENT) / KIB)


# Clients in Python.


class Crowd:
    """The process of `benchmarks.crowd`, while it runs."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._in, self._out = child.stdin, child.stdout
        self.port = int(self._out.readline())

    def say(self, command: str) -> Any:
        self._in.write(command + "\n")
        self._in.flush()
        line = self._out.readline()
        if not line:
            raise BenchError("the clients have ended")
        return json.loads(line)


@contextlib.contextmanager
def crowd_of(bench: Bench) -> Iterator[Crowd]:
    command = [sys.executable, "-m", "benchmarks.crowd"]
    with running(command, cores=bench.cores.load, piped=True) as child:
        yield Crowd(child)


@contextlib.contextmanager
def proxy_of(
    bench: Bench, name: str, upstream: int, launch: Callable[[Place], Launch], ready: str = _READY
) -> Iterator[tuple[int, int]]:
    """A proxy in front of a port; its own port, and its process."""
    directory = bench.programs.directory / name
    directory.mkdir(parents=True, exist_ok=True)
    place = Place(free_port(), upstream, directory, 15)
    launched = launch(place)
    log = directory / "output.log"
    with running(launched.command, cores=bench.cores.proxy, env=launched.env, log=log) as child:
        wait_ready(place.listen, ready, child)
        yield place.listen, child.pid


def _publish(seconds: float, rate: int, send: Callable[[int, int], None]) -> int:
    """Call ``send`` with a number and the microseconds of now, at this rate. Returns how often."""
    began = time.monotonic()
    for number in range(int(seconds * rate)):
        wait = began + number / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        send(number, int(time.monotonic() * 1e6))
    return int(seconds * rate)


def measure_channels(bench: Bench, kind: str, clients: int = 10_000, channels: int = 5_000) -> None:
    upstream = {"redis": {"url": bench.redis, "channel": "keep:{path.2}", "kind": kind}}
    server = redis.Redis.from_url(bench.redis)
    server.flushall()

    def send(number: int, now: int) -> None:
        channel = f"keep:{number * 7919 % channels}"
        if kind == "stream":
            server.xadd(channel, {"data": f"{now} hello"}, maxlen=100)
        else:
            server.publish(channel, f"{now} hello")

    with crowd_of(bench) as crowd, proxy_of(bench, kind, crowd.port, configured(upstream=upstream)) as (listen, pid):
        time.sleep(0.5)
        crowd.say(f"open {listen} /c/ {clients} {channels}")
        crowd.say("mark")
        before = proc.cpu(proc.tree(pid))
        sent = _publish(bench.seconds, 1000, send)
        after = proc.cpu(proc.tree(pid))
        time.sleep(1.0)
        result = crowd.say("count")
    if result["lost"]:
        raise BenchError(f"{result['lost']} streams were refused or ended")
    each = clients // channels
    bench.note(f"{kind} p50 ms", result["p50"])
    bench.note(f"{kind} p99 ms", result["p99"])
    bench.note(f"{kind} max ms", result["max"])
    bench.note(f"{kind} lost", sent * each - result["events"])
    bench.note(f"{kind} us", proc.cpu_between(before, after) * 1e6 / (sent * each))


def measure_stop(bench: Bench, times: int = 20) -> None:
    launch = configured(resume={"store": bench.redis, "grace": f"{_GRACE}ms"})
    with (
        crowd_of(bench) as crowd,
        proxy_of(bench, "first", crowd.port, launch) as (first, _),
        proxy_of(bench, "second", crowd.port, launch) as (second, _),
    ):
        for _ in range(times):
            for name in ("stop", "leave"):
                bench.note(f"{name} ms", _end(crowd, first, second, name == "stop"))


def _end(crowd: Crowd, first: int, second: int, by_delete: bool) -> float:
    """Begin a stream in the first sidecar, read and end it in the second. Milliseconds until the upstream knew."""
    opened = http.client.HTTPConnection("127.0.0.1", first)
    opened.request("GET", "/stream", headers={"Accept": "text/event-stream"})
    response = opened.getresponse()
    response.read1()
    cursor = response.headers["X-Stream-Cursor"]
    reader = http.client.HTTPConnection("127.0.0.1", second)
    reader.request("GET", "/stream", headers={"Last-Event-ID": cursor})
    reader.getresponse().read1()
    opened.close()
    response.close()
    time.sleep(0.3)
    if by_delete:
        stopper = http.client.HTTPConnection("127.0.0.1", second)
        began = time.monotonic()
        stopper.request("DELETE", "/stream", headers={"Last-Event-ID": cursor})
        stopper.getresponse().read()
    else:
        began = time.monotonic()
        assert reader.sock is not None
        reader.sock.shutdown(2)
    while (left := float(crowd.say("left"))) < began:
        if time.monotonic() > began + 10:
            raise BenchError("the upstream was never left")
        time.sleep(0.01)
    reader.close()
    return (left - began) * 1e3 - (0 if by_delete else _GRACE)


@contextlib.contextmanager
def redis_of(cores: Cores) -> Iterator[str]:
    """A redis-server of one's own; its URL."""
    path = shutil.which("redis-server")
    if path is None:
        raise BenchError("redis-server is not installed")
    port = free_port()
    command = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with running(command, cores=cores.load):
        url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.ConnectionError):
                redis.Redis.from_url(url).ping()
                break
            time.sleep(0.05)
        yield url


MEASUREMENTS: dict[str, Callable[[Bench], None]] = {
    "resume": measure_load("resume", "streamproxy", "streamproxy-resume", "streamproxy-resume-redis"),
    "share": measure_load("share", "streamproxy", "streamproxy-share"),
    "kept": measure_kept,
    "pubsub": lambda bench: measure_channels(bench, "pubsub"),
    "stream": lambda bench: measure_channels(bench, "stream"),
    "stop": measure_stop,
    "published": measure_load("published", "streamproxy-events", "nchan", "pushpin"),
}


def report(found: dict[str, list[float]]) -> Iterator[str]:
    """The lines of the figures: the median, and the least and the most."""
    for name, values in found.items():
        yield f"{name:40} {median(values):9.2f}  ({min(values):.2f} to {max(values):.2f})"
    for load, peer in (("resume", "resume"), ("resume", "resume-redis"), ("share", "share")):
        pairs = zip(
            found.get(f"{load} streamproxy-{peer} us", []), found.get(f"{load} streamproxy us", []), strict=False
        )
        ratios = [value / base for value, base in pairs]
        if ratios:
            yield f"{peer + ' ratio':40} {median(ratios):9.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> int:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep", description=__doc__.partition(": ")[2])
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help=f"comma-separated, of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--as-built", action="store_true", help="take the build that is there, though sources may be newer"
    )
    options = parser.parse_args()
    compile_package(options.as_built)
    upstream, load = build(OUT)
    cores = choose_cores()
    with redis_of(cores) as url:
        bench = Bench(Programs(upstream, load, OUT / "keep"), cores, options.seconds, url)
        for _ in range(options.rounds):
            for name in options.only.split(","):
                MEASUREMENTS[name](bench)
    print("\n".join(report(bench.found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
