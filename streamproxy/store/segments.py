"""The bytes of one kept stream, and the positions in them at which its events end.

Theory of operation. Bytes are appended to a tail. When the tail is large enough, it becomes a segment, which never
changes, and a new tail begins. For each of them the log keeps its offset in the stream and the number of events that
had ended before its first byte. Nothing is kept for a single event: the position after event N is found by counting
again, from the beginning of the segment in which that event ends.

A segment should begin between two events, because counting can only begin there. If no read ends between two events,
or an event is so long that a segment has to begin inside it, the log has *lost count*. It then begins another segment
at the next event, in the middle of a read; until then, counting begins in an earlier segment.

The oldest segments are dropped when the log holds too much. A position is gone if an event after it was dropped. If
only the event before it was dropped, the position is where the next segment begins: all that can be missing between the
two are comments and other blocks that are no events.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import Final, Literal

from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import SseTracker

Format = Literal["sse", "ndjson"]

SEGMENT: Final = 16 * 1024
_INSIDE_EVENT: Final = -1
_LINE: Final = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r)")
_BOM: Final = b"\xef\xbb\xbf"


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

    def feed(self, chunk: bytes) -> int:
        """Follows the next bytes. Returns how many events they are, if no more than counting was needed, otherwise 0.

        Whoever passes the same bytes on need not parse them again then.
        """
        tracker = self._tracker
        if tracker is not None:
            whole = tracker.feed_whole(chunk)
            if whole:
                self.events += whole
                self.clean = True
                return whole
            tracker.parse(chunk)
            self.events = tracker.events
            self.clean = tracker.between_events
            if tracker.saw_id and self.ids_from is None:
                self.ids_from = tracker.id_at
        elif self._lines is not None and chunk:
            self._lines.feed(chunk)
            self.events = self._lines.events
            self.clean = chunk[-1:] == b"\n"
        return 0

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
            line = line.removeprefix(_BOM)
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
        *("_counts", "_lost", "_max_bytes", "_offsets", "_segment", "_segments", "_tail"),
        *("counter", "end", "start"),
    )

    def __init__(self, format: Format, max_bytes: int) -> None:
        self.counter = EventCounter(format)
        self.start = 0
        self.end = 0
        self._max_bytes = max_bytes
        self._segment = min(SEGMENT, max(1, max_bytes // 8))
        self._lost = False  # the tail begins inside an event
        self._segments: list[bytes] = []
        self._tail = bytearray()
        # For each segment, and for the tail: its offset, and the number of events before it.
        self._offsets = array("q", (0,))
        self._counts = array("q", (0,))

    @property
    def size(self) -> int:
        """The number of kept bytes."""
        return self.end - self.start

    @property
    def events(self) -> int:
        """The number of events of the stream so far, kept or not."""
        return self.counter.events

    def append(self, chunk: bytes) -> int:
        """Keeps the next bytes of the stream. Returns how many whole events they are; see `EventCounter.feed`."""
        counter, lost = self.counter, self._lost
        if lost:
            chunk = self._begin_at_event(chunk)
        held = len(self._tail)
        if held >= self._segment and (counter.clean or held >= 4 * self._segment):
            self._seal()
        self._tail += chunk
        self.end += len(chunk)
        whole = counter.feed(chunk)
        if self.end - self.start > self._max_bytes:
            self._trim()
        return 0 if lost else whole

    def finish(self) -> None:
        """Handles the end of the stream, and frees what the tail has allocated in advance."""
        self.counter.finish()
        self._seal()

    def shrink(self) -> None:
        """Drops all but the newest bytes."""
        kept = len(self._segments)
        del self._segments[:], self._offsets[:kept], self._counts[:kept]
        self.start = self._offsets[0]

    def clear(self) -> None:
        """Drops everything. What is appended from now on is kept again."""
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
            piece = self._segments[number] if number < len(self._segments) else bytes(self._tail)
            data = data + piece if data else piece
            following = number + 1
            if following == len(self._offsets) or self._counts[following] >= events:
                break
        return begin + find_place(self.counter.format, data, rest, begin == 0)

    def first_place(self) -> tuple[int, int] | None:
        """Returns the offset from which on every event is kept, and how many come before it. None if no event is."""
        for offset, count in zip(self._offsets, self._counts, strict=True):
            if count != _INSIDE_EVENT:
                return offset, count
        return None

    def read(self, offset: int) -> bytes:
        """Returns bytes from ``offset`` on, at most to the end of a segment; empty at the end. Raises PlaceGone."""
        if offset < self.start:
            raise PlaceGone
        number = bisect_right(self._offsets, offset) - 1
        behind = offset - self._offsets[number]
        if number == len(self._segments):
            return bytes(memoryview(self._tail)[behind:])
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
        at = self.counter.feed_to_event(chunk)
        self._tail += chunk[:at]
        self.end += at
        if at < len(chunk) or self.counter.clean:
            self._seal(begins=True)
        return chunk[at:]

    def _seal(self, begins: bool = False) -> None:
        """Makes the tail a segment. ``begins`` is whether an event is known to begin here."""
        self._lost = not (begins or self.counter.clean)
        if self._tail:
            self._segments.append(bytes(self._tail))
            self._tail = bytearray()
            self._offsets.append(self.end)
            self._counts.append(0)
        self._counts[-1] = _INSIDE_EVENT if self._lost else self.counter.events

    def _trim(self) -> None:
        drop = 0
        while drop < len(self._segments) and self.end - self._offsets[drop] > self._max_bytes:
            drop += 1
        del self._segments[:drop], self._offsets[:drop], self._counts[:drop]
        self.start = self._offsets[0]
        if self.size > self._max_bytes:  # a single read or event is larger than everything that may be kept
            self.clear()
