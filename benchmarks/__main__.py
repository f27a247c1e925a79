"""``python -m benchmarks``: measure streamproxy beside other proxies, and write what came of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks.chart import svg
from benchmarks.loads import LOADS
from benchmarks.peers import PEERS, SEVERAL, Peer, prepare
from benchmarks.peers.gateways import install
from benchmarks.programs import BenchError, build
from benchmarks.report import markdown
from benchmarks.rig import Programs, Sizes, choose_cores
from benchmarks.sitting import Sitting, sit

HERE = Path(__file__).parent
OUT = HERE / "out"
RESULTS = HERE / "results"
KNOWN = PEERS | SEVERAL
QUICK = Sizes(1.0, idle_streams=500, keepalive=3, download=200_000_000, aborts=200, streams=(10, 100), sustained=200)
STREAMS = (10, 100, 1000, 5000, 10_000)  # open at once
_SPARE = 2000  # open files that are left for all else
SUSTAINED = 4000  # the most that the upstream and the generator carry


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; default: all that are installed")
    parser.add_argument("--loads", default=",".join(LOADS), help="comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--idle-streams", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="one short round of smaller loads, to see that all works")
    parser.add_argument(
        "--gateways", action="store_true", help="also the LLM gateways of PyPI and npm, which are installed for it"
    )
    parser.add_argument(
        "--as-built", action="store_true", help="take the compiled build that is there, though sources are newer"
    )
    parser.add_argument(
        "--results", type=Path, help="where table, JSON and chart go; default: results, or out if quick"
    )
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="measure nothing: write table and chart of a sitting"
    )
    options = parser.parse_args(words)
    for name, known in (("peers", KNOWN), ("loads", LOADS)):
        chosen = [word for word in getattr(options, name).split(",") if word]
        unknown = [word for word in chosen if word not in known]
        if unknown:
            parser.error(f"no {name} called {', '.join(unknown)}; there are {', '.join(known)}")
        setattr(options, name, chosen)
    if options.results is None:
        options.results = OUT / "quick" if options.quick else RESULTS
    return options


def chosen_peers(names: list[str], gateways: bool) -> list[Peer]:
    """The peers that are asked for and installed; says which are not."""
    peers = [KNOWN[name] for name in names]
    if gateways:
        peers += install(OUT)
    missing = [peer.label for peer in peers if peer.version() is None]
    if missing:
        print(f"not installed, and left out: {', '.join(missing)}", file=sys.stderr)
    return [peer for peer in peers if peer.version() is not None]


def sizes_of(options: argparse.Namespace) -> Sizes:
    """How big the loads are; the idle streams are as many as open files allow (two a stream in the proxy)."""
    if options.quick:
        return QUICK
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - _SPARE
    if options.idle_streams > allowed:
        print(f"only {allowed} idle streams: the limit on open files is in the way", file=sys.stderr)
    streams = tuple(sorted({min(count, allowed) for count in STREAMS}))
    idle = min(options.idle_streams, allowed)
    return Sizes(options.seconds, idle, 15, 1_000_000_000, 2000, streams, min(SUSTAINED, allowed))


def write(sitting: Sitting, results: Path) -> None:
    """Write table, JSON and chart."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "sitting.json").write_text(json.dumps(sitting.as_json(), indent=1) + "\n")
    (results / "README.md").write_text(markdown(sitting))
    (results / "chart.svg").write_text(svg(sitting))
    with contextlib.suppress(ValueError):
        results = results.resolve().relative_to(Path.cwd())
    print(f"written: README.md, sitting.json and chart.svg in {results}")


def say(line: str) -> None:
    """Print a line at once, also into a file."""
    print(line, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that whatever runs is stopped on the way out


def main() -> int:
    """Measure; the exit status is 1 when nothing could be."""
    options = arguments()
    if options.render is not None:
        write(Sitting.of_json(json.loads(options.render.read_text())), options.results)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.chdir(HERE.parent)
    try:
        programs = Programs(*build(OUT), OUT)
        prepare(options.peers, options.as_built)
        peers = chosen_peers(options.peers, options.gateways)
        cores = choose_cores()
        if cores.upstream:
            os.sched_setaffinity(0, cores.upstream)  # the harness itself keeps off the proxy's core
        rounds = 1 if options.quick else options.rounds
        sitting = sit(peers, options.loads, rounds, sizes_of(options), programs, cores, say)
    except BenchError as fault:
        print(f"benchmarks: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 1
    write(sitting, options.results)
    print(markdown(sitting))
    return 0 if sitting.samples else 1


if __name__ == "__main__":
    sys.exit(main())
