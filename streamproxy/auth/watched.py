"""Files of tokens and keys that are reloaded when they change.

Such a file may be replaced while the proxy runs: by hand, by a sidecar, or by Kubernetes, which swaps a symbolic link.
Each request sees the newest content that could be parsed. The file's metadata is checked on use, at most once in
`PERIOD`. Content that cannot be read or parsed is logged once and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger("streamproxy.auth")

PERIOD = 1.0  # seconds

T = TypeVar("T")


class File(Protocol):
    """A file that can be read again. Both methods raise OSError."""

    @property
    def path(self) -> str: ...

    def version(self) -> object:
        """Returns an opaque value that changes when the file does."""
        ...

    def read(self) -> bytes: ...


class Watched(Generic[T]):
    """The parsed content of a file. The constructor raises OSError or ValueError if it cannot be read or parsed."""

    def __init__(self, file: File, parse: Callable[[bytes], T], *, clock: Callable[[], float] = monotonic) -> None:
        self._file = file
        self._parse = parse
        self._clock = clock
        self._version = file.version()
        self._value = parse(file.read())
        self._looked_at = clock()

    def __call__(self) -> T:
        """Returns the newest content that could be parsed."""
        now = self._clock()
        if now - self._looked_at >= PERIOD:
            self._looked_at = now
            self._look()
        return self._value

    def _look(self) -> None:
        version: object = None
        try:
            version = self._file.version()
            if version == self._version:
                return
            # The version is taken before the content: a change between the two is then detected at the next check.
            self._value = self._parse(self._file.read())
        except (OSError, ValueError) as error:
            if version != self._version:
                reason = error.strerror if isinstance(error, OSError) else error
                logger.error("%s cannot be used: %s; what it said before stays in force", self._file.path, reason)
        self._version = version
