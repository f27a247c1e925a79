"""The byte order mark of an event stream that something was sent before.

A byte order mark counts only at the very start of a stream (WHATWG HTML, section 9.2.6, "Interpreting an event
stream"). Anywhere else it is a part of a line, whose field has an unknown name then. So one that comes after a
keepalive is taken out.
"""

from __future__ import annotations

from typing import Final

_MARK: Final = b"\xef\xbb\xbf"


class BomFilter:
    """Takes one byte order mark off the beginning of a body. ``done`` says that the rest passes as it is."""

    __slots__ = ("_held", "done")

    def __init__(self) -> None:
        self._held = b""  # at most two bytes that may begin a mark
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """What of the body so far may go on."""
        if self.done:
            return chunk
        begun = self._held + chunk
        if len(begun) < len(_MARK) and _MARK.startswith(begun):
            self._held = begun
            return b""
        self._held = b""
        self.done = True
        return begun.removeprefix(_MARK)

    def finish(self) -> bytes:
        """What was held when the body ended: it was no mark."""
        held, self._held = self._held, b""
        self.done = True
        return held
