"""The compiled build of the package, which is what is measured.

It lies beside the other things that are built for a measurement. In the virtual environment the package is the source
tree, and pure Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.programs import BenchError

ROOT = Path(__file__).parent.parent
COMPILED = ROOT / "benchmarks" / "out" / "compiled"
# How a process runs the one build or the other, wherever it is started.
ENVIRONMENT = {
    "compiled": {"PYTHONPATH": str(COMPILED), "PYTHONSAFEPATH": "1"},
    "pure": {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
}


def revision() -> str:
    """The commit of the source tree, in short; empty outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.strip()


def built_revision() -> str:
    """The commit that the compiled build was made of; the source tree's where there is no build."""
    try:
        return (COMPILED / "revision").read_text().strip()
    except OSError:
        return revision()


def compile_package(as_built: bool = False) -> None:
    """Build the compiled package, unless it is there and no source is newer; ``as_built`` takes one that is older.

    Raises BenchError when that fails.
    """
    built = COMPILED / "streamproxy"
    if as_built and built.exists():
        return
    build = [ROOT / name for name in ("pyproject.toml", "hatch_build.py", "hot_functions.txt")]
    sources = [*build, *(ROOT / "streamproxy").rglob("*.py")]
    if built.exists() and max(source.stat().st_mtime for source in sources) < built.stat().st_mtime:
        return
    print("compiling streamproxy, which takes a minute or two", file=sys.stderr)
    shutil.rmtree(COMPILED, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(COMPILED), str(ROOT)]
    done = subprocess.run(command, env=os.environ | {"STREAMPROXY_COMPILE": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"streamproxy does not compile:\n{done.stdout}{done.stderr}")
    (COMPILED / "revision").write_text(revision())
