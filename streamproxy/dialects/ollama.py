"""Ollama's own API."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.llm import LlmDialect, reported_object
from streamproxy.dialects.openai import nested_error_event
from streamproxy.dialects.reading.values import encode
from streamproxy.errors import ExchangeError
from streamproxy.wire.media import EVENT_STREAM, NDJSON

_LINES: Final = (b"/api/chat", b"/api/generate")


class OllamaDialect(LlmDialect):
    """The SDKs raise what stands under ``error``, in a response or in a line."""

    name = "ollama"

    def asks_for_events(self, path: bytes, query: bytes | None, stream: bool | None) -> bool:
        """Whether the body asks for a stream in the API that imitates OpenAI's; its own streams are lines."""
        return stream is True and not path.endswith(_LINES)

    def describe(self, error: ExchangeError, request_id: str) -> dict[str, Any]:
        """Ollama's error object."""
        said = reported_object(error).get("message")
        return {"error": said if isinstance(said, str) else error.detail}

    def stream_error(self, error: ExchangeError, request_id: str, media: bytes) -> bytes:
        """A line; in an event stream, which is one of its API that imitates OpenAI's, an event of that."""
        if media == EVENT_STREAM:
            return nested_error_event(error)
        return self.error_event(error, request_id) if media in NDJSON else b""

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """A line that the SDKs raise."""
        return encode(self.describe(error, request_id)) + b"\n"
