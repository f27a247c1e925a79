"""Watches files for a change of their content.

The directories are watched, not the files, because editors write another file and rename it, and Kubernetes replaces
the link ``..data`` beside the links in its volume. Every link in the path of a file counts, and the path is resolved
again after each change. If the system reports nothing (network file systems, some containers on desktops), the files
are still read every `LOOK` seconds. The content decides whether a file has changed, so touching it has no effect.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from watchfiles import awatch

LOOK = 5.0  # seconds

_QUIET = 100  # milliseconds without a further change that end one
_LONGEST = 1000  # the maximum milliseconds of one change
_MOST_LINKS = 40  # in one path, as in the kernel

Contents = dict[Path, bytes]


def contents(files: Iterable[Path]) -> Contents:
    """Returns a digest of each file; empty if it cannot be read or is not a file, such as a pipe."""
    found: Contents = {}
    for file in files:
        try:
            found[file] = hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""
        except OSError:
            found[file] = b""
    return found


def folders(files: Iterable[Path]) -> set[Path]:
    """Returns the directories in which these files can change: their own, and those of all links in their paths."""
    return {folder for file in files for folder in _way(file.absolute()) if folder.is_dir()}


def _way(path: Path) -> Iterator[Path]:
    for _ in range(_MOST_LINKS):
        link = next((part for part in accumulate(path.parts, Path.joinpath, initial=Path()) if part.is_symlink()), None)
        if link is None:
            break
        yield link.parent
        path = link.parent / link.readlink() / path.relative_to(link)
    yield path.parent


async def looks(files: Callable[[], Iterable[Path]], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yields when ``files()`` may have changed, and every `LOOK` seconds, until ``stop`` is set.

    Yields once at the beginning. ``files()`` is called again after each time, and may return other files.
    """
    while not stop.is_set():
        watched = folders(files())
        reports = awatch(
            *watched,
            watch_filter=None,
            recursive=False,
            step=_QUIET,
            debounce=_LONGEST,
            rust_timeout=int(LOOK * 1000),
            yield_on_timeout=True,
            stop_event=stop,
        )
        report = asyncio.ensure_future(anext(reports, None))
        await asyncio.sleep(0)  # the watch has begun: changes after the next yield are reported
        try:
            yield
            while await _reported(report) and not stop.is_set():
                yield
                if folders(files()) != watched:
                    break
                if report.done():
                    report = asyncio.ensure_future(anext(reports, None))
        finally:
            report.cancel()
            await asyncio.gather(report, return_exceptions=True)
            await reports.aclose()


async def _reported(report: asyncio.Future[Any]) -> bool:
    """Waits for a report, for at most twice `LOOK`. Returns whether the watch continues.

    If a directory is removed while its watch begins, the watch fails or reports nothing. It is then started again.
    """
    await asyncio.wait({report}, timeout=2 * LOOK)
    if not report.done():
        return True
    if report.exception() is not None:
        await asyncio.sleep(_QUIET / 1000)
        return False
    return report.result() is not None
