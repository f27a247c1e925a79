"""Everything at once: LLM streams, resumed and shared ones, WebSocket, HTTP/2, files both ways, with a reload and a
killed backend every minute, and clients who come and go. Every byte is checked.

    python -m tests.soak 30 --clients 1000

Exits with 1 if a response ended wrongly, or if something is left or grows. The figures are written as JSON with --out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Plan, soak


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("minutes", type=float, nargs="?", default=30.0)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--period", type=float, default=60.0, help="seconds between two reloads, and between two kills")
    parser.add_argument("--gap", type=int, default=500, help="milliseconds between two events of a stream")
    parser.add_argument("--events", type=int, default=20, help="of a stream, on average")
    parser.add_argument("--pause", type=float, default=4.0, help="the longest pause of a client, in seconds")
    parser.add_argument("--keep", type=int, default=60, help="seconds that streams are kept, and idle connections")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(given.minutes * 60, given.clients, given.period, given.gap, given.events, given.pause, given.keep)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(soak(plan, Path(folder), say=lambda line: print(line, file=sys.stderr, flush=True)))
    text = json.dumps(report.figures, indent=1)
    if given.out is not None:
        given.out.write_text(text + "\n")
    print(text)
    for problem in report.problems[:50]:
        print("WRONG:", problem, file=sys.stderr)
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main())
