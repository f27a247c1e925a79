"""Inspectors that keep what they are given."""

from __future__ import annotations

from streamproxy.formats.events import EventInspector, LineInspector


class Events(EventInspector):
    """Keeps what it is given; passes over chunks of whole events that have no ``!``, when told to."""

    def __init__(self, lazy: bool = False) -> None:
        super().__init__()
        self.seen: list[bytes] = []
        self.lazy = lazy

    def on_event(self, data: bytes) -> None:
        self.seen.append(data)

    def skips(self, chunk: bytes) -> bool:
        return self.lazy and b"!" not in chunk


class Lines(LineInspector):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def on_line(self, line: bytes) -> None:
        self.seen.append(line)
