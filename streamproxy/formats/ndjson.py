"""Where a newline-delimited JSON stream stands."""

from __future__ import annotations


class LineCounter:
    """Counts the lines of a newline-delimited JSON stream; ``finish`` counts a last one without its line end."""

    __slots__ = ("_mid_line", "events")

    def __init__(self) -> None:
        self.events = 0
        self._mid_line = False

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes of the stream."""
        if chunk:
            self.events += chunk.count(b"\n")
            self._mid_line = chunk[-1:] != b"\n"

    def finish(self) -> None:
        """The stream has ended."""
        self.events += self._mid_line
        self._mid_line = False
