"""OpenAI's APIs and those that imitate them: chat and text completions, Responses, embeddings."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.base import Dialect
from streamproxy.dialects.llm import LlmDialect, reported_object
from streamproxy.dialects.reading.values import encode
from streamproxy.errors import ExchangeError

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIDialect(LlmDialect):
    """The SDKs choose their exception by the status, and show ``code``: the name that the error has in the log."""

    name = "openai"

    def for_path(self, path: bytes) -> Dialect:
        """The dialect of the Responses API for its path, or this one."""
        return RESPONSES if path.endswith(b"/responses") else self

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
        return {"error": {"message": error.detail, "type": kind, "param": None, "code": error.code or error.error}}

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """An event that the SDKs of chat and completions raise."""
        return nested_error_event(error)


class ResponsesDialect(OpenAIDialect):
    """The Responses API. Some clients check the form of each event, so an error has every member that it must have."""

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """An event that OpenAI's own SDKs raise for its ``error``, and others for what the documentation names."""
        said = {"code": None, "param": None} | _said(error)
        event = {**said, "type": "error", "sequence_number": 0, "error": said}
        return b"event: error\ndata: " + encode(event) + b"\n\n"


RESPONSES: Final = ResponsesDialect()


def nested_error_event(error: ExchangeError) -> bytes:
    """The error event that OpenAI's and Anthropic's SDKs raise."""
    return b"event: error\ndata: " + encode({"type": "error", "error": _said(error)}) + b"\n\n"


def _said(error: ExchangeError) -> dict[str, Any]:
    return reported_object(error) or {"type": "api_error", "code": error.error, "message": error.detail}
