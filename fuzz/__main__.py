"""Fuzzes the parts in turn, and reports how many inputs each took and what was found.

    python -m fuzz 600                     # ten minutes for each part
    python -m fuzz 60 sse json_members     # one minute for each of these

Inputs that reach new code are kept in build/fuzz/PART, and what breaks a promise in build/fuzz/PART-crash-...;
`python -m fuzz --replay PART FILE` runs it again. Exits with 1 if something was found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fuzz.targets import FOUND, PARTS, ROOT, load

_STATUS = re.compile(r"#(\d+)\s+\S+.*?cov: (\d+) ft: (\d+) corp: (\d+)")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_SLOWEST = 60  # seconds for one input, beyond which it counts as found
_MEMORY = 2048  # MB


class Outcome(NamedTuple):
    """What became of one part: ``coverage`` counts branches, ``corpus`` the inputs that reach them."""

    part: str
    inputs: int
    seconds: float
    coverage: int
    corpus: int
    found: str

    def __str__(self) -> str:
        rate = f"{self.seconds:>8.0f} {self.inputs / max(self.seconds, 1):>9,.0f}"
        reached = f"{self.coverage:>9,} {self.corpus:>7,}"
        return f"{self.part:14} {self.inputs:>12,} {rate} {reached}  {self.found or 'nothing'}"


def fuzz(part: str, seconds: int, seed: int) -> Outcome:
    """Fuzzes one part in a process of its own."""
    FOUND.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}", f"-timeout={_SLOWEST}", f"-rss_limit_mb={_MEMORY}", "-print_final_stats=1",
        "-reload=0", f"-seed={seed}",
    ]  # fmt: skip
    log = FOUND / f"{part}.log"
    began = time.monotonic()
    with log.open("wb") as file:
        ended = subprocess.run(
            [sys.executable, "-m", "fuzz.run", part, *options], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
    text = log.read_text(errors="replace")
    status = _STATUS.findall(text)
    inputs, coverage, _, corpus = (int(number) for number in status[-1]) if status else (0, 0, 0, 0)
    done = _DONE.search(text)
    found = "" if ended.returncode == 0 and done else f"FOUND: see {log.relative_to(ROOT)}"
    return Outcome(part, int(done[1]) if done else inputs, time.monotonic() - began, coverage, corpus, found)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=int, nargs="?", default=600, help="for each part")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0, help="0 picks one")
    parser.add_argument("--replay", nargs=2, metavar=("PART", "FILE"), help="run one input without a fuzzer")
    arguments = parser.parse_args()
    if arguments.replay:
        load(arguments.replay[0]).check(Path(arguments.replay[1]).read_bytes())
        return 0
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(f"{'part':14} {'inputs':>12} {'seconds':>8} {'a second':>9} {'branches':>9} {'corpus':>7}  found")
    outcomes = []
    for part in arguments.parts or PARTS:
        outcomes.append(fuzz(part, arguments.seconds, arguments.seed))
        print(outcomes[-1], flush=True)
    return int(any(outcome.found for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
