"""Streams of Ollama's own API: newline-delimited JSON."""

from __future__ import annotations

from typing import Any

from streamproxy.dialects.reading.api import ApiStream
from streamproxy.dialects.reading.values import name, table, tokens
from streamproxy.formats.inspector import Inspector, Usage


class OllamaStream(ApiStream):
    """Lines of ``/api/chat`` or ``/api/generate``, up to the one with ``"done":true``."""

    __slots__ = ()

    def skips(self, chunk: bytes) -> bool:
        """Lines of text say ``"done":false``; one that says it in another spacing is read."""
        at = chunk.find(b'"done"')
        while at >= 0:
            at += 6
            if chunk[at : at + 6] != b":false" and chunk[at : at + 7] != b": false":
                return False
            at = chunk.find(b'"done"', at)
        return chunk.find(b'"error"') < 0

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """A line; the answer to a request that does not stream is the last one."""
        to.model = to.model or name(event.get("model"))
        if event.get("done") is True:
            self.ended = True
            to.finish_reason = name(event.get("done_reason"))
            usage = Usage(input=tokens(event.get("prompt_eval_count")), output=tokens(event.get("eval_count")))
            to.usage = usage if usage != Usage() else to.usage
        if not to.spoke and to.failure is None:
            message = table(event.get("message"))
            said = message.get("content") or message.get("thinking") or message.get("tool_calls")
            to.spoke = bool(said or event.get("response") or event.get("thinking") or self.ended)


def ollama(event: dict[str, Any]) -> OllamaStream | None:
    """The reader for Ollama's lines, if this is one."""
    if isinstance(event.get("model"), str) and isinstance(event.get("done"), bool):
        return OllamaStream("ollama", "chat" if "message" in event else "text_completion")
    return None
