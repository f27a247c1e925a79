"""Writes cursors into an event stream as the ``id`` of each event that has none (`ids: on`).

Theory of operation (WHATWG HTML, section 9.2.6). An event ends with a blank line, and its ``id`` field may be anywhere
in the event. So the id is written as the last line of the event, before the blank line, because only then is it known
that the event has data and no id of its own. No data is held back for this. The line ends with LF, which is always a
line end, even if the other lines end with CR. Once the upstream has written an id, no more ids are added.
"""

from __future__ import annotations

from typing import Final

from streamproxy.formats.bom import BOM
from streamproxy.formats.sse import LINE_END, count_whole

_PREFIX: Final = 8  # bytes; enough of a line to know the name of its field, after a byte order mark


class IdWriter:
    """A filter for the chunks of one event stream, starting after ``events`` events.

    ``whole`` is how many events the last chunk was, if all it took was to count them: whole ones, beginning between two
    events, each of which was given an id. Otherwise it is 0.
    """

    __slots__ = ("_after_cr", "_has_data", "_line", "_prefix", "_start", "_stopped", "_within", "events", "whole")

    def __init__(self, stream: str, events: int, stopped: bool = False) -> None:
        self.events = events
        self._prefix = b"id: " + stream.encode() + b"/"
        self._stopped = stopped
        self._start = events == 0  # a byte order mark may follow
        self._within = False  # inside an event, or inside a line
        self._has_data = False
        self._line = b""
        self._after_cr = False
        self.whole = 0

    def feed(self, chunk: bytes) -> bytes:
        """Returns the chunk, with ids for the events that end in it."""
        self.whole = 0
        if self._stopped or not chunk:
            return chunk
        if not (self._within or self._after_cr or self._start):
            self.whole = count = count_whole(chunk, False)
            if count == 1:
                self.events += 1
                # A format costs twice as much.
                return b"".join((chunk[:-1], self._prefix, str(self.events).encode(), b"\n\n"))
            if count:
                return self._mark_blocks(chunk)
        return self._mark_lines(chunk)

    def _mark_blocks(self, chunk: bytes) -> bytes:
        out = []
        for block in chunk[:-2].split(b"\n\n"):
            self.events += 1
            out.append(b"%b\n%b%d\n\n" % (block, self._prefix, self.events))
        return b"".join(out)

    def _mark_lines(self, chunk: bytes) -> bytes:
        out, copied, at = [], 0, 0
        if self._after_cr and chunk[:1] == b"\n":
            at = 1
        self._after_cr = False
        for match in LINE_END.finditer(chunk, at):
            line = (self._line + chunk[at : match.start()][:_PREFIX])[: 2 * _PREFIX]
            if not self._end_line(line):
                out += [chunk[copied : match.start()], b"%b%d\n" % (self._prefix, self.events)]
                copied = match.start()
            at = match.end()
            self._line = b""
            if self._stopped:
                return b"".join([*out, chunk[copied:]])
        self._after_cr = at == len(chunk) and chunk[-1:] == b"\r"
        if len(self._line) < _PREFIX:
            self._line += chunk[at : at + _PREFIX]
        self._within = self._within or bool(self._line)
        return b"".join([*out, chunk[copied:]]) if out else chunk

    def _end_line(self, line: bytes) -> bool:
        """Returns False if an id must be written before the end of this line, which is blank."""
        if self._start:
            self._start = False
            line = line.removeprefix(BOM)
        self._within = True
        if line:
            name = line.partition(b":")[0]
            self._has_data = self._has_data or name == b"data"
            self._stopped = name == b"id"
            return True
        has_data, self._has_data, self._within = self._has_data, False, False
        self.events += has_data
        return not has_data
