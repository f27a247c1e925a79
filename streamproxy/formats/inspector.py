"""The base class of inspectors, which observe a response body without changing it.

An inspector is fed each chunk as it passes and holds no more than one unfinished event. It reports the position in the
stream: whether something may be inserted, how many events have passed and, for the formats of LLM APIs, what the stream
reported about itself.
"""

from __future__ import annotations

from typing import NamedTuple

from streamproxy.errors import ExchangeError
from streamproxy.subclassing import mypyc_attr


class Usage(NamedTuple):
    """The tokens of one exchange, as reported by its API; None for a number that was not reported.

    ``input`` includes tokens read from and written to a cache, ``output`` includes reasoning.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Inspector:
    """Observes one response body. Subclasses override what their format defines.

    ``events`` counts the events that a client would dispatch: blocks with a ``data`` field, or lines. ``saw_id`` is
    whether an ``id`` field has passed. ``spoke`` is set by the first event with content (`timeouts.first_event`).
    ``failure`` is an error that the stream itself reported; it does not count as content. ``model``, ``finish_reason``
    and ``usage`` are what the stream reported about itself, if anything. ``provider`` and ``operation`` are the names
    of OpenTelemetry's GenAI conventions for a recognised API, and empty for any other body. ``changes`` is another
    number whenever one of these may have changed, so that they need not be read after each chunk.
    """

    __slots__ = (
        "changes",
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
        self.changes = 0
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
        """Whether something may be inserted here without splitting an event."""
        return False

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes of the body."""

    def finish(self) -> ExchangeError | None:
        """Handles the normal end of the body. Returns an error if the body is incomplete: its end marker is missing."""
        return None
