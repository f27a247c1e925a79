"""Gemini's API."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.llm import LlmDialect, reported_object
from streamproxy.dialects.reading.values import encode
from streamproxy.errors import ExchangeError
from streamproxy.formats.sse import Shape

# The mapping of google.rpc.Code to HTTP, read from the HTTP side.
_STATUSES: Final = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    504: "DEADLINE_EXCEEDED",
}


class GeminiDialect(LlmDialect):
    """Google's SDK chooses its exception by the status; inside a stream it knows an error by its first bytes."""

    name = "gemini"
    keepalive: Shape = "blank"

    def asks_for_stream(self, path: bytes, query: bytes | None, stream: bool | None) -> bool:
        """Whether the target is that of a stream of events; the body does not say it."""
        return path.endswith(b":streamGenerateContent") and query is not None and b"alt=sse" in query.split(b"&")

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """Google's error object."""
        status = _STATUSES.get(error.status, "INVALID_ARGUMENT" if error.status < 500 else "UNAVAILABLE")
        return {"error": {"code": error.status, "status": status, "message": error.detail}}

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """An event that the SDK raises."""
        said = reported_object(error)
        return b"data: " + encode({"error": said} if said else self.describe(error, request_id)) + b"\n\n"
