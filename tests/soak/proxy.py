"""`streamproxy`, which on a signal writes the number of its loop's tasks: ``python -m tests.soak.proxy FILE run …``."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType

from streamproxy.cli import main

COUNT = signal.SIGRTMIN + 3


def install(file: Path) -> None:
    """Writes the number to ``file`` each time the signal comes."""

    def count(number: int, frame: FrameType | None) -> None:
        file.with_suffix(".new").write_text(str(len(asyncio.all_tasks())))
        file.with_suffix(".new").rename(file)

    signal.signal(COUNT, count)


if __name__ == "__main__":
    install(Path(sys.argv.pop(1)))
    main()
