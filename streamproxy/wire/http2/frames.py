"""Splits the bytes of an HTTP/2 connection into frames, and limits frames that cost more to handle than to send.

Theory of operation. Reads end anywhere in a frame. `FrameGate` walks from frame to frame by their headers and passes
only whole frames; the beginning of the last one waits. DATA frames are the exception: the available part is passed as a
shorter DATA frame, and the rest as another. This is equivalent, since RFC 9113 section 6.1 gives DATA frames no meaning
beyond their bytes, and END_STREAM stays with the last part. So the session is never in the middle of a frame when a
stream is reset, which would make it lose count of the window, and a slow upload does not wait for the end of a long
frame.

Frames without content cost more to handle than to send, so they are counted here, before anything else handles them:

- Frames that move no request (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown ones, empty DATA and CONTINUATION) use
  up a credit, which time and traffic in either direction refill.
- RST_STREAM uses another credit (CVE-2023-44487). So does, through `FrameGate.broken_stream`, a reset by us that the
  client provoked (CVE-2025-8671). Trusted proxies forward the cancellations of many clients and have no such limit.
- The header block of a request is limited in size and in its number of CONTINUATION frames.
- A block of a hundred bytes can name fields of 256 KiB (RFC 7541), and a read has thousands of blocks. So a read with
  many is handed on in parts (`FrameGate.parts`), each to be dealt with before the fields of the next are made.

The session silently discards frames on streams that have ended, as RFC 9113 section 5.1 permits. It would discard the
request of a client that goes back to a stream below one that it has opened, which section 5.1.1 forbids; so such
streams are remembered here, a few gaps at most.

Time is an argument in seconds, from any monotonic clock.
"""

from __future__ import annotations

from typing import Final

from streamproxy.wire.http2.session import ENHANCE_YOUR_CALM, MAX_FRAME, PROTOCOL_ERROR, SessionFailed

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA: Final = 0x0
_HEADERS: Final = 0x1
_PRIORITY: Final = 0x2
_RST_STREAM: Final = 0x3
_CONTINUATION: Final = 0x9
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8

_MOST_GAPS: Final = 16

_IDLE_BURST: Final = 1000  # frames that move no request
_IDLE_RATE: Final = 100.0  # of them per second
NOTHING: Final = -1.0

_MOST_HEADS: Final = 16  # of one part

RESET_BURST: Final = 1000
RESET_RATE: Final = 33.0  # per second


class Credit:
    """A token bucket of size ``burst`` that refills at ``rate`` per second."""

    __slots__ = ("_burst", "_rate", "_since", "left")

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._since = now
        self.left = burst

    def refill(self, now: float) -> bool:
        """Refills an empty bucket according to the time passed; returns whether it has credit again."""
        self.left = min(self._burst, int(self.left + (now - self._since) * self._rate))
        self._since = now
        return self.left > 0

    def earn(self, amount: int) -> None:
        """Adds credit for traffic."""
        self.left = min(self._burst, self.left + amount)


class FrameGate:
    """Passes whole frames, and detects floods.

    ``max_block`` is the maximum size of a request's header block in bytes, ``max_continuations`` its maximum number of
    CONTINUATION frames. With ``trusted``, resets are not counted. ``preface`` means that the peer is a client, whose
    first bytes are not a frame.

    ``since`` is when the first incomplete item (the preface, a frame, or a header block) began to arrive. It is NOTHING
    if there is none.
    """

    __slots__ = (
        "_block",
        "_continuations",
        "_data_flags",
        "_data_left",
        "_data_stream",
        "_gaps",
        "_heads",
        "_highest",
        "_idle",
        "_in_block",
        "_max_block",
        "_max_continuations",
        "_need",
        "_open",
        "_opens",
        "_resets",
        "_tail",
        "_trusted",
        "since",
    )

    def __init__(
        self, max_block: int, max_continuations: int, now: float, trusted: bool = False, preface: bool = True
    ) -> None:
        self._max_block = max_block
        self._max_continuations = max_continuations
        self._trusted = trusted
        self._idle = Credit(_IDLE_BURST, _IDLE_RATE, now)
        self._resets = Credit(RESET_BURST, RESET_RATE, now)
        self._tail = bytearray()  # the beginning of an incomplete frame
        self._need = len(PREFACE) if preface else 9  # bytes that the tail needs before it is examined
        self._open = not preface  # the preface is complete
        self._opens = preface  # the peer opens streams
        self._highest = -1  # stream that it has opened
        self._gaps: list[tuple[int, int]] = []  # streams below it that were never opened, from the first to the last
        self._data_left = 0  # remaining bytes of a partly passed DATA frame
        self._data_flags = 0
        self._data_stream = b""
        self._in_block = False  # a header block is incomplete
        self._heads = 0  # HEADERS frames of the last read
        self.since = now
        self._block = 0
        self._continuations = 0

    def feed(self, data: bytes, now: float) -> bytes:
        """Returns the frames that are now complete. Raises SessionFailed on a flood."""
        self._heads = 0
        tail = self._tail
        if tail or not self._open:
            tail += data
            if len(tail) < self._need:
                return b""
            data = bytes(tail)
            tail.clear()
        if not self._in_block:
            self.since = NOTHING
        at = len(PREFACE) if not self._open else 0
        self._open = True  # the session checks its content
        first = b""
        if self._data_left:
            first = self._go_on(data)
            at = len(first) - 9
        end = len(data)
        start = at if first else 0
        while at + 9 <= end:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            following = at + 9 + size
            if following > end and size <= MAX_FRAME:
                break
            self._count(data, at, size, now)
            at = following
        if at >= end:
            return data if not first else first + data[start:]
        return first + self._cut(data, start, at, now)

    def parts(self, frames: bytes) -> list[bytes]:
        """Returns what `feed` has just returned, in parts of whole frames with few header blocks each."""
        if self._heads <= _MOST_HEADS:
            return [frames] if frames else []
        parts: list[bytes] = []
        start = heads = 0
        at = len(PREFACE) if frames.startswith(PREFACE) else 0
        end = len(frames)
        while at + 9 <= end:
            if frames[at + 3] == _HEADERS:
                if heads == _MOST_HEADS:
                    parts.append(frames[start:at])
                    start, heads = at, 0
                heads += 1
            at += 9 + (frames[at] << 16 | frames[at + 1] << 8 | frames[at + 2])
        parts.append(frames[start:])
        return parts

    def _go_on(self, data: bytes) -> bytes:
        """Passes the next part of a split DATA frame."""
        size = min(len(data), self._data_left)
        self._data_left -= size
        flags = self._data_flags if not self._data_left else 0
        return size.to_bytes(3, "big") + bytes((_DATA, flags)) + self._data_stream + data[:size]

    def _cut(self, data: bytes, start: int, at: int, now: float) -> bytes:
        """Keeps the incomplete frame at ``at``, or passes the available part of its data."""
        have = len(data) - at - 9
        if have > 0 and data[at + 3] == _DATA and not data[at + 4] & _PADDED:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            self._data_left = size - have
            self._data_flags = data[at + 4]
            self._data_stream = data[at + 5 : at + 9]
            self._idle.earn(2)
            shorter = have.to_bytes(3, "big") + bytes((_DATA, 0)) + self._data_stream
            return data[start:at] + shorter + data[at + 9 :]
        if not self._in_block:
            self.since = now
        self._tail += data[at:]
        self._need = 9
        if have >= 0:
            self._need += data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        return data[start:at]

    def earn(self, size: int) -> None:
        """Credits a write of ``size`` bytes, which the client may answer with window updates."""
        self._idle.earn(4 + (size >> 11))

    def opened_stream(self) -> None:
        """Credits a stream that we opened, which the peer may reset."""
        self._resets.earn(1)

    def broken_stream(self, now: float) -> None:
        """Counts a reset by us that the client provoked. Raises SessionFailed if there are too many."""
        self._draw_reset(now)

    def _count(self, data: bytes, at: int, size: int, now: float) -> None:
        """Counts the frame that begins at ``at``."""
        kind, flags = data[at + 3], data[at + 4]
        if kind == _DATA:
            if size:
                self._idle.earn(2)
            elif not flags & _END_STREAM:
                self._draw(now)
        elif kind == _HEADERS:
            self._heads += 1
            self._block = size
            self._continuations = 0
            if self._opens:
                self._opened(data[at + 5] << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8])
            self._end_of_block(flags, now)
        elif kind == _CONTINUATION:
            self._block += size
            self._continuations += 1
            self._end_of_block(flags, now)
            if not size:
                self._draw(now)
        elif kind == _RST_STREAM:
            self._draw_reset(now)
        else:
            if kind == _PRIORITY and data[at + 5 : at + 9] == bytes(4):
                raise SessionFailed(PROTOCOL_ERROR, "PRIORITY on stream 0")  # the session ignores PRIORITY frames
            self._draw(now)

    def _opened(self, stream: int) -> None:
        """Checks that a request is on a new stream, or that trailers are on one that was opened."""
        highest = self._highest
        if stream > highest:
            self._highest = stream
            if stream > highest + 2 and len(self._gaps) < _MOST_GAPS:
                self._gaps.append((highest + 2, stream - 2))
        elif self._gaps and any(first <= stream <= last for first, last in self._gaps):
            raise SessionFailed(PROTOCOL_ERROR, "a stream below one that was opened")

    def _end_of_block(self, flags: int, now: float) -> None:
        if flags & _END_HEADERS:
            self._in_block = False
            self.since = NOTHING
        elif not self._in_block:
            self._in_block = True
            self.since = now
        if self._block > self._max_block or self._continuations > self._max_continuations:
            raise SessionFailed(ENHANCE_YOUR_CALM, "a header block is too large")

    def _draw(self, now: float) -> None:
        idle = self._idle
        idle.left -= 1
        if idle.left <= 0 and not idle.refill(now):
            raise SessionFailed(ENHANCE_YOUR_CALM, "too many frames that move no request")

    def _draw_reset(self, now: float) -> None:
        resets = self._resets
        resets.left -= 1
        if resets.left <= 0 and not self._trusted and not resets.refill(now):
            raise SessionFailed(ENHANCE_YOUR_CALM, "too many streams were reset")
