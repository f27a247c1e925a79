"""Sends mutated messages through other proxies in front of this one and behind it.

    python -m tests.differential 5000 --peers nginx haproxy

Exits with 1 if two read a message differently. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.differential.peers import peers
from tests.differential.run import Outcome, Protocol, Way, requests, responses


def ways(names: list[str]) -> list[Way]:
    """Each proxy in front of ours and behind it, over each protocol that both of a hop speak."""
    found = []
    for name in names:
        protocols: list[Protocol] = ["HTTP/1.1", "HTTP/2"] if peers()[name].http2 else ["HTTP/1.1"]
        pairs = ((name, "streamproxy"), ("streamproxy", name))
        found += [Way(*pair, client, link) for pair in pairs for client in protocols for link in protocols]
    return found


async def run(names: list[str], count: int, seed: int) -> list[Outcome]:
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(ways(names)):
            for check in (requests, responses) if way.client == "HTTP/1.1" else (requests,):
                outcome = await check(way, Path(folder) / f"{check.__name__}-{number}", range(count), seed)
                taken = f"{outcome.taken_by_front} passed the front, {outcome.taken_by_both} both"
                print(f"{outcome.pair}: {outcome.cases} cases, {taken}, {len(outcome.wrong)} wrong; ", end="")
                print(f"not passed on: {dict(outcome.refusals)}", flush=True)
                for wrong in outcome.wrong[:20]:
                    print("  WRONG:", wrong)
                outcomes.append(outcome)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.differential", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--peers", nargs="*", default=[name for name in peers() if name != "streamproxy"])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    installed = [name for name in given.peers if peers()[name].program is not None]
    for name in sorted(set(given.peers) - set(installed)):
        print(f"{name} is not installed")
    outcomes = asyncio.run(run(installed, given.count, given.seed))
    return int(any(outcome.wrong for outcome in outcomes) or not outcomes)


if __name__ == "__main__":
    sys.exit(main())
