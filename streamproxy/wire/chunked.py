"""The chunked transfer coding, in both directions: RFC 9112 section 7.1.

Theory of operation. A body is read in four states, each of which ends with a CRLF or with a counted byte::

    SIZE ──▶ DATA ──▶ DATA_END ──▶ SIZE ...
      └ size 0 ──▶ TRAILER ──▶ done

The beginning of a line is kept until the rest arrives; data is never kept. White space after a chunk's size is
tolerated (RFC 9110 section 5.6.3). Extensions are checked and dropped. Trailer fields are checked and kept separate:
merging them into the header fields would let a body override its head. The decoder knows the end to the byte and leaves
whatever follows (the next message) untouched.

Most reads of a stream are exactly one whole chunk. `ChunkedDecoder.whole` recognises such a read by its length: it
looks up the size line that a chunk of this length must have, and the read either begins with this line or not.
"""

from __future__ import annotations

import re
from typing import Final

from streamproxy.wire.headers import TOKEN, Headers
from streamproxy.wire.http1 import MAX_FIELDS

MAX_LINE: Final = 16384  # bytes of a chunk-size line with its extensions, and of a trailer field
MAX_TRAILERS: Final = 65536  # bytes of a trailer section
# 15 digits exceed every real size and never become a negative number.
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_SIZE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,15}[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r?)?")
_TRAILER: Final = re.compile(rb"(" + TOKEN.pattern + rb"):[\t ]*([\t\x20-\x7e\x80-\xff]*)")
_TRAILER_BEGUN: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\r?")

# The line before a small chunk, by the chunk's size in bytes.
SIZE_LINES: Final = [b"%x\r\n" % size for size in range(2048)]
LAST_CHUNK: Final = b"0\r\n\r\n"
_END: Final = b"\r\n" + LAST_CHUNK
# The sizes of small chunks by their usual spelling.
_SIZES: Final = {form: size for size in range(2048) for form in (b"%x" % size, b"%X" % size)}


def _whole_lines() -> list[tuple[bytes, ...]]:
    """Returns the spellings of a chunk's size line without leading zeros, by the length of the chunk with framing."""
    lines: list[tuple[bytes, ...]] = []
    for line in SIZE_LINES[1:1024]:
        length = len(lines)
        size = len(line) + int(line, 16) + 2
        lines += [()] * (size - length)
        lines.append((line,) if line.upper() == line else (line, line.upper()))
    return lines


_WHOLE: Final = _whole_lines()

_IN_SIZE: Final = 0
_IN_DATA: Final = 1
_IN_DATA_END: Final = 2
_IN_TRAILER: Final = 3


class ChunkError(ValueError):
    """Malformed framing; the text says what is wrong. ``body`` is the part of the body before it in the same read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.body = b""


class ChunkedDecoder:
    """Decodes one chunked body, or several in sequence with `reset` between them.

    ``done`` is set when the body has ended; ``rest`` then holds the bytes after it, and ``trailers`` the trailer fields
    with lower-case names. A trailer section may have at most ``max_trailers`` bytes and `MAX_FIELDS` fields.
    """

    __slots__ = ("_fresh", "_held", "_left", "_max_trailers", "_state", "_trailers_left", "done", "rest", "trailers")

    def __init__(self, max_trailers: int = MAX_TRAILERS) -> None:
        self._max_trailers = max_trailers
        self._fresh = False
        self.reset()

    def reset(self) -> None:
        """Prepares for another body."""
        self.done = False
        if self._fresh:  # the last one was whole chunks only
            return
        self._fresh = True
        self._state = _IN_SIZE
        self._left = 0  # bytes of the chunk that have not arrived
        self._held = b""  # an unfinished line
        self._trailers_left = self._max_trailers
        self.rest = b""
        self.trailers: Headers = []

    def whole(self, data: bytes) -> bytes | None:
        """Returns the data of the chunk if ``data`` is exactly one chunk in its simplest spelling, otherwise None.

        After None, call `feed`. Everything accepted here is also accepted by `feed`, and may be forwarded with its
        framing.
        """
        if self._state != _IN_SIZE or self._held:
            return None
        length = len(data)
        if length < len(_WHOLE):
            lines = _WHOLE[length]
        else:
            end = data.find(b"\r\n", 0, 17)
            line = b"%x\r\n" % max(length - end - 4, 0)
            lines = (line, line.upper())
        if not lines or not data.startswith(lines) or data[-2:] != b"\r\n":
            return None
        return data[len(lines[0]) : -2]

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes; returns the part of the body in them as one piece.

        Raises ChunkError if the framing is wrong. This depends only on the bytes and not on how they were split into
        reads, and the same holds for the data returned before the error.
        """
        if self._held:
            data, self._held = self._held + data, b""
        elif self._state == _IN_SIZE and data[-7:] == _END:
            end = data.find(b"\r\n", 0, 17)
            size = _SIZES.get(data[:end], 0) if end > 0 else 0
            if size and size == len(data) - end - 9:  # a short body in one chunk
                self.done = True
                return data[end + 2 : -7]
        self._fresh = False
        pieces: list[bytes] = []
        try:
            self._split(data, pieces)
        except ChunkError as error:
            error.body = b"".join(pieces)
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _split(self, data: bytes, pieces: list[bytes]) -> None:
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._state == _IN_DATA:
                piece = data[at : at + self._left] if at or size > self._left else data  # compiled code copies a slice
                at += len(piece)
                self._left -= len(piece)
                pieces.append(piece)
                if not self._left:
                    self._state = _IN_DATA_END
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._hold(data[at:])
                return
            self._line(data[at:end])
            at = end + 2
        if self.done:
            self.rest = data[at:]

    def _line(self, line: bytes) -> None:
        if self._state == _IN_SIZE:
            size = _SIZES.get(line, -1)
            if size < 0:
                found = _SIZE.fullmatch(line) if len(line) <= MAX_LINE else None
                if found is None:
                    raise ChunkError("A chunk's size is malformed")
                size = int(found[1], 16)
            self._left = size
            self._state = _IN_DATA if self._left else _IN_TRAILER
        elif self._state == _IN_DATA_END:
            if line:
                raise ChunkError("A chunk is longer than its size")
            self._state = _IN_SIZE
        elif not line:
            self.done = True
        else:
            self._trailer(line)

    def _trailer(self, line: bytes) -> None:
        self._trailers_left -= len(line) + 2
        found = _TRAILER.fullmatch(line) if len(line) <= MAX_LINE else None
        if self._trailers_left < 0 or found is None or len(self.trailers) == MAX_FIELDS:
            raise ChunkError("The trailer section is malformed")
        self.trailers.append((found[1].lower(), found[2].rstrip(b" \t")))

    def _hold(self, begun: bytes) -> None:
        """Keeps an unfinished line, unless it cannot become a valid one."""
        if self._state == _IN_SIZE:
            good = len(begun) <= MAX_LINE + 1 and _SIZE_BEGUN.fullmatch(begun) is not None
        elif self._state == _IN_DATA_END:
            good = begun == b"\r"
        else:
            most = min(self._trailers_left, MAX_LINE + 1)
            good = len(begun) <= most and _TRAILER_BEGUN.fullmatch(begun) is not None
        if not good:
            raise ChunkError("The chunked framing is malformed")
        self._held = begun


def chunk_parts(data: bytes) -> list[bytes]:
    """Returns the parts of one chunk with its framing for a vectored write. ``data`` must not be empty."""
    size = len(data)
    return [SIZE_LINES[size] if size < len(SIZE_LINES) else b"%x\r\n" % size, data, b"\r\n"]


def last_chunk(trailers: Headers) -> bytes:
    """Returns the end of a chunked body with ``trailers``, whose names and values must be valid."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n" + b"".join([b"%b: %b\r\n" % pair for pair in trailers]) + b"\r\n"
