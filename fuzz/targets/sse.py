"""Server-sent events. The oracle is the algorithm of the WHATWG, over the whole stream at once."""

from __future__ import annotations

import re

from fuzz.reads import bytes_of, reads_of
from streamproxy.formats.bom import BomFilter
from streamproxy.formats.sse import SseTracker, blocks_of
from tests.unit.formats.seen import Events

DICTIONARY = (
    b"data: ",
    b"data",
    b"id: 1\n",
    b"event: x\n",
    b": c\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\r\r",
    b"\xef\xbb\xbf",
    b"retry: 1",
)
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_LONGEST_TRIED = 200  # bytes of a stream whose every position is tried


class Reading:
    """A stream as a client reads it: the data of the events that are dispatched, and of the unfinished one."""

    def __init__(self, stream: bytes) -> None:
        self.events: list[bytes] = []
        self.unfinished: bytes | None = None
        self.saw_id = False
        *lines, rest = _LINE_END.split(stream.removeprefix(_BOM))
        self.in_event = False
        data: list[bytes] = []
        for line in lines:
            if not line:
                if data:
                    self.events.append(b"\n".join(data))
                data, self.in_event = [], False
                continue
            self._field(line, data)
        # Of an unfinished line only the bytes so far are known, of a mark at the very start too.
        self.mid_line = bool(rest) or (stream == _BOM)
        if rest:
            in_event, saw_id = self.in_event, self.saw_id
            self._field(rest, data)
            self.in_event, self.saw_id = in_event, saw_id
        self.unfinished = b"\n".join(data) if data else None

    def _field(self, line: bytes, data: list[bytes]) -> None:
        name, colon, value = line.partition(b":")
        if colon and not name:
            return  # a comment
        self.in_event = True
        if name == b"data":
            data.append(value.removeprefix(b" "))
        self.saw_id = self.saw_id or name == b"id"


def check(data: bytes) -> None:
    expected = Reading(data)
    heard = expected.events + ([expected.unfinished] if expected.unfinished is not None else [])
    for reads in ([data], reads_of(data), *([bytes_of(data)] if len(data) <= _LONGEST_TRIED else [])):
        tracker, listener, deaf = SseTracker(), Events(), Events()
        deaf.deafen()
        for read in reads:
            for one in (tracker, listener, deaf):
                one.feed(read)
        between = not expected.mid_line and not expected.in_event and not data.endswith(b"\r")
        for one in (tracker, listener, deaf):
            assert one.events == len(expected.events), (reads, one.events, expected.events)
            assert one.saw_id == expected.saw_id, reads
            assert one.between_events == between, reads
        listener.finish()
        assert listener.seen == heard, (reads, listener.seen, heard)
    if len(data) <= _LONGEST_TRIED:
        check_places(data)
    check_mark(data)


def check_places(data: bytes) -> None:
    """Where the first event after an unfinished one begins, and the blocks of a text."""
    reads = reads_of(data)
    if len(reads) > 1:
        before, chunk = reads[0], b"".join(reads[1:])
        tracker = SseTracker()
        tracker.feed(before)
        boundary = tracker.feed_to_boundary(chunk)
        assert boundary == first_boundary(before, chunk)
        tracker.feed(chunk[boundary:] if boundary >= 0 else b"")
        assert tracker.events == len(Reading(data).events)
    blocks = list(blocks_of(data))
    assert b"".join(data[begin:end] for begin, end in blocks) == data[: blocks[-1][1] if blocks else 0]


def first_boundary(before: bytes, chunk: bytes) -> int:
    """The same by trying each position."""
    for at in range(len(chunk) + 1):
        begun = before + chunk[:at]
        reading = Reading(begun)
        cut = begun.endswith(b"\r") and chunk[at : at + 1] in (b"", b"\n")
        if not (reading.mid_line or reading.in_event or cut):
            return at
    return -1


def check_mark(data: bytes) -> None:
    mark = BomFilter()
    passed = b"".join(mark.feed(read) for read in reads_of(data)) + mark.finish()
    assert passed == data.removeprefix(_BOM)
