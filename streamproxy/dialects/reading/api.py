"""The base of what is known of one API's streams."""

from __future__ import annotations

from typing import Any

from streamproxy.formats.inspector import Inspector


class ApiStream:
    """What one stream of an API has said, and how it is read. There is one object a stream.

    ``ended`` says that the stream's end marker has come. ``provider`` and ``operation`` are names of OpenTelemetry's
    GenAI conventions.
    """

    __slots__ = ("ended", "operation", "provider")

    def __init__(self, provider: str, operation: str) -> None:
        self.provider = provider
        self.operation = operation
        self.ended = False

    def skips(self, chunk: bytes) -> bool:
        """Whether these bytes hold no more than another piece of text. They are whole events, of a stream that spoke.

        A wrong no costs the time of a decode, a wrong yes loses what the event said.
        """
        return False

    def text_in(self, event: bytes) -> tuple[int, int] | None:
        """Where the one text is in which the events of this stream differ, without its quotes; None for nowhere.

        Only asked of an event that said no more than its text.
        """
        return None

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """Note what an event says, in ``ended`` and in the inspector."""
        raise NotImplementedError

    def read_other(self, data: bytes) -> None:
        """Note an event whose data is no JSON object."""
