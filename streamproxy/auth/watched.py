"""What a file says, read again when it changes.

A file of tokens or keys is replaced while the proxy runs: by hand, by a sidecar, by Kubernetes (which swaps a link).
Whoever asks gets the newest content that could be understood. The file is looked at (one ``stat``, about 1 µs) when
somebody asks, and no more than once in `PERIOD`. A new content that cannot be read or understood changes nothing, and
is reported once.
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
    """A file, as the top of the program opens it. Both raise OSError."""

    @property
    def path(self) -> str: ...

    def version(self) -> object:
        """Something that is another when the file has changed."""
        ...

    def read(self) -> bytes: ...


class Watched(Generic[T]):
    """What ``parse`` makes of a file. Raises OSError or ValueError when that fails at the beginning."""

    def __init__(self, file: File, parse: Callable[[bytes], T], *, clock: Callable[[], float] = monotonic) -> None:
        self._file = file
        self._parse = parse
        self._clock = clock
        self._version = file.version()
        self._value = parse(file.read())
        self._looked_at = clock()

    def __call__(self) -> T:
        """The newest that could be understood."""
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
            # The version is taken before the content: a change between the two is seen at the next look.
            self._value = self._parse(self._file.read())
        except (OSError, ValueError) as error:
            if version != self._version:
                reason = error.strerror if isinstance(error, OSError) else error
                logger.error("%s cannot be used: %s; what it said before stays in force", self._file.path, reason)
        self._version = version
