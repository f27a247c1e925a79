"""Inspectors of LLM responses: they read what passes as far as it can matter, and change none of it.

Theory of operation. The first event that is no prelude tells the API (`reading.recognise`). From then on that API's
reader notes what events say. Until the stream has spoken every event is decoded; afterwards only events in which a
search for bytes finds something that matters, and an event is not even searched if only its text differs from one in
which nothing did (`EventInspector.pass_texts`). A stream of no known kind is not listened to any more: its first event
with data is what it has to say, and a missing end marker proves nothing of it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from streamproxy.dialects.reading.anthropic import MessageStream
from streamproxy.dialects.reading.api import ApiStream
from streamproxy.dialects.reading.failure import failure_of
from streamproxy.dialects.reading.openai import ResponsesStream
from streamproxy.dialects.reading.recognise import is_prelude, recognise, recognise_answer, recognise_line
from streamproxy.dialects.reading.values import decode
from streamproxy.errors import ExchangeError, ResponseIncomplete
from streamproxy.formats.events import LIMIT, EventInspector, LineInspector
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.json_members import Wanted
from streamproxy.formats.json_scan import MemberScanner

_DATA: Final = b"data: "
_LF: Final = 10
_NO_MARKER: Final = "The upstream ended its stream without the end marker of its API"
_ANSWER: Final = Wanted(
    {
        b"choices",
        b"candidates",
        b"done",
        b"done_reason",
        b"eval_count",
        b"incomplete_details",
        b"message",
        b"model",
        b"modelVersion",
        b"object",
        b"prompt_eval_count",
        b"status",
        b"stop_reason",
        b"type",
        b"usage",
        b"usageMetadata",
    },
    keep=64 << 10,
)


class LlmEvents(EventInspector):
    """Follows a server-sent event stream of an LLM API.

    ``expected`` is the name of the route's dialect. A response with a Content-Length (``has_length``) is whole when
    that many bytes have come, whatever its marker.
    """

    __slots__ = ("_api", "_expected", "_has_length", "_lazy")

    def __init__(self, expected: str, has_length: bool = False) -> None:
        super().__init__()
        self._expected = expected
        self._has_length = has_length
        self._api: ApiStream | None = None
        self._lazy = False

    def skips(self, chunk: bytes) -> bool:
        """Once the stream has spoken, chunks of text alone are passed over."""
        api = self._api
        return self._lazy and api is not None and api.skips(chunk)

    def on_event(self, data: bytes) -> None:
        """Read an event's data."""
        api, lazy = self._api, self._lazy
        if api is not None and lazy and data[:1] == b"{":  # an end marker is not worth a search
            if self._before and self._has_other_text(_DATA + data, self._behind[:-2]):
                return
            if api.skips(data):
                self._pass_others(api, data)
                return
        self.changes += 1
        event = decode(data)
        if api is None:
            if event is not None and is_prelude(event):
                return
            api = self._api = begin(recognise(event, self._expected) if event is not None else None, self)
            if api is None:
                return
        note(api, event, data, self)
        self._lazy = self.spoke or self.failure is not None
        if self._lazy and not lazy and not (self.usage or self.finish_reason or self.failure or api.ended):
            self._pass_others(api, data)

    def on_skipped(self, event: bytes) -> None:
        """Pass over the next ones that have other text."""
        if self._api is not None:
            self._pass_texts_of(self._api, event)

    def _pass_others(self, api: ApiStream, data: bytes) -> None:
        """Pass over events that differ from one with this data in their text; the data is one line, nearly always."""
        if _LF not in data:
            self._pass_texts_of(api, _DATA + data + b"\n\n")

    def _pass_texts_of(self, api: ApiStream, event: bytes) -> None:
        text = api.text_in(event)
        if text is not None:
            begin, end = text
            self.pass_texts(event, begin, end)

    def finish(self) -> ExchangeError | None:
        """The body has ended in good order. Returns why it is incomplete all the same."""
        super().finish()
        return missing_marker(self._api, self, self.unread or self._has_length)


class LlmLines(LineInspector):
    """Follows a newline-delimited JSON stream of an LLM API, which is Ollama's."""

    __slots__ = ("_api", "_has_length", "_lazy")

    def __init__(self, has_length: bool = False) -> None:
        super().__init__()
        self._has_length = has_length
        self._api: ApiStream | None = None
        self._lazy = False

    def skips(self, chunk: bytes) -> bool:
        """Once the stream has spoken, lines of text alone are passed over."""
        api = self._api
        return self._lazy and api is not None and api.skips(chunk)

    def on_line(self, line: bytes) -> None:
        """Read a line."""
        api = self._api
        if api is not None and self._lazy and api.skips(line):
            return
        self.changes += 1
        event = decode(line)
        if api is None:
            api = self._api = begin(recognise_line(event) if event is not None else None, self)
            if api is None:
                return
        note(api, event, line, self)
        self._lazy = self.spoke or self.failure is not None

    def finish(self) -> ExchangeError | None:
        """The body has ended in good order. Returns why it is incomplete all the same."""
        super().finish()
        return missing_marker(self._api, self, self.unread or self._has_length)


class LlmAnswer(Inspector):
    """Reads usage from the JSON answer to a request that does not stream, up to 1 MiB of it.

    The body is not held: only the members that matter are, up to 64 KiB each. What it said is known at its end.
    """

    __slots__ = ("_scanner", "_size")

    def __init__(self) -> None:
        super().__init__()
        self._scanner = MemberScanner(_ANSWER)
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes of the body."""
        self._size += len(chunk)
        if self._size <= LIMIT:
            self._scanner.feed(chunk)

    def finish(self) -> ExchangeError | None:
        """The body has ended."""
        if self._size <= LIMIT and self._scanner.finish() == "done":
            self._read({key.decode(): _loads(member.value) for key, member in self._scanner.members.items()})
        return None

    def _read(self, answer: dict[str, Any]) -> None:
        api = recognise_answer(answer)
        if api is None:
            return
        self.provider = api.provider
        self.operation = api.operation
        if isinstance(api, ResponsesStream):
            api.read({"type": "response.completed", "response": answer}, self)
        elif isinstance(api, MessageStream):
            api.read_message(answer, self)
        else:
            api.read(answer, self)
        self.spoke = True


def begin(api: ApiStream | None, inspector: EventInspector | LineInspector) -> ApiStream | None:
    """Note the API that the first event has told. A stream of no known kind has spoken, and is not listened to."""
    if api is None:
        inspector.spoke = True
        inspector.deafen()
    else:
        inspector.provider = api.provider
        inspector.operation = api.operation
    return api


def note(api: ApiStream, event: dict[str, Any] | None, data: bytes, to: Inspector) -> None:
    """Note what an event of a recognised stream says."""
    if event is None:
        api.read_other(data)
        return
    failure = failure_of(event, data)
    if failure is None:
        api.read(event, to)
    elif to.failure is None:
        to.failure = failure


def missing_marker(api: ApiStream | None, of: Inspector, proves_nothing: bool) -> ExchangeError | None:
    """The error of a recognised stream that ended without its marker; None for any other stream.

    A failure that the stream reported is an end, too.
    """
    if api is None or api.ended or of.failure is not None or proves_nothing:
        return None
    return ResponseIncomplete(_NO_MARKER)


def _loads(value: bytes | None) -> object:
    try:
        return json.loads(value) if value is not None else None
    except (ValueError, RecursionError):
        return None
