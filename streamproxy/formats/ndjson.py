"""Where a newline-delimited JSON stream stands."""

from __future__ import annotations

from streamproxy.errors import ExchangeError
from streamproxy.formats.inspector import Inspector


class LineCounter(Inspector):
    """Counts the lines of a newline-delimited JSON stream; ``finish`` counts a last one without its line end."""

    __slots__ = ("_mid_line",)

    def __init__(self) -> None:
        super().__init__()
        self._mid_line = False

    def feed(self, chunk: bytes) -> None:
        if chunk:
            self.events += chunk.count(b"\n")
            self._mid_line = chunk[-1:] != b"\n"

    @property
    def between_events(self) -> bool:
        return not self._mid_line

    def finish(self) -> ExchangeError | None:
        self.events += self._mid_line
        self._mid_line = False
        return None
