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
_QUOTE: Final = 0x22
_LF: Final = 0x0A


class CompletionStream(ApiStream):
    """Chunks of chat or text completions, up to ``[DONE]``.

    Theory of operation. The chunks of one stream differ in one piece of text, nearly always. So what comes before and
    behind the text of a chunk in which nothing mattered is kept, and the next chunk is compared with that.
    """

    __slots__ = ("_before", "_behind")

    def __init__(self, provider: str, operation: str) -> None:
        super().__init__(provider, operation)
        self._before = b""
        self._behind = b""

    def skips(self, chunk: bytes) -> bool:
        """Most chunks have neither usage nor a reason to finish, or have them as null."""
        before, behind = self._before, self._behind
        begin, end = len(before), len(chunk) - len(behind)
        if before and begin <= end and chunk[:begin] == before and chunk[end:] == behind:
            text = chunk[begin:end]
            # It is inside of the same string. A line end, which strings in JSON have not, could begin another event.
            if _QUOTE not in text and _LF not in text and text[-1:] != b"\\":
                return True
        if (
            has_value(chunk, b'"finish_reason"')
            or has_value(chunk, b'"usage"')
            or chunk.find(b'"error"') >= 0
            or chunk.find(b"[DONE]") >= 0
        ):
            return False
        self._remember(chunk)
        return True

    def _remember(self, chunk: bytes) -> None:
        """Keep what is around the first text of a chunk in which nothing matters."""
        for text in _TEXTS:
            begin = chunk.find(text) + len(text)
            end = chunk.find(b'"', begin) if begin >= len(text) else -1
            if end > begin and chunk[end - 1 : end] != b"\\":
                self._before, self._behind = chunk[:begin], chunk[end:]
                return

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """A chunk; the answer to a request that does not stream has the same members."""
        to.model = to.model or name(event.get("model"))
        to.usage = completion_usage(event.get("usage")) or to.usage
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
    usage = _usage(value, "prompt", "completion")
    if usage is not None and usage.reasoning is None:
        return usage._replace(reasoning=tokens(table(value).get("reasoning_tokens")))
    return usage


def responses_usage(value: object) -> Usage | None:
    """The ``usage`` of a response; None where nothing of it makes sense."""
    return _usage(value, "input", "output")


def _usage(value: object, input: str, output: str) -> Usage | None:
    said = table(value)
    usage = Usage(
        input=tokens(said.get(f"{input}_tokens")),
        output=tokens(said.get(f"{output}_tokens")),
        cache_read=tokens(table(said.get(f"{input}_tokens_details")).get("cached_tokens")),
        reasoning=tokens(table(said.get(f"{output}_tokens_details")).get("reasoning_tokens")),
    )
    return usage if usage != Usage() else None


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
    return any(delta.get(key) for key in _SPEECH)
