"""Buffers lines for a stream, and never blocks on its reader.

Theory of operation. After a pause of `GATHER` seconds, a line is written at the end of the current loop iteration,
together with the others of that iteration. While lines keep coming they are buffered for `GATHER` seconds, or until
there are `BIG` bytes. Outside of an event loop each line is written at once::

    idle ──write──▶ gathering ──turn, time or size──▶ written ──▶ idle
                        ▲                                │ the reader is slow
                        └───────── `RETRY` seconds ──────┴──▶ held

A pipe, socket or terminal is polled before each write, and then receives at most `PIECE` bytes. A writable pipe accepts
this many without blocking and in one piece, so lines of several processes on one pipe stay intact. What a slow reader
has not accepted is held, up to `MOST` bytes; further lines are dropped, and the number is logged in the program's own
log. A reader that is gone or a full disk only costs lines.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import select
import stat
import time
from contextlib import suppress
from typing import Final, TextIO

logger = logging.getLogger("streamproxy.log")

GATHER: Final = 0.005  # seconds
RETRY: Final = 0.05  # seconds
PIECE: Final = select.PIPE_BUF
BIG: Final = 64 * 1024
MOST: Final = 1024 * 1024


class LineWriter:
    """Writes lines of ASCII to ``stream``. Not thread-safe."""

    __slots__ = ("_dropped", "_due", "_fd", "_held", "_lines", "_poll", "_size", "_written_at", "stream")

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._fd, self._poll = _descriptor(stream)
        self._lines: list[str] = []
        self._size = 0  # bytes in the lines
        self._held = b""  # not yet accepted by the reader
        self._dropped = 0
        self._due = False  # a callback of the loop will flush
        self._written_at = 0.0

    def write(self, line: str, now: float) -> None:
        """Writes a line without its line end; ``now`` is the time of the monotonic clock."""
        if self._size + len(self._held) > MOST:
            self._dropped += 1
            return
        self._lines.append(line)
        self._size += len(line) + 1
        if not self._due:
            self._schedule(now)
        elif self._size > BIG and not self._held:
            self.flush()

    def _schedule(self, now: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        self._due = True
        if now - self._written_at > GATHER:
            loop.call_soon(self._fire)
        else:
            loop.call_later(GATHER, self._fire)

    def _fire(self) -> None:
        self._due = False
        self.flush()
        if self._held:
            self._due = True
            asyncio.get_running_loop().call_later(RETRY, self._fire)

    def flush(self, patience: float = 0.0) -> None:
        """Writes what is buffered, as far as the reader accepts it within ``patience`` seconds. Never raises."""
        if not self._lines and not self._held:
            return
        text = "\n".join(self._lines) + "\n" if self._lines else ""
        self._lines.clear()
        self._size = 0
        self._written_at = time.monotonic()
        if self._fd is None:
            with suppress(OSError, ValueError):  # the reader is gone, or the stream is closed
                self.stream.write(text)
                self.stream.flush()
            return
        data, self._held = self._held + text.encode("ascii", "replace"), b""
        try:
            self._held = self._write(self._fd, data, self._written_at + patience)
        except (OSError, ValueError):
            return
        if self._dropped and not self._held:
            logger.warning("%d access-log lines were dropped: their reader was too slow", self._dropped)
            self._dropped = 0

    def _write(self, fd: int, data: bytes, until: float) -> bytes:
        """Writes to a descriptor; returns the bytes that were not accepted."""
        if self.stream.closed:
            raise ValueError("the stream is closed")
        view, poll = memoryview(data), self._poll
        at = 0
        while at < len(data):
            end = len(data)
            if poll is not None:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    break
                if end - at > PIECE:
                    end = data.rfind(b"\n", at, at + PIECE) + 1 or at + PIECE
            try:
                at += os.write(fd, view[at:end])
            except BlockingIOError:
                break
        return data[at:]


def _descriptor(stream: TextIO) -> tuple[int | None, select.poll | None]:
    """Returns the descriptor of a stream, or None, and a poll object unless it is a regular file."""
    try:
        fd = stream.fileno()
        stream.flush()  # text written earlier comes first
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd, None
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        return None, None
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return fd, poll
