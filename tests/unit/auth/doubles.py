"""A file in memory, that a test changes."""

from __future__ import annotations


class MemoryFile:
    """A file whose content is ``data``; None is one that is not there."""

    path = "/etc/tokens"

    def __init__(self, data: bytes | None) -> None:
        self.data = data
        self.number = 0

    def write(self, data: bytes | None) -> None:
        self.data = data
        self.number += 1

    def version(self) -> object:
        if self.data is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.number

    def read(self) -> bytes:
        if self.data is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.data
