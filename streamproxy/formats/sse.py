r"""Tracks the boundaries of server-sent events, for keepalives and event counts.

Theory of operation (WHATWG HTML, section 9.2.6 "Interpreting an event stream"). A line ends with CRLF, LF or CR; an
event ends with a blank line; a line that begins with a colon is a comment. The tracker reads each chunk as it passes,
keeps only the first bytes of an unfinished line, and distinguishes four positions:

- ``inside a line``: the last byte did not end a line;
- ``after CR``: the last byte was a CR, and its LF may follow in the next chunk;
- ``inside an event``: a line other than a comment has passed since the last blank line;
- otherwise the position is *between events*, the only one at which something may be inserted.

So a keepalive is never inside a line, between the lines of an event, or between a CR and its LF. The tracker never
joins, splits or decodes what it sees. `events.EventInspector` is based on it, and does hold an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from streamproxy.formats.bom import BOM
from streamproxy.formats.inspector import Inspector

Shape = Literal["block", "line", "blank", "auto"]

LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_CR: Final = 13
_LF: Final = 10
_PREFIX: Final = 8  # bytes of a line that identify its field, after a byte order mark


class SseTracker(Inspector):
    """Follows an event stream by its chunks.

    ``events`` counts the events that a client dispatches: blocks with a ``data`` field. ``saw_id`` is whether an ``id``
    field has passed, ``id_at`` the number of the event that it was in. ``spoke`` is set by the first event.
    """

    __slots__ = ("_after_cr", "_has_data", "_in_event", "_keep", "_line", "_mid_line", "_start", "_whole", "id_at")

    def __init__(self) -> None:
        Inspector.__init__(self)  # `super` costs more
        self._keep = _PREFIX  # how much of an unfinished line is kept
        self._whole = True  # between events; a byte order mark may only begin a chunk
        self._start = True  # at the start, where a byte order mark may occur
        self._in_event = False
        self._has_data = False
        self._mid_line = False
        self._line = bytearray()
        self._after_cr = False
        self.id_at = 0

    @property
    def between_events(self) -> bool:
        """Whether something may be inserted here without splitting an event."""
        return not (self._mid_line or self._in_event or self._after_cr)

    @property
    def counted(self) -> bool:
        """Whether every event that has begun has ended; only the LF of a CR may still belong to the last one."""
        return not (self._mid_line or self._in_event)

    @property
    def inside_event(self) -> bool:
        """Whether an event has begun, and its blank line has not come."""
        return self._in_event or (self._mid_line and self._line[:1] != b":")

    def feed_to_boundary(self, chunk: bytes) -> int:
        """Follows a chunk up to the first event after the unfinished one. Returns its position.

        The result is 0 between events. It is -1 if no event begins in this chunk or at its end; all of it was fed then.
        """
        if self.between_events or (self._after_cr and self.counted and chunk and chunk[0] != _LF):
            return 0
        at = 0
        for match in LINE_END.finditer(chunk):
            self.feed(chunk[at : match.end()])
            at = match.end()
            # A CR at the very end may still be followed by its LF.
            if self.counted and (not self._after_cr or at < len(chunk)):
                return at
        self.feed(chunk[at:])
        return -1

    def feed_whole(self, chunk: bytes) -> int:
        """Follows a chunk if it is whole events with LF line ends, as nearly every one of an LLM is.

        Returns how many events it is. 0 if it must be parsed, or does not begin between two events; nothing has
        happened then.
        """
        events = count_whole(chunk, self.saw_id) if self._whole else 0
        if events:
            self.passed_over(events)
        return events

    def passed_over(self, events: int) -> None:
        """Takes note of so many whole events, of which another tracker knows that they are no more than that."""
        self.events += events
        self.spoke = True
        self._start = False

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes of the stream."""
        if not self.feed_whole(chunk):
            self.parse(chunk)

    def parse(self, chunk: bytes) -> None:
        """Follows bytes that `feed_whole` has refused."""
        self._feed_lines(chunk)
        self.spoke = self.events > 0
        self._whole = not (self._mid_line or self._in_event or self._after_cr or self._start)

    def _feed_lines(self, chunk: bytes) -> None:
        if not chunk:
            return
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._after_cr = False
            if not chunk:
                return
        *lines, rest = chunk.split(b"\n") if _CR not in chunk else LINE_END.split(chunk)  # faster than the expression
        keep = self._keep
        for line in lines:
            if self._mid_line:
                self._mid_line = False
                self._line += line[: keep - len(self._line)]
                line = bytes(self._line)
                self._line.clear()
            self._end_line(line[:keep])
        self._after_cr = not rest and chunk[-1:] == b"\r"
        if rest:
            if len(self._line) < keep:
                self._line += rest[: keep - len(self._line)]
            self._mid_line = True

    def _end_line(self, line: bytes) -> None:
        if self._start:
            self._start = False
            line = line.removeprefix(BOM)
        if not line:
            self.events += self._has_data
            self._in_event = self._has_data = False
        elif line[:1] != b":":
            self._in_event = True
            name = line.partition(b":")[0]
            if name == b"data":
                self._has_data = True
            elif name == b"id" and not self.saw_id:
                self.saw_id = True
                self.id_at = self.events + 1


def blocks_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the beginning and end of each block of lines, including its blank line; an unfinished one is left out.

    A CR at the very end counts as a line end. An LF that follows it forms a block of its own without content.
    """
    begin = line = 0
    for match in LINE_END.finditer(data):
        end = match.end()
        if match.start() == line:
            yield begin, end
            begin = end
        line = end


def count_whole(chunk: bytes, ids: bool = True) -> int:
    """`whole_events` of any chunk that begins between two events: 0 as well if it has other line ends, or ends inside.

    Searching for an integer is faster than ``find`` or ``in`` with bytes on CPython 3.11.
    """
    return whole_events(chunk, ids) if chunk[-2:] == b"\n\n" and _CR not in chunk else 0


def whole_events(chunk: bytes, ids: bool = False) -> int:
    """Returns the number of events in a chunk of whole blocks with LF line ends, or 0 if the chunk must be parsed.

    It must be parsed if a block has no data, or has other lines than data and the event's name, or with ``ids`` its id.
    """
    if chunk[:5] == b"data:":  # one line of data, and with ``ids`` one more, are told without a list
        lines = chunk[:-2]
        if _LF not in lines:
            return 1
        if ids:
            second = lines.partition(b"\n")[2]
            if second[:3] == b"id:" and _LF not in second:
                return 1
        events = _one_line_events(chunk)
        if events:
            return events
    blocks = chunk.split(b"\n\n")
    blocks.pop()
    for block in blocks:
        if (block[:5] != b"data:" or _LF in block) and not _is_plain(block, ids):
            return 0
    return len(blocks)


def _one_line_events(chunk: bytes) -> int:
    """Returns the number of events in a chunk of whole blocks, or 0 if some are not a single line of data.

    One byte is searched for faster than two.
    """
    lines = chunk.split(b"\n")
    for at in range(0, len(lines) - 1, 2):
        if lines[at][:5] != b"data:" or lines[at + 1]:
            return 0
    return len(lines) // 2


def _is_plain(block: bytes, ids: bool) -> bool:
    has_data = False
    for line in block.split(b"\n"):
        if line[:5] == b"data:":
            has_data = True
        elif line[:6] != b"event:" and not (ids and line[:3] == b"id:"):
            return False
    return has_data


class KeepaliveShape:
    """The bytes of a keepalive, depending on the stream's state.

    ``block`` is a comment and a blank line, ``line`` only the comment, ``blank`` an empty line. ``auto`` sends a block
    until the stream has carried an ``id``, and afterwards only the comment: after an id, clients that dispatch on every
    blank line would take a block for an event without data.
    """

    __slots__ = ("_after_id", "_before_id", "auto")

    def __init__(self, comment: str, shape: Shape) -> None:
        self.auto = shape == "auto"
        line = b": " + comment.encode() + b"\n"
        shapes = {"block": line + b"\n", "line": line, "blank": b"\n"}
        self._before_id = shapes["block" if shape == "auto" else shape]
        self._after_id = shapes["line" if shape == "auto" else shape]

    def render(self, saw_id: bool) -> bytes:
        """Returns the bytes to insert."""
        return self._after_id if saw_id else self._before_id
