"""What passes inside a response, seen and never changed: the base of every inspector.

An inspector is fed each chunk as it goes by. It keeps no more than an unfinished event, and it says where the stream
stands: whether something may be inserted here, how many events have gone by, and, for the formats of LLM APIs, what
the stream has said of itself.
"""

from __future__ import annotations

from typing import NamedTuple

from streamproxy.errors import ExchangeError


class Usage(NamedTuple):
    """Tokens of one exchange, as its API reported them; None for a number that it did not report.

    ``input`` holds what was read from a cache and written to it too, ``output`` holds reasoning.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


class Inspector:
    """Follows one response body. Subclasses override what they know better.

    ``events`` counts what a client would dispatch: blocks with a ``data`` field, or lines. ``saw_id`` says whether an
    ``id`` field has gone by. ``spoke`` is set by the first event that says something (`timeouts.first_event`).
    ``failure`` is what the stream itself reported; it never counts as speaking. ``model``, ``finish_reason`` and
    ``usage`` are what the stream said of itself, if anything. ``provider`` and ``operation`` are the names that
    OpenTelemetry's GenAI conventions have for a recognised API; they are empty for any other body.
    """

    __slots__ = (
        "events",
        "failure",
        "finish_reason",
        "model",
        "operation",
        "provider",
        "saw_id",
        "spoke",
        "usage",
    )

    def __init__(self) -> None:
        self.events = 0
        self.saw_id = False
        self.spoke = False
        self.failure: ExchangeError | None = None
        self.model = ""
        self.finish_reason = ""
        self.usage: Usage | None = None
        self.provider = ""
        self.operation = ""

    @property
    def between_events(self) -> bool:
        """Whether something may be inserted here without touching an event."""
        return False

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes of the body."""

    def finish(self) -> ExchangeError | None:
        """The body has ended in good order. Returns why it is incomplete all the same: its end marker is missing."""
        return None
