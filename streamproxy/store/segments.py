"""The bytes of one kept stream, and the positions in them at which its events end.

Theory of operation. Bytes are appended to a tail. When the tail is large enough, it becomes a segment, which never
changes, and a new tail begins. For each of them the log keeps its offset in the stream and the number of events that
had ended before its first byte. Nothing is kept for a single event: the position after event N is found by counting
again, from the beginning of the segment in which that event ends.

An appended chunk is only put aside. After a few of them, or when somebody looks, the log *settles*: they are joined,
counted and added to the tail in one step. So a chunk of one stream among many touches little memory, most of which is
in no cache by then. The tail is a list of what was joined: a buffer that grows would be copied again and again.

A segment should begin between two events, because counting can only begin there. If the tail ends inside an event when
it is large enough, it goes on to the end of that event, in the middle of a read. If the event is so long that a segment
has to begin inside it, the log has *lost count* until the event ends; counting then begins in an earlier segment.

The oldest segments are dropped when the log holds too much. A position is gone if an event after it was dropped. If
only the event before it was dropped, the position is where the next segment begins: all that can be missing between the
two are comments and other blocks that are no events.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import Final, Literal

from streamproxy.formats.bom import BOM
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import SseTracker

Format = Literal["sse", "ndjson"]

SEGMENT: Final = 16 * 1024
_LOOSE: Final = 16  # chunks that may be put aside
_LOOSE_BYTES: Final = 4096
_PIECE: Final = 1024  # bytes; smaller pieces of a tail are joined, since an object takes 33 more than its bytes
_INSIDE_EVENT: Final = -1
_LINE: Final = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r)")


class PlaceGone(Exception):
    """The bytes at this position are no longer kept."""


class EventCounter:
    """Counts the events of a body as it passes. ``format`` depends on its media type.

    ``events`` is their number, and ``clean`` whether the position is between two events. ``ids_from`` is the number of
    events after which the upstream is known to write ids of its own, or None if it has written none. ``unfinished`` is
    whether a body that is over has ended inside an event, whose bytes follow the last counted event.
    """

    __slots__ = ("_lines", "_tracker", "clean", "events", "format", "ids_from", "unfinished")

    def __init__(self, format: Format) -> None:
        self.format = format
        self._tracker = SseTracker() if format == "sse" else None
        self._lines = LineCounter() if format == "ndjson" else None
        self.events = 0
        self.clean = True
        self.ids_from: int | None = None
        self.unfinished = False

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes."""
        tracker = self._tracker
        if tracker is not None:
            tracker.feed(chunk)
            self.events = tracker.events
            self.clean = tracker.between_events
            if tracker.saw_id and self.ids_from is None:
                self.ids_from = tracker.id_at
        elif self._lines is not None and chunk:
            self._lines.feed(chunk)
            self.events = self._lines.events
            self.clean = chunk[-1:] == b"\n"

    def feed_to_event(self, chunk: bytes) -> int:
        """Follows the next bytes up to where an event begins, or all of them. Returns how many it followed."""
        if self._tracker is not None:
            at = self._tracker.feed_to_boundary(chunk)
            at = len(chunk) if at < 0 else at
            self.feed(b"")  # takes over what the tracker counted
        else:
            at = chunk.find(b"\n") + 1 or len(chunk)
            self.feed(chunk[:at])
        return at

    def finish(self) -> None:
        """Handles the end of the body: a last line without its line end is an event too. Nothing is fed afterwards."""
        if self._tracker is not None:
            self.unfinished = self._tracker.inside_event
            self._tracker = None
        if self._lines is not None:
            self._lines.finish()
            self.events = self._lines.events
            self._lines = None


def find_place(format: Format, data: bytes, count: int, first: bool = True) -> int:
    """Returns the offset after the first ``count`` events of ``data``, which begins between two events.

    It is the length of ``data`` if that has fewer events. ``first`` is whether ``data`` begins the body, where a byte
    order mark is ignored.
    """
    if count <= 0:
        return 0
    return _sse_place(data, count, first) if format == "sse" else _line_place(data, count)


def _line_place(data: bytes, count: int) -> int:
    at = 0
    for _ in range(count):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return len(data)
    return at


def _sse_place(data: bytes, count: int, first: bool) -> int:
    has_data = False
    for match in _LINE.finditer(data):
        line = match[1]
        if first and match.start() == 0:
            line = line.removeprefix(BOM)
        if line:
            has_data = has_data or line.partition(b":")[0] == b"data"
            continue
        count -= has_data
        has_data = False
        if count == 0:
            return match.end()
    return len(data)


class SegmentLog:
    """The kept bytes of one stream. ``start`` is the offset of the oldest kept byte, ``end`` that of the next byte."""

    __slots__ = (
        *("_counter", "_counts", "_held", "_loose", "_lost", "_max_bytes", "_most", "_offsets"),
        *("_segment", "_segments", "_settled", "_tail", "end", "start"),
    )

    def __init__(self, format: Format, max_bytes: int) -> None:
        self._counter = EventCounter(format)
        self.start = 0
        self.end = 0
        self._loose: list[bytes] = []  # chunks that were put aside
        self._settled = 0  # the offset at which they begin
        self._max_bytes = max_bytes
        self._segment = min(SEGMENT, max(1, max_bytes // 8))
        self._most = min(_LOOSE_BYTES, self._segment // 4)  # bytes that may be put aside
        self._lost = False  # the tail begins inside an event
        self._segments: list[bytes] = []
        self._tail: list[bytes] = []
        self._held = 0  # bytes of the tail
        # For each segment, and for the tail: its offset, and the number of events before it.
        self._offsets = array("q", (0,))
        self._counts = array("q", (0,))

    @property
    def size(self) -> int:
        """The number of kept bytes."""
        return self.end - self.start

    @property
    def counter(self) -> EventCounter:
        """What was counted of the stream so far, kept or not."""
        self._settle()
        return self._counter

    @property
    def events(self) -> int:
        """The number of events of the stream so far, kept or not."""
        return self.counter.events

    def append(self, chunk: bytes) -> None:
        """Keeps the next bytes of the stream."""
        loose = self._loose
        loose.append(chunk)
        self.end = end = self.end + len(chunk)
        if len(loose) >= _LOOSE or end - self._settled >= self._most or end - self.start > self._max_bytes:
            self._settle()

    def finish(self) -> None:
        """Handles the end of the stream."""
        self.counter.finish()
        self._seal()

    def shrink(self) -> None:
        """Drops all but the newest bytes."""
        self._settle()
        kept = len(self._segments)
        del self._segments[:], self._offsets[:kept], self._counts[:kept]
        self.start = self._offsets[0]

    def clear(self) -> None:
        """Drops everything. What is appended from now on is kept again."""
        self._settle()
        self._seal()
        self.shrink()

    def place(self, events: int) -> int:
        """Returns the offset after this many events. Raises PlaceGone, also if the stream has not come as far."""
        if events > self.events:
            raise PlaceGone
        first = self._first_segment(events)
        begin = self._offsets[first]
        rest = events - self._counts[first]
        if rest == 0:
            return begin
        data = b""
        # An event that began in this segment may end in a later one.
        for number in range(first, len(self._offsets)):
            piece = self._segments[number] if number < len(self._segments) else b"".join(self._tail)
            data = data + piece if data else piece
            following = number + 1
            if following == len(self._offsets) or self._counts[following] >= events:
                break
        return begin + find_place(self._counter.format, data, rest, begin == 0)

    def first_place(self) -> tuple[int, int] | None:
        """Returns the offset from which on every event is kept, and how many come before it. None if no event is."""
        self._settle()
        for offset, count in zip(self._offsets, self._counts, strict=True):
            if count != _INSIDE_EVENT:
                return offset, count
        return None

    def read(self, offset: int) -> bytes:
        """Returns bytes from ``offset`` on, at most to the end of a segment; empty at the end. Raises PlaceGone."""
        if offset < self.start:
            raise PlaceGone
        self._settle()
        number = bisect_right(self._offsets, offset) - 1
        behind = offset - self._offsets[number]
        if number == len(self._segments):
            return self._read_tail(behind)
        segment = self._segments[number]
        return segment[behind:] if behind else segment

    def read_range(self, offset: int, until: int) -> bytes:
        """Returns the bytes between two offsets. Raises PlaceGone."""
        pieces = []
        while offset < until:
            piece = self.read(offset)
            pieces.append(piece[: until - offset])
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _settle(self) -> None:
        """Counts the chunks that were put aside, and adds them to the tail."""
        loose = self._loose
        if not loose:
            return
        data = loose[0] if len(loose) == 1 else b"".join(loose)
        loose.clear()
        counter, segment = self._counter, self._segment
        if self._lost or (self._held >= segment and not counter.clean):
            data = self._begin_at_event(data)
        if self._held >= segment and (counter.clean or self._held >= 4 * segment):
            self._seal()
        self._keep(data)
        counter.feed(data)
        if self.end - self.start > self._max_bytes:
            self._trim()

    def _keep(self, data: bytes) -> None:
        """Adds bytes to the tail."""
        if not data:
            return
        self._held += len(data)
        self._settled += len(data)
        tail = self._tail
        if tail and len(tail[-1]) + len(data) <= _PIECE:
            tail[-1] += data
        else:
            tail.append(data)

    def _read_tail(self, behind: int) -> bytes:
        """Returns the bytes of the tail from an offset in it on."""
        missing = self._held - behind
        if missing <= 0:
            return b""
        tail = self._tail
        at = len(tail)
        while missing > 0:
            at -= 1
            missing -= len(tail[at])
        data = tail[at] if at == len(tail) - 1 else b"".join(tail[at:])
        return data[-missing:] if missing else data

    def _first_segment(self, events: int) -> int:
        """Returns the segment in which that event ends, or an earlier one if counting can't begin there.

        If the event is dropped and all after it are kept, it is the segment that begins with the next one.
        """
        for number in range(len(self._counts) - 1, -1, -1):
            if _INSIDE_EVENT < self._counts[number] < events:
                return number
        for number, count in enumerate(self._counts):
            if count == events:
                return number
        raise PlaceGone

    def _begin_at_event(self, chunk: bytes) -> bytes:
        """Keeps the bytes up to the next event, and begins a segment there. Returns the remaining bytes."""
        at = self._counter.feed_to_event(chunk)
        self._keep(chunk[:at])
        if at < len(chunk) or self._counter.clean:
            self._seal(begins=True)
        return chunk[at:]

    def _seal(self, begins: bool = False) -> None:
        """Makes the tail a segment. ``begins`` is whether an event is known to begin here."""
        self._lost = not (begins or self._counter.clean)
        if self._tail:
            self._segments.append(b"".join(self._tail))
            self._tail.clear()
            self._held = 0
            self._offsets.append(self._settled)
            self._counts.append(0)
        self._counts[-1] = _INSIDE_EVENT if self._lost else self._counter.events

    def _trim(self) -> None:
        drop = 0
        while drop < len(self._segments) and self.end - self._offsets[drop] > self._max_bytes:
            drop += 1
        del self._segments[:drop], self._offsets[:drop], self._counts[:drop]
        self.start = self._offsets[0]
        if self.size > self._max_bytes:  # a single read or event is larger than everything that may be kept
            self.clear()
