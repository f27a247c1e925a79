"""OpenAI's APIs and those that imitate them: chat and text completions, Responses, embeddings."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.llm import LlmDialect, reported_object
from streamproxy.dialects.reading.values import encode
from streamproxy.errors import ExchangeError

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIDialect(LlmDialect):
    """The SDKs choose their exception by the status, and show ``code``: the name that the error has in the log."""

    name = "openai"

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
        return {"error": {"message": error.detail, "type": kind, "param": None, "code": error.code or error.error}}

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """An event that the SDKs of chat, completions and Responses raise."""
        return nested_error_event(error)


def nested_error_event(error: ExchangeError) -> bytes:
    """The error event that OpenAI's and Anthropic's SDKs raise."""
    said = reported_object(error) or {"type": "api_error", "code": error.error, "message": error.detail}
    return b"event: error\ndata: " + encode({"type": "error", "error": said}) + b"\n\n"
