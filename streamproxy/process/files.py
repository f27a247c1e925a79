"""Watches files for a change of their content.

The folders are watched rather than the files, since an editor writes another file and renames it, and Kubernetes swaps
the link ``..data`` beside the links that its volume shows. Every link on the way to a file counts,
and the way is looked up again after each change. Where the system reports nothing (network file systems, some
containers on desktops) the files are read every `LOOK` seconds all the same. Whether something has changed is told by
the content, so that a file that was only touched has not.
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

_QUIET = 100  # milliseconds without a change that end one
_LONGEST = 1000  # milliseconds that one change may take
_MOST_LINKS = 40  # on the way to one file, as for the kernel

Contents = dict[Path, bytes]


def contents(files: Iterable[Path]) -> Contents:
    """A digest of each file; empty for one that can't be read, or is none: a pipe is read once, and may never end."""
    found: Contents = {}
    for file in files:
        try:
            found[file] = hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""
        except OSError:
            found[file] = b""
    return found


def folders(files: Iterable[Path]) -> set[Path]:
    """The folders in which a change of these files can show: their own, and those of all links on the way."""
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
    """Yield whenever ``files()`` may have changed, and every `LOOK` seconds, until ``stop`` is set.

    The first time is at once. ``files()`` may return other files after each.
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
    """Wait for a report, but no longer than two `LOOK`. Returns whether the watch goes on.

    A folder that is removed while its watch begins makes the watch fail, or report nothing: it is begun anew then.
    """
    await asyncio.wait({report}, timeout=2 * LOOK)
    if not report.done():
        return True
    if report.exception() is not None:
        await asyncio.sleep(_QUIET / 1000)
        return False
    return report.result() is not None
