"""``python -m benchmarks.instructions``: how many instructions a request or an event takes, by valgrind's callgrind.

A count of instructions does not depend on what else the machine does: two runs of the same code agree within a
thousandth, so that a change of one per cent shows at once, where times need many quiet rounds. It knows nothing of the
kernel's share, of caches, or of waiting; the other benchmarks do. The requests are those of a warm proxy. Proxies that
fork workers (nginx) are not followed.

With ``--load events`` a few streams run, their events come one by one, and what is counted between two moments is
divided by the events that passed; ``llm`` does so with chats: ``--peers streamproxy,streamproxy-openai`` says what it
costs to understand one. ``resume`` is ``events`` for ``--peers streamproxy,streamproxy-resume`` and, where there is a
redis-server, ``streamproxy-resume-redis``: what it costs to keep a stream. ``models`` are requests with a body of
8 KiB: ``--peers streamproxy,streamproxy-models`` says what it costs to read the model. ``fresh`` are requests and
responses with heads that are never the same twice, as those of the others are. ``h2-tiny`` has the connections
and streams of the load of that name. How many requests come in one read differs a little from run to run there, and
the count by about one per cent.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.__main__ import OUT
from benchmarks.loads import carries
from benchmarks.loads.http2 import requests as http2_requests
from benchmarks.loads.understood import model_request
from benchmarks.peers import PEERS, Peer, Place, prepare
from benchmarks.programs import BenchError, Generator, Upstream, build, free_port, running, wait_listening, wait_ready

DEFAULT = "streamproxy,streamproxy-pure,streamproxy-log,streamproxy-httpx,recipe,haproxy,envoy"
_START = 600.0  # seconds: under valgrind everything takes fifty times as long
_WARM = 300  # requests before the count
# Seconds in which streams run before their count. Callgrind translates all code anew where it begins to count, which
# takes seconds: events that come meanwhile are read several at once, and begin and end no chat.
_SETTLE = 10.0
_STREAMS = 4
_RATE = 50  # events a second of each: few enough that each is a read of its own, under callgrind too
_REQUESTS = ("tiny", "fresh", "models", "h2-tiny")
_EVENTS = ("streams", f"/events?rate={_RATE}")
_STREAMED = {"events": _EVENTS, "resume": _EVENTS, "llm": ("chats", "/chat")}
_UNITS = dict.fromkeys(_REQUESTS, "a request") | dict.fromkeys(_STREAMED, "an event")
_COUNTED = re.compile(r"Collected : (\d+)")


def collected(log: str) -> int:
    """Instructions in all, from what callgrind writes at its end. Raises BenchError when it wrote nothing."""
    found = _COUNTED.findall(log)
    if not found:
        raise BenchError("callgrind counted nothing")
    return int(found[-1])


def count(peer: Peer, load: str, number: int, out: Path, tools: tuple[Path, Path]) -> float:
    """Instructions a request or an event of one peer, in user mode, over about ``number`` of them.

    The profile stays beside, for ``callgrind_annotate``. Raises BenchError for a peer that cannot carry the load.
    """
    assert peer.launch is not None
    if not carries(load, peer):
        raise BenchError(f"it cannot carry {load}")
    directory = out / "callgrind" / peer.name
    directory.mkdir(parents=True, exist_ok=True)
    # Not in the directory of the configuration, which streamproxy watches: it would be told of each line.
    log = directory.with_name(f"{peer.name}.log")
    profile = directory / "callgrind.out"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", "--instr-atstart=no"]
    with running([str(tools[0])], cores=set(), piped=True) as upstream:
        port, own, beside = free_port(), free_port(), free_port()
        http2 = own if peer.http2 == "own" else port
        place = Place(port, Upstream(upstream).port, directory, 15, http2=http2, beside=beside)
        launch = peer.launch(place)
        with contextlib.ExitStack() as stack:
            if launch.beside:
                stack.enter_context(running(launch.beside, cores=set()))
                wait_listening(beside)
            command = [*valgrind, *launch.command]
            proxy = stack.enter_context(running(command, cores=set(), env=launch.env, log=log))
            wait_ready(port, peer.ready, proxy, _START)
            asked = model_request() if load == "models" else ("header=Accept: text/event-stream",)
            if load == "fresh":
                asked = (*asked, "fresh=1")
            path = "/fresh" if load == "fresh" else "/tiny"
            one = partial(_ask, tools[1], port, path, asked=asked)
            ask = partial(_ask_http2, place.http2) if load == "h2-tiny" else one
            if load != "llm":  # a stream without the end marker of its API would be cut
                ask(_WARM)
            if load in _STREAMED:
                number = _stream(tools[1], port, number, proxy.pid, _STREAMED[load])
            else:
                _control(proxy.pid, "on")
                ask(number)
                _control(proxy.pid, "off")
            proxy.terminate()
            proxy.wait(60)
    return collected(log.read_text()) / number


def _control(process: int, switch: str) -> None:
    subprocess.run(["callgrind_control", "-i", switch, str(process)], capture_output=True, check=True)


def _stream(load: Path, port: int, number: int, process: int, what: tuple[str, str]) -> int:
    """Let streams run, and count for about ``number`` of their events. Returns how many events passed meanwhile."""
    command = [str(load), what[0], str(port), what[1], f"conns={_STREAMS}"]
    with running([*command, "header=Accept: text/event-stream"], cores=set(), piped=True) as child:
        generator = Generator(child)
        generator.ready()
        time.sleep(1.0)
        _control(process, "on")
        time.sleep(_SETTLE)
        subprocess.run(["callgrind_control", "-z", str(process)], capture_output=True, check=True)
        generator.mark()
        time.sleep(number / _STREAMS / _RATE)
        _control(process, "off")
        result = generator.end()
    if result["errors"] or not result["events"]:
        raise BenchError(f"{result['errors']} errors, {result['events']} events")
    return int(result["events"])


def _ask(load: Path, port: int, path: str, requests: int, asked: tuple[str, ...]) -> None:
    command = [str(load), "download", str(port), path, f"count={requests}", "conns=8", *asked]
    with running(command, cores=set(), piped=True) as child:
        generator = Generator(child)
        generator.ready()
        generator.mark()
        result = generator.result()
    if result["errors"]:
        raise BenchError(f"{result['errors']} of {requests} requests failed")


def _ask_http2(port: int, requests: int) -> None:
    done = subprocess.run(http2_requests(port, "-n", str(requests)), capture_output=True, text=True, check=True)
    if f" {requests} succeeded" not in done.stdout:
        raise BenchError(f"h2load said {done.stdout!r}")


def main() -> int:
    """Count for each peer, and print a line each; the exit status is 1 when one could not be counted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default=DEFAULT, help="comma-separated")
    parser.add_argument("--load", choices=_UNITS, default="tiny")
    parser.add_argument("--requests", type=int, default=1000, help="how many requests, or events, are counted")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("instructions are counted with valgrind, which is not here", file=sys.stderr)
        return 1
    failed = False
    tools = build(OUT)
    prepare(options.peers.split(","))
    for name in options.peers.split(","):
        try:
            found = count(PEERS[name], options.load, options.requests, OUT, tools)
            print(f"{name:22} {found:12,.0f} instructions {_UNITS[options.load]}", flush=True)
        except (BenchError, subprocess.SubprocessError) as fault:
            failed = True
            print(f"{name:22} {fault}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
