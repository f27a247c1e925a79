r"""Inspectors that read the events of a stream: the data of server-sent events, and lines of newline-delimited JSON.

Theory of operation. An inspector either *listens* or not. If it does not, it costs no more than the tracker it is based
on. If it listens, it receives every event, except for chunks of whole events in which ``skips`` finds nothing relevant.
An unfinished event is held up to `LIMIT` bytes; a longer one is not read and sets ``unread``. Apart from skipped
events, the result does not depend on how the bytes were split into chunks.

The events of a model differ in one piece of text, nearly always. So a subclass may say where the text of an event is in
which nothing was relevant (`pass_texts`). What is around that text is kept, and an event with other text between the
same bytes is counted without a further look: nothing else costs less than comparing two strings.

At the end of the stream, an event or line without its terminator is read like a complete one, but not counted: many
servers omit the last line end, and the end marker has arrived all the same.
"""

from __future__ import annotations

from typing import Final

from streamproxy.errors import ExchangeError
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import SseTracker, whole_events

LIMIT: Final = 1 << 20
_MANY: Final = 1024  # bytes from which a chunk may hold several events
_CR: Final = 13
_LF: Final = 10
_QUOTE: Final = 34
_FIELD: Final = 16  # more than a byte order mark and "data: "


class EventInspector(SseTracker):
    """Passes the data of each server-sent event to ``on_event``."""

    __slots__ = ("_before", "_behind", "_data", "_size", "listening", "unread")

    def __init__(self) -> None:
        super().__init__()
        self.listening = True
        self.unread = False
        self._before = b""  # what is before the text of an event to be passed over, or empty
        self._behind = b""  # and behind it, with the blank line
        self._keep = LIMIT + _FIELD  # more than the longest line that is read
        self._data: list[bytes] = []
        self._size = 0

    def on_event(self, data: bytes) -> None:
        """Called at the end of each event with its ``data`` lines, joined by LF."""
        raise NotImplementedError

    def skips(self, chunk: bytes) -> bool:
        """Whether nothing in these whole events is relevant. Called while listening."""
        return False

    def on_skipped(self, event: bytes) -> None:
        """Called with each chunk that is a single event, with its blank line, and that ``skips`` has passed over."""

    def pass_texts(self, event: bytes, begin: int, end: int) -> None:
        """Passes over events that differ from this one in what is from ``begin`` to ``end``, inside a JSON string.

        ``event`` includes its blank line. It must have been listened to, and nothing in it may be relevant again.
        """
        self._before, self._behind = event[:begin], event[end:]

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes of the stream."""
        if self._before and self._whole and self._has_other_text(chunk, self._behind):
            self.events += 1
        elif _CR in chunk:
            self._feed_any(chunk)
        elif self._whole and chunk[-2:] == b"\n\n":
            self._feed_whole(chunk)
        elif len(chunk) < _MANY:
            self._feed_any(chunk)
        else:
            self._feed_cut(chunk)

    def _feed_whole(self, chunk: bytes) -> None:
        events = whole_events(chunk) if len(chunk) <= LIMIT else 0
        if not events:
            self._feed_any(chunk)
            return
        self.events += events
        self._start = False
        if not self.listening:
            self.spoke = True
        elif not self.skips(chunk):
            self._read_blocks(chunk)
        elif events == 1:
            self.on_skipped(chunk)

    def _has_other_text(self, event: bytes, behind: bytes) -> bool:
        """Whether an event is one of those of `pass_texts`, where ``behind`` is what is behind the text."""
        before = self._before
        begin, end = len(before), len(event) - len(behind)
        if begin > end or len(event) > LIMIT or not event.startswith(before) or not event.endswith(behind):
            return False
        text = event[begin:end]
        # It ends in the same string. A line end, which strings in JSON do not have, could begin another line or event.
        return _QUOTE not in text and _LF not in text and _CR not in text and not text.endswith(b"\\")

    def _feed_cut(self, chunk: bytes) -> None:
        """Splits a chunk of many events, of which only the first and the last may be unfinished."""
        begin = 0
        if not self._whole:
            begin = chunk.find(b"\n\n") + 2
            if begin < 2:
                begin = len(chunk)
            self._feed_any(chunk[:begin])
        end = chunk.rfind(b"\n\n", begin) + 2
        if end > begin and self._whole:
            self._feed_whole(chunk[begin:end])
            begin = end
        self._feed_any(chunk[begin:])

    def _feed_any(self, chunk: bytes) -> None:
        self._feed_lines(chunk)
        self._whole = not (self._mid_line or self._in_event or self._after_cr or self._start)

    def finish(self) -> ExchangeError | None:
        """Handles the end of the stream."""
        if self.listening:
            if self._line:
                self._end_line(bytes(self._line))
                self._line.clear()
            self._end_event()
        return None

    def deafen(self) -> None:
        """Stops listening, and drops what is held."""
        self.listening = False
        self._keep = 8  # enough for the name of a field
        self._data.clear()
        self._before = b""

    def _read_blocks(self, chunk: bytes) -> None:
        behind = self._behind[:-2]
        for block in chunk[:-2].split(b"\n\n"):
            if not self.listening:
                return
            if self._before and self._has_other_text(block, behind):
                continue
            if block[:5] == b"data:" and _LF not in block:
                self.on_event(block[6:] if block[5:6] == b" " else block[5:])
            else:
                for line in block.split(b"\n"):
                    self._add_field(line)
                self._end_event()

    def _end_line(self, line: bytes) -> None:
        if self._start:
            self._start = False  # only the first mark is one
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            self._end_event()
        elif self.listening:
            self._add_field(line)
        super()._end_line(line)

    def _add_field(self, line: bytes) -> None:
        if line[:5] == b"data:":
            value = line[6:] if line[5:6] == b" " else line[5:]
        elif line == b"data":
            value = b""
        else:
            return
        self._size += len(value) + (1 if self._data else 0)
        if self._size <= LIMIT or not self._data:
            self._data.append(value)

    def _end_event(self) -> None:
        if not self.listening:
            return
        data, size = self._data, self._size
        if not data:
            return
        self._data = []
        self._size = 0
        if size > LIMIT:
            self.unread = True
            self.spoke = True
            self.changes += 1
        else:
            self.on_event(data[0] if len(data) == 1 else b"\n".join(data))


class LineInspector(LineCounter):
    """Passes each line of newline-delimited JSON to ``on_line``."""

    __slots__ = ("_line", "listening", "unread")

    def __init__(self) -> None:
        super().__init__()
        self.listening = True
        self.unread = False
        self._line = bytearray()

    def on_line(self, line: bytes) -> None:
        """Called at the end of each line that is not blank."""
        raise NotImplementedError

    def skips(self, chunk: bytes) -> bool:
        """Whether nothing in these whole lines is relevant. Called while listening."""
        return False

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes of the stream."""
        if not self.listening:
            super().feed(chunk)
            return
        if not chunk:
            return
        self.events += chunk.count(b"\n")
        self._mid_line = chunk[-1:] != b"\n"
        if self._line or self._mid_line or len(chunk) > LIMIT or not self.skips(chunk):
            self._read_lines(chunk)

    def finish(self) -> ExchangeError | None:
        """Handles the end of the stream."""
        if self.listening:
            self._end_line(b"")
        return super().finish()

    def deafen(self) -> None:
        """Stops listening, and drops what is held."""
        self.listening = False
        self._line.clear()

    def _read_lines(self, chunk: bytes) -> None:
        lines = chunk.split(b"\n")
        rest = lines.pop()
        for line in lines:
            self._end_line(line)
        if self.listening:
            self._line += rest[: LIMIT + 1 - len(self._line)]

    def _end_line(self, line: bytes) -> None:
        if self._line:
            self._line += line[: LIMIT + 1 - len(self._line)]
            line = bytes(self._line)
            self._line.clear()
        if not self.listening or not line or line.isspace():
            return
        if len(line) > LIMIT:
            self.unread = True
            self.spoke = True
            self.changes += 1
        else:
            self.on_line(line)
