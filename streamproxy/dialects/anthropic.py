"""Anthropic's Messages API."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.llm import LlmDialect
from streamproxy.dialects.openai import nested_error_event
from streamproxy.errors import ExchangeError
from streamproxy.wire.headers import Headers

# https://docs.anthropic.com/en/api/errors
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class AnthropicDialect(LlmDialect):
    """The SDKs choose their exception by the status, and show the ``type``."""

    name = "anthropic"

    def error(self, error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
        """As for every API, and the field in which Anthropic's SDKs look for the request's id."""
        fields, body = super().error(error, request_id)
        return [*fields, (b"request-id", request_id.encode())], body

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """Anthropic's error object."""
        kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.detail}, "request_id": request_id}

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """An event that the SDKs raise."""
        return nested_error_event(error)
