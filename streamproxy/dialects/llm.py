"""What the dialects of LLM APIs have in common: inspectors, and errors in a JSON object."""

from __future__ import annotations

from typing import Any

from streamproxy.dialects.base import Dialect
from streamproxy.dialects.http import error_fields
from streamproxy.dialects.reading.failure import error_object
from streamproxy.dialects.reading.values import encode
from streamproxy.dialects.stream import LlmAnswer, LlmEvents, LlmLines
from streamproxy.errors import ExchangeError, UpstreamReportedError
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import SseTracker
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import EVENT_STREAM, NDJSON

_JSON = b"application/json"


class LlmDialect(Dialect):
    """The base of the dialects that have an error object of their own."""

    reads_answers = True

    def asks_for_stream(self, path: bytes, query: bytes | None, stream: bool | None) -> bool:
        """Whether the body says ``"stream": true``."""
        return stream is True

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """The whole JSON object that tells of an error before the head."""
        raise NotImplementedError

    def error(self, error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
        """The fields and the body of the response that tells a client of ``error``.

        What an upstream has reported inside its stream goes out as the upstream said it.
        """
        reported = error.payload if isinstance(error, UpstreamReportedError) else b""
        body = reported or encode(self.describe(error, request_id))
        return error_fields(error, request_id, _JSON, len(body)), body

    def inspector(self, status: int, media: bytes, has_length: bool = False) -> Inspector | None:
        """What follows the body of a response; None for a body that says nothing.

        ``media`` is a bare media type in lower case. ``has_length``: the response has a Content-Length.
        """
        if media == EVENT_STREAM:
            return LlmEvents(self.name, has_length) if status == 200 else SseTracker()
        if media in NDJSON:
            return LlmLines(has_length) if status == 200 else LineCounter()
        if media == _JSON and 200 <= status < 300:
            return LlmAnswer()
        return None


def reported_object(error: ExchangeError) -> dict[str, Any]:
    """The error object that the upstream reported; empty for an error that it did not report."""
    return error_object(error.payload) if isinstance(error, UpstreamReportedError) else {}
