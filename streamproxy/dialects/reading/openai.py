"""Streams of OpenAI's APIs: chat and text completions, and Responses."""

from __future__ import annotations

from typing import Any, Final

from streamproxy.dialects.reading.api import ApiStream
from streamproxy.dialects.reading.failure import failure_of
from streamproxy.dialects.reading.values import encode, has_value, name, table, tables, tokens
from streamproxy.formats.inspector import Inspector, Usage

_SPEECH: Final = (
    "content",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
)
_SILENT: Final = frozenset({"response.created", "response.queued", "response.in_progress"})
_ENDS: Final = frozenset({"response.completed", "response.incomplete"})
# Members whose values are text, however a server writes them.
_TEXTS: Final = (b'"content":"', b'"content": "', b'"text":"', b'"text": "', b'"reasoning_content":"', b'"arguments":"')


class CompletionStream(ApiStream):
    """Chunks of chat or text completions, up to ``[DONE]``."""

    __slots__ = ()

    def skips(self, chunk: bytes) -> bool:
        """Most chunks have neither usage nor a reason to finish, or have them as null."""
        return not (
            has_value(chunk, b'"finish_reason"')
            or has_value(chunk, b'"usage"')
            or chunk.find(b'"error"') >= 0
            or chunk.find(b"[DONE]") >= 0
        )

    def text_in(self, event: bytes) -> tuple[int, int] | None:
        """The first member with text that is not empty."""
        for text in _TEXTS:
            begin = event.find(text) + len(text)
            end = event.find(b'"', begin) if begin >= len(text) else -1
            if end > begin and event[end - 1 : end] != b"\\":
                return begin, end
        return None

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """A chunk; the answer to a request that does not stream has the same members."""
        to.model = to.model or name(event.get("model"))
        usage = event.get("usage")
        if usage is not None:
            to.usage = completion_usage(usage) or to.usage
        for choice in tables(event.get("choices")):
            finish = name(choice.get("finish_reason"))
            to.finish_reason = finish or to.finish_reason
            if not to.spoke and to.failure is None:
                to.spoke = bool(finish or choice.get("text")) or _speaks(table(choice.get("delta")))

    def read_other(self, data: bytes) -> None:
        """The end marker is no JSON."""
        if data[:6] == b"[DONE]":
            self.ended = True


class ResponsesStream(ApiStream):
    """Events of the Responses API, up to ``response.completed`` or ``response.incomplete``."""

    __slots__ = ()

    def skips(self, chunk: bytes) -> bool:
        """Only events of the response's own life carry the response."""
        return chunk.find(b'"response"') < 0 and chunk.find(b'"error"') < 0

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """An event; ``response.failed`` carries its failure inside."""
        kind = name(event.get("type"))
        response = table(event.get("response"))
        if response:
            to.model = name(response.get("model")) or to.model
            to.usage = responses_usage(response.get("usage")) or to.usage
        if kind in _ENDS:
            self.ended = True
            reason = name(table(response.get("incomplete_details")).get("reason"))
            to.finish_reason = reason or name(response.get("status"))
        elif kind == "response.failed" and to.failure is None:
            report = {"error": response.get("error") or {"message": "The response failed"}}
            to.failure = failure_of(report, encode(report))
        if to.failure is None and kind not in _SILENT:
            to.spoke = True


def completion_usage(value: object) -> Usage | None:
    """The ``usage`` of chat and text completions and of embeddings; None where nothing of it makes sense.

    SGLang reports the reasoning beside the other counts, and not among the details.
    """
    said = table(value)
    usage = _usage(said, "prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
    if usage is not None and usage.reasoning is None and "reasoning_tokens" in said:
        return usage._replace(reasoning=tokens(said["reasoning_tokens"]))
    return usage


def responses_usage(value: object) -> Usage | None:
    """The ``usage`` of a response; None where nothing of it makes sense."""
    return _usage(table(value), "input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")


def _usage(said: dict[str, Any], read: str, written: str, read_details: str, written_details: str) -> Usage | None:
    """What members of these names say. Building the names here would cost more than reading them."""
    input, output = tokens(said.get(read)), tokens(said.get(written))
    cached = tokens(table(said.get(read_details)).get("cached_tokens"))
    reasoning = tokens(table(said.get(written_details)).get("reasoning_tokens"))
    if input is None and output is None and cached is None and reasoning is None:
        return None
    return Usage(input, output, cached, None, reasoning)


def completions(event: dict[str, Any]) -> CompletionStream | None:
    """The reader for a stream that begins with this chunk of completions, if it is one."""
    kind = event.get("object")
    if kind == "chat.completion.chunk":
        return CompletionStream("openai", "chat")
    return CompletionStream("openai", "text_completion") if kind == "text_completion" else None


def completions_answer(answer: dict[str, Any]) -> CompletionStream | None:
    """The reader for an answer of completions or embeddings, if this is one."""
    kind = answer.get("object")
    if kind == "chat.completion":
        return CompletionStream("openai", "chat")
    if kind == "list" and "prompt_tokens" in table(answer.get("usage")):
        return CompletionStream("openai", "embeddings")
    return completions(answer)


def _speaks(delta: dict[str, Any]) -> bool:
    for key in _SPEECH:  # noqa: SIM110 - a generator costs more than the look-ups
        if delta.get(key):
            return True
    return False
