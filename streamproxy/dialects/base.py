"""What a route's ``protocol`` decides: how errors are said, and what is understood of the bodies that pass."""

from __future__ import annotations

from typing import NamedTuple

from streamproxy.errors import ExchangeError
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.sse import Shape
from streamproxy.wire.headers import Headers


class RequestHints(NamedTuple):
    """What a request's JSON body says at its top level; None for what it does not say."""

    model: str | None = None
    stream: bool | None = None


class Dialect:
    """The ``http`` protocol is the base: problem+json, and nothing understood beyond the formats of streams."""

    name = "http"
    keepalive: Shape = "auto"  # what ``shape: auto`` means: a shape, or itself for the rule of plain event streams

    def error(self, error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
        """The fields and the body of the response that tells a client of ``error``."""
        raise NotImplementedError

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """The event that tells a client of ``error`` inside a stream that has begun."""
        raise NotImplementedError

    def inspector(self, status: int, media: bytes) -> Inspector | None:
        """What follows the body of a response of this media type; None for a body that has no events.

        Only asked for bodies without a content coding.
        """
        raise NotImplementedError
