"""Which API a stream or an answer is of: told by its first event, or by its members."""

from __future__ import annotations

from typing import Any

from streamproxy.dialects.reading.anthropic import MessageStream
from streamproxy.dialects.reading.api import ApiStream
from streamproxy.dialects.reading.failure import is_failure
from streamproxy.dialects.reading.gemini import GenerateStream
from streamproxy.dialects.reading.ollama import OllamaStream, ollama
from streamproxy.dialects.reading.openai import CompletionStream, ResponsesStream, completions, completions_answer
from streamproxy.dialects.reading.values import name


def is_prelude(event: dict[str, Any]) -> bool:
    """Whether an event may come before the first that tells the API: a ``ping``, or Azure's chunk of no object."""
    return event.get("type") == "ping" or event.get("object") == ""


def recognise(event: dict[str, Any], expected: str) -> ApiStream | None:
    """The reader for the stream that begins with this server-sent event; None for a stream of no known kind.

    ``expected`` is the dialect's name, for errors, whose forms are alike.
    """
    kind = name(event.get("type"))
    if kind.startswith("response."):
        return ResponsesStream("openai", "chat")
    if kind == "message_start":
        return MessageStream()
    if "candidates" in event or "usageMetadata" in event:
        return GenerateStream()
    return completions(event) or _recognise_error(event, expected)


def recognise_line(event: dict[str, Any]) -> ApiStream | None:
    """The reader for the stream that begins with this line of JSON; None for a stream of no known kind."""
    found = ollama(event)
    if found is None and isinstance(event.get("error"), str):
        found = OllamaStream("ollama", "chat")
    return found


def recognise_answer(answer: dict[str, Any]) -> ApiStream | None:
    """The reader for the answer to a request that does not stream; None for one of no known kind."""
    if answer.get("object") == "response":
        return ResponsesStream("openai", "chat")
    if answer.get("type") == "message":
        return MessageStream()
    if "candidates" in answer or "usageMetadata" in answer:
        return GenerateStream()
    return completions_answer(answer) or ollama(answer)


def _recognise_error(event: dict[str, Any], expected: str) -> ApiStream | None:
    if not is_failure(event):
        return None
    if expected == "gemini":
        return GenerateStream()
    if expected == "anthropic" or (expected == "auto" and event.get("type") == "error" and "error" in event):
        return MessageStream()
    return CompletionStream("openai", "chat")
