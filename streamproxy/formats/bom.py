"""Removes the byte order mark of a stream to which the proxy has already sent something.

A byte order mark has a meaning only at the very start of a stream (WHATWG HTML, section 9.2.6, "Interpreting an event
stream"). Anywhere else it becomes part of a line, whose field name is then unknown; a line of JSON is not JSON with one
(RFC 8259 section 8.1). So a mark that would follow a keepalive is removed.
"""

from __future__ import annotations

from typing import Final

BOM: Final = b"\xef\xbb\xbf"


class BomFilter:
    """Removes one byte order mark from the beginning of a body. ``done`` means that the rest passes unchanged."""

    __slots__ = ("_held", "done")

    def __init__(self) -> None:
        self._held = b""  # at most two bytes that may begin a mark
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """Returns the part of the body so far that may be forwarded."""
        if self.done:
            return chunk
        begun = self._held + chunk
        if len(begun) < len(BOM) and BOM.startswith(begun):
            self._held = begun
            return b""
        self._held = b""
        self.done = True
        return begun.removeprefix(BOM)

    def finish(self) -> bytes:
        """Returns the bytes held when the body ended, which were not a mark."""
        held, self._held = self._held, b""
        self.done = True
        return held
