"""Streams of Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

from streamproxy.dialects.reading.api import ApiStream
from streamproxy.dialects.reading.values import name, table, tokens
from streamproxy.formats.inspector import Inspector, Usage


class MessageStream(ApiStream):
    """Events of one message, up to ``message_stop``.

    ``message_start`` brings the tokens of the input, ``message_delta`` those of the output so far and whatever it
    corrects, so that each number that was said last is the one that counts.
    """

    __slots__ = ("_cache_read", "_cache_write", "_input", "_output")

    def __init__(self) -> None:
        super().__init__("anthropic", "chat")
        self._input: int | None = None
        self._output: int | None = None
        self._cache_read: int | None = None
        self._cache_write: int | None = None

    def skips(self, chunk: bytes) -> bool:
        """Pieces of content are most of a stream."""
        return chunk.find(b'"message_') < 0 and chunk.find(b'"error"') < 0

    def read(self, event: dict[str, Any], to: Inspector) -> None:
        """An event. ``message_start`` and ``ping`` say nothing yet."""
        kind = name(event.get("type"))
        if kind == "message_start":
            self.read_message(table(event.get("message")), to)
        elif kind == "message_delta":
            self._add(event.get("usage"), to)
            to.finish_reason = name(table(event.get("delta")).get("stop_reason")) or to.finish_reason
        elif kind == "message_stop":
            self.ended = True
        if to.failure is None and kind not in ("message_start", "ping"):
            to.spoke = True

    def read_message(self, message: dict[str, Any], to: Inspector) -> None:
        """A whole message: the beginning of a stream, or the answer to a request that does not stream."""
        to.model = name(message.get("model"))
        to.finish_reason = name(message.get("stop_reason"))
        self._add(message.get("usage"), to)

    def _add(self, value: object, to: Inspector) -> None:
        usage = table(value)
        self._input = _last(usage.get("input_tokens"), self._input)
        self._output = _last(usage.get("output_tokens"), self._output)
        self._cache_read = _last(usage.get("cache_read_input_tokens"), self._cache_read)
        self._cache_write = _last(usage.get("cache_creation_input_tokens"), self._cache_write)
        said = (self._input, self._cache_read, self._cache_write)
        if self._output is not None or any(number is not None for number in said):
            whole = sum(number for number in said if number is not None) if self._input is not None else None
            to.usage = Usage(
                input=whole, output=self._output, cache_read=self._cache_read, cache_write=self._cache_write
            )


def _last(value: object, before: int | None) -> int | None:
    number = tokens(value)
    return before if number is None else number
