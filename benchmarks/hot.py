"""``python -m benchmarks.hot``: finds the compiled functions that requests and events run.

The build places them next to each other (`hatch_build.mark_hot`). To find them this program compiles the package with
the names of its functions, lets callgrind watch a few loads, and writes the names to ``hot_functions.txt``. Run it
after functions of the hot path have been renamed: a function that the list lacks takes away some of the effect, and a
name in it that no function has does no harm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.__main__ import OUT
from benchmarks.instructions import count
from benchmarks.package import COMPILED, ROOT
from benchmarks.peers import PEERS, prepare
from benchmarks.programs import BenchError, build

LIST: Final = ROOT / "hot_functions.txt"
_WATCHED: Final = (  # a load, and the peer that runs most in it
    ("tiny", "streamproxy-log"),
    ("fresh", "streamproxy"),
    ("events", "streamproxy"),
    ("llm", "streamproxy-openai"),
    ("models", "streamproxy-models"),
    ("h2-tiny", "streamproxy"),
    ("resume", "streamproxy-resume"),
)
_NUMBER: Final = 300  # requests or events of each
# A line of callgrind_annotate: "1,234 ( 5.6%)  file:function [library]". GCC names parts of a function by a suffix.
_LINE: Final = re.compile(r"[?:](\w+?)(?:\.\w+)*(?:'\d+)? \[[^]]*streamproxy__mypyc")


def functions(annotated: str) -> set[str]:
    """Returns the functions of our compiled modules in what callgrind_annotate printed; mypyc's own are others."""
    return {name for name in _LINE.findall(annotated) if "___" in name}


def watch(load: str, peer: str, tools: tuple[Path, Path]) -> set[str]:
    """Runs a load, and returns the functions that it ran. Raises BenchError if it cannot be run."""
    count(PEERS[peer], load, _NUMBER, OUT, tools)
    profile = OUT / "callgrind" / peer / "callgrind.out"
    done = subprocess.run(
        ["callgrind_annotate", "--threshold=100", profile], capture_output=True, text=True, check=True
    )
    ran = functions(done.stdout)
    if not ran:
        raise BenchError(f"{load} ran no compiled function that has a name: was the package built elsewhere?")
    return ran


def main() -> int:
    """Writes the list; the exit status is 1 when a load could not be run."""
    shutil.rmtree(COMPILED, ignore_errors=True)
    os.environ["STREAMPROXY_SYMBOLS"] = "1"
    found: set[str] = set()
    try:
        tools = build(OUT)
        prepare([peer for _, peer in _WATCHED])
        for load, peer in _WATCHED:
            ran = watch(load, peer, tools)
            print(f"{load:10} {len(ran):5} functions, {len(ran - found)} of them new", flush=True)
            found |= ran
    except (BenchError, OSError, subprocess.SubprocessError) as fault:
        print(fault, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(COMPILED, ignore_errors=True)  # what is measured has no names
    write(LIST, found)
    return 0


def write(path: Path, names: set[str]) -> None:
    """Writes names in order, one a line."""
    path.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
