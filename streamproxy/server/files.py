"""Files that are watched for another content.

Not the files are watched but the folders they are in, since an editor writes another file and renames it, and
Kubernetes swaps the link ``..data`` beside the links that its volume shows. Every link on the way to a file counts,
and the way is looked up again after each change. Where the system reports nothing (network file systems, some
containers on desktops) the files are looked at every `LOOK` seconds all the same. A change that leaves every file
with the content that it had is none.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from watchfiles import awatch

LOOK = 5.0  # seconds

_QUIET = 100  # milliseconds without a change that end one
_LONGEST = 1000  # milliseconds that one change may take
_MOST_LINKS = 40  # on the way to one file, as for the kernel

Contents = dict[Path, bytes]


def contents(files: Iterable[Path]) -> Contents:
    """A digest of each file; empty for one that can't be read."""
    found: Contents = {}
    for file in files:
        try:
            found[file] = hashlib.sha256(file.read_bytes()).digest()
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


async def changes(files: Callable[[], Iterable[Path]], stop: asyncio.Event) -> AsyncIterator[None]:
    """A turn for each change of the content of ``files()``, until ``stop`` is set.

    Who takes the turn may change what ``files()`` gives.
    """
    known = contents(files())
    while not stop.is_set():
        watched = folders(files())
        looks = awatch(
            *watched,
            watch_filter=None,
            recursive=False,
            step=_QUIET,
            debounce=_LONGEST,
            rust_timeout=int(LOOK * 1000),
            yield_on_timeout=True,
            stop_event=stop,
        )
        async for _ in looks:
            now = contents(files())
            if now != known:
                known = now
                yield
                # A file that is watched from now on was read a moment ago.
                known = {file: known.get(file, digest) for file, digest in contents(files()).items()}
            if folders(files()) != watched:
                break
        await looks.aclose()
