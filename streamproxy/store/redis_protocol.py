"""The protocol of Redis (RESP2): renders commands, and parses replies as they arrive. No I/O.

A batch has hundreds of short replies. redis-py would await each of its lines, which takes many times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Word = str | bytes | int

_SIZES: Final = tuple(b"$%d\r\n" % size for size in range(512))
_LINE: Final = 1  # bytes to wait for if the end of a line has not arrived: any


class ProtocolError(Exception):
    """A reply that is not in the protocol. Nothing can be read after it."""


def encode(words: tuple[Word, ...]) -> bytes:
    """Returns a command as sent over the wire, an array of bulk strings."""
    out = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        size = len(data)
        out.append(_SIZES[size] if size < 512 else b"$%d\r\n" % size)
        out.append(data)
        out.append(b"\r\n")
    return b"".join(out)


class ReplyParser:
    """Parses the bytes of one connection.

    Texts are bytes, and what does not exist is None. An error is what ``make_error`` returns for its text.
    """

    __slots__ = ("_counts", "_lists", "_make_error", "_missing", "_parts")

    def __init__(self, make_error: Callable[[str], Exception]) -> None:
        self._make_error = make_error
        self._parts: list[bytes] = []  # what has arrived of an incomplete line or bulk string
        self._missing = 0  # bytes without which it can't be complete
        # The arrays that have begun, the innermost last, and how many elements of each are still to come.
        self._lists: list[list[Any]] = []
        self._counts: list[int] = []

    def feed(self, data: bytes) -> list[Any]:
        """Returns the replies that are complete with these bytes. Raises ProtocolError."""
        replies: list[Any] = []
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return replies
            data = b"".join(self._parts)
            self._parts = []
        at, size = 0, len(data)
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                self._keep(data, at, _LINE)
                break
            kind, following = data[at], end + 2
            value: Any = None
            if kind == 36:  # $
                length = _number(data, at, end)
                if length >= 0:
                    end = following + length
                    if end + 2 > size:
                        self._keep(data, at, end + 2 - size)
                        break
                    value = data[following:end]
                    following = end + 2
            elif kind == 58:  # :
                value = _number(data, at, end)
            elif kind == 43:  # +
                value = data[at + 1 : end]
            elif kind == 45:  # -
                value = self._make_error(data[at + 1 : end].decode("utf-8", "replace"))
            elif kind == 42:  # *
                length = _number(data, at, end)
                if length > 0:
                    self._lists.append([])
                    self._counts.append(length)
                    at = following
                    continue
                value = [] if length == 0 else None
            else:
                raise ProtocolError(f"a reply begins with {data[at : at + 1]!r}")
            at = following
            if self._lists:
                self._add(value, replies)
            else:
                replies.append(value)
        return replies

    def _keep(self, data: bytes, at: int, missing: int) -> None:
        self._parts = [data[at:]]
        self._missing = missing

    def _add(self, value: Any, replies: list[Any]) -> None:
        """Adds an element to the innermost array, which may complete it and those around it."""
        lists, counts = self._lists, self._counts
        while lists:
            innermost = lists[-1]
            innermost.append(value)
            counts[-1] -= 1
            if counts[-1]:
                return
            value = lists.pop()
            counts.pop()
        replies.append(value)


def _number(data: bytes, at: int, end: int) -> int:
    """Returns the number of a line that begins at ``at`` with one other byte."""
    try:
        return int(data[at + 1 : end])
    except ValueError:
        raise ProtocolError(f"{data[at:end]!r} has no number") from None
