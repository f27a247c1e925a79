"""`streamproxy` with its wall clock off by the seconds in a file: ``python -m tests.doubles.wall_clock FILE run …``.

The monotonic clock, which loops and time-outs use, is left alone, as the system leaves it alone.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import jwt.api_jwt


class _Shown(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(time.time(), tz)


def install(file: Path) -> None:
    """Let ``time.time`` be off, from now on, and the clock by which PyJWT judges tokens."""
    right = time.time
    time.time = lambda: right() + float(file.read_text())
    jwt.api_jwt.datetime = _Shown  # type: ignore[attr-defined]


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    from streamproxy.cli import main  # whose modules take hold of the function

    main()
