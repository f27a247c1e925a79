"""`streamproxy` with its wall clock off by the seconds in a file: ``python -m tests.doubles.wall_clock FILE run …``.

The monotonic clock, which loops and time-outs use, is left alone, as the system leaves it alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def install(file: Path) -> None:
    """Let ``time.time`` be off, from now on."""
    right = time.time
    time.time = lambda: right() + float(file.read_text())


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    from streamproxy.cli import main  # whose modules take hold of the function

    main()
