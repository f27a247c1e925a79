"""The dialect of a route that serves several APIs: by the path for errors, by what comes for the rest."""

from __future__ import annotations

from typing import Final

from streamproxy.dialects.anthropic import AnthropicDialect
from streamproxy.dialects.base import Dialect
from streamproxy.dialects.gemini import GeminiDialect
from streamproxy.dialects.http import HTTP
from streamproxy.dialects.llm import LlmDialect
from streamproxy.dialects.ollama import OllamaDialect
from streamproxy.dialects.openai import RESPONSES, OpenAIDialect
from streamproxy.errors import ExchangeError
from streamproxy.wire.headers import Headers

_OPENAI: Final = OpenAIDialect()
_ANTHROPIC: Final = AnthropicDialect()
_GEMINI: Final = GeminiDialect()
_OLLAMA: Final = OllamaDialect()
_ENDINGS: Final[tuple[tuple[bytes, LlmDialect], ...]] = (
    (b"/chat/completions", _OPENAI),
    (b"/completions", _OPENAI),
    (b"/responses", RESPONSES),
    (b"/embeddings", _OPENAI),
    (b"/messages", _ANTHROPIC),
    (b":generateContent", _GEMINI),
    (b":streamGenerateContent", _GEMINI),
    (b"/api/chat", _OLLAMA),
    (b"/api/generate", _OLLAMA),
)


class AutoDialect(LlmDialect):
    """Recognises every API. Errors of a request whose path tells none are said as ``plain`` says them."""

    name = "auto"

    def __init__(self, plain: Dialect = HTTP) -> None:
        self._plain = plain

    def for_path(self, path: bytes) -> Dialect:
        """The dialect that a request's path tells by its end, or this one."""
        for ending, dialect in _ENDINGS:
            if path.endswith(ending):
                return dialect
        return self

    def error(self, error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
        """The response of the plain dialect."""
        return self._plain.error(error, request_id)

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """The event of the plain dialect."""
        return self._plain.error_event(error, request_id)
