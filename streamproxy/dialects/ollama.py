"""Ollama's own API."""

from __future__ import annotations

from typing import Any

from streamproxy.dialects.llm import LlmDialect, reported_object
from streamproxy.dialects.reading.values import encode
from streamproxy.errors import ExchangeError


class OllamaDialect(LlmDialect):
    """The SDKs raise what stands under ``error``, in a response or in a line."""

    name = "ollama"

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """Ollama's error object."""
        said = reported_object(error).get("message")
        return {"error": said if isinstance(said, str) else error.detail}

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """A line that the SDKs raise."""
        return encode(self.describe(error, request_id)) + b"\n"
