"""Tracks newline-delimited JSON: how many lines have passed, and whether a line has begun.

A keepalive in such a stream is a single space at the start of a line. JSON allows white space before a value, while an
empty line would be a line without a value.
"""

from __future__ import annotations

from typing import Final

from streamproxy.errors import ExchangeError
from streamproxy.formats.inspector import Inspector

KEEPALIVE: Final = b" "


class LineCounter(Inspector):
    """Counts the lines of a newline-delimited JSON stream; ``finish`` counts a last line without its line end."""

    __slots__ = ("_blank", "_mid_line")

    def __init__(self) -> None:
        super().__init__()
        self._mid_line = False
        self._blank = True  # only white space since the start of the line

    @property
    def between_events(self) -> bool:
        """Whether the next byte begins a line, so that white space may be inserted."""
        return not self._mid_line

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes of the stream."""
        if chunk:
            self.events += chunk.count(b"\n")
            self._mid_line = chunk[-1:] != b"\n"
            if not self.spoke:
                self._listen(chunk)

    def finish(self) -> ExchangeError | None:
        """Handles the end of the stream."""
        self.events += self._mid_line
        self._mid_line = False
        return None

    def _listen(self, chunk: bytes) -> None:
        """A whole line that is not blank counts as content."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        for line in lines:
            self.spoke = self.spoke or not self._blank or bool(line.strip())
            self._blank = True
        self._blank = self._blank and not rest.strip()
