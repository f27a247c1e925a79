"""``python -m benchmarks.instructions``: how many instructions a request takes, counted by valgrind's callgrind.

A count of instructions does not depend on what else the machine does: two runs of the same code agree within a
thousandth, so that a change of one per cent shows at once, where times need many quiet rounds. It knows nothing of the
kernel's share, of caches, or of waiting; the other benchmarks do. The requests are those of a warm proxy. Proxies that
fork workers (nginx) are not followed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import OUT
from benchmarks.peers import PEERS, Peer, Place, prepare
from benchmarks.programs import BenchError, Generator, Upstream, build, free_port, running, wait_ready

DEFAULT = "streamproxy,streamproxy-pure,streamproxy-log,streamproxy-httpx,recipe,haproxy,envoy"
_WARM = 300  # requests before the count
_COUNTED = re.compile(r"Collected : (\d+)")


def collected(log: str) -> int:
    """Instructions in all, from what callgrind writes at its end. Raises BenchError when it wrote nothing."""
    found = _COUNTED.findall(log)
    if not found:
        raise BenchError("callgrind counted nothing")
    return int(found[-1])


def count(peer: Peer, requests: int, out: Path, tools: tuple[Path, Path]) -> float:
    """Instructions a request of one peer, in user mode. The profile stays beside, for ``callgrind_annotate``."""
    assert peer.launch is not None
    directory = out / "callgrind" / peer.name
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "output.log"
    profile = directory / "callgrind.out"
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", "--instr-atstart=no"]
    with running([str(tools[0])], cores=set(), piped=True) as upstream:
        port = free_port()
        launch = peer.launch(Place(port, Upstream(upstream).port, directory, 15))
        with running([*valgrind, *launch.command], cores=set(), env=launch.env, log=log) as proxy:
            wait_ready(port, peer.ready, proxy)
            _ask(tools[1], port, _WARM)
            subprocess.run(["callgrind_control", "-i", "on", str(proxy.pid)], capture_output=True, check=True)
            _ask(tools[1], port, requests)
            subprocess.run(["callgrind_control", "-i", "off", str(proxy.pid)], capture_output=True, check=True)
            proxy.terminate()
            proxy.wait(60)
    return collected(log.read_text()) / requests


def _ask(load: Path, port: int, requests: int) -> None:
    command = [str(load), "download", str(port), "/tiny", f"count={requests}", "conns=8"]
    with running([*command, "header=Accept: text/event-stream"], cores=set(), piped=True) as child:
        generator = Generator(child)
        generator.ready()
        generator.mark()
        result = generator.result()
    if result["errors"]:
        raise BenchError(f"{result['errors']} of {requests} requests failed")


def main() -> int:
    """Count for each peer, and print a line each; the exit status is 1 when one could not be counted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default=DEFAULT, help="comma-separated")
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("instructions are counted with valgrind, which is not here", file=sys.stderr)
        return 1
    failed = False
    tools = build(OUT)
    prepare(options.peers.split(","))
    for name in options.peers.split(","):
        try:
            print(f"{name:22} {count(PEERS[name], options.requests, OUT, tools):12,.0f} instructions a request")
        except (BenchError, subprocess.SubprocessError) as fault:
            failed = True
            print(f"{name:22} {fault}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
