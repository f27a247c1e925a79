"""Chunked bodies of requests: RFC 9112 section 7.1, with nothing tolerated.

Theory of operation. A body is read in four states, each of which ends with a CRLF or with a counted byte::

    SIZE ──▶ DATA ──▶ DATA_END ──▶ SIZE ...
      └ size 0 ──▶ TRAILER ──▶ done

What a read holds of a line that is not finished is kept for the next read; data is never kept. Extensions and trailer
fields are checked and dropped: to merge a trailer into the header fields would let a body overrule its head. The end
is known to the byte, so that whatever follows (the next request) is not touched.
"""

from __future__ import annotations

import re
from typing import Final

from streamproxy.errors import BadRequest
from streamproxy.wire.headers import TOKEN

MAX_LINE: Final = 4096  # bytes of a chunk's size with its extensions
# 15 digits are more bytes than anyone has, and are never mistaken for a negative number.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_SIZE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?")
_TRAILER: Final = re.compile(TOKEN.pattern + rb":[\t\x20-\x7e\x80-\xff]*")
_TRAILER_BEGUN: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\r?")

# The line before a small chunk, by its size in bytes: to look it up is cheaper than to format it.
SIZE_LINES: Final = [b"%x\r\n" % size for size in range(2048)]

_IN_SIZE: Final = 0
_IN_DATA: Final = 1
_IN_DATA_END: Final = 2
_IN_TRAILER: Final = 3


class ChunkedDecoder:
    """Takes the framing off one chunked body.

    ``done`` is set when its end was read; ``rest`` are then the bytes after it. ``max_trailers`` bounds the trailer
    section, in bytes.
    """

    __slots__ = ("_held", "_left", "_state", "_trailers", "done", "rest")

    def __init__(self, max_trailers: int) -> None:
        self._state = _IN_SIZE
        self._left = 0  # bytes of the chunk that have not come
        self._held = b""  # an unfinished line
        self._trailers = max_trailers
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in one read, in one piece. Raises BadRequest when the framing is wrong."""
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._state == _IN_DATA:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if not self._left:
                    self._state = _IN_DATA_END
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data[at:])
                break
            self._line(data[at:end])
            at = end + 2
        if self.done:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _line(self, line: bytes) -> None:
        if self._state == _IN_SIZE:
            found = _SIZE.fullmatch(line) if len(line) <= MAX_LINE else None
            if found is None:
                raise BadRequest("A chunk's size is malformed")
            self._left = int(found[1], 16)
            self._state = _IN_DATA if self._left else _IN_TRAILER
        elif self._state == _IN_DATA_END:
            if line:
                raise BadRequest("A chunk is longer than its size")
            self._state = _IN_SIZE
        elif not line:
            self.done = True
        else:
            self._trailers -= len(line) + 2
            if self._trailers < 0 or _TRAILER.fullmatch(line) is None:
                raise BadRequest("The trailer section is malformed")

    def _hold(self, begun: bytes) -> None:
        """Keep a line that is not finished, unless it can't become a good one."""
        if self._state == _IN_SIZE:
            good = len(begun) <= MAX_LINE and _SIZE_BEGUN.fullmatch(begun) is not None
        elif self._state == _IN_DATA_END:
            good = begun == b"\r"
        else:
            good = len(begun) <= self._trailers and _TRAILER_BEGUN.fullmatch(begun) is not None
        if not good:
            raise BadRequest("The chunked framing is malformed")
        self._held = begun
