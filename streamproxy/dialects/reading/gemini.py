"""Streams of Gemini's generateContent, with ``alt=sse``."""

from __future__ import annotations

from typing import Any

from streamproxy.dialects.reading.api import ApiStream
from streamproxy.dialects.reading.values import name, table, tables, tokens
from streamproxy.formats.inspector import Inspector, Usage


class GenerateStream(ApiStream):
    """Responses that each hold the next piece; every one of them may carry the usage so far."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("gcp.gemini", "generate_content")

    def skips(self, chunk: bytes) -> bool:
        """An upstream that reports usage as it goes has every chunk read: it is cumulative, and may be cut off."""
        return (
            chunk.find(b'"usageMetadata"') < 0
            and chunk.find(b'"finishReason"') < 0
            and chunk.find(b'"blockReason"') < 0
            and chunk.find(b'"error"') < 0
        )

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """One response; the answer to a request that does not stream has the same members."""
        to.model = name(event.get("modelVersion")) or to.model
        to.usage = generate_usage(event.get("usageMetadata")) or to.usage
        candidates = tables(event.get("candidates"))
        for candidate in candidates:
            self._end(name(candidate.get("finishReason")), to)
        blocked = name(table(event.get("promptFeedback")).get("blockReason"))
        self._end(blocked, to)
        if to.failure is None and (candidates or blocked):
            to.spoke = True

    def _end(self, reason: str, to: Inspector) -> None:
        if reason:
            self.ended = True
            to.finish_reason = reason


def generate_usage(value: object) -> Usage | None:
    """The ``usageMetadata``; None where nothing of it makes sense. The output holds the thoughts."""
    said = table(value)
    candidates = tokens(said.get("candidatesTokenCount"))
    thoughts = tokens(said.get("thoughtsTokenCount"))
    usage = Usage(
        input=tokens(said.get("promptTokenCount")),
        output=None if candidates is None and thoughts is None else (candidates or 0) + (thoughts or 0),
        cache_read=tokens(said.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )
    return usage if usage != Usage() else None
