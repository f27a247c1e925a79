"""Laws of the inspectors: any split says the same, as does an interpretation that decodes everything."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.stream import LlmEvents, LlmLines
from streamproxy.errors import UpstreamReportedError
from streamproxy.formats.events import LIMIT
from streamproxy.formats.inspector import Usage
from tests.unit.dialects import wire
from tests.unit.dialects.wire import chat, gemini, response, sse, text
from tests.unit.formats.splits import splits

NUMBERS: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 99), st.sampled_from([-1, 1 << 41, 1.5, "7", None, True, [], {}]), st.just(1 << 40), st.just(12)
)


def usages(*names: str, details: tuple[str, str] | None = None) -> st.SearchStrategy[Any]:
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(names, NUMBERS)
    for outer in ("prompt_tokens_details", "input_tokens_details") if details else ():
        fields[outer] = st.one_of(st.none(), st.fixed_dictionaries({}, optional={"cached_tokens": NUMBERS}))
    return st.one_of(st.none(), st.just("junk"), st.fixed_dictionaries({}, optional=fields))


PIECES = st.sampled_from(["", "hi", '"usage"', '"error":{}', "[DONE]", '\\"finish_reason\\":"stop"', "é\n\n", "x" * 40])
CHAT_USAGES = usages("prompt_tokens", "completion_tokens", details=("a", "b"))
CHAT = st.one_of(
    st.builds(
        lambda piece, key, finish, usage: chat({key: piece}, finish, usage=usage),
        PIECES,
        st.sampled_from(["content", "reasoning", "role", "tool_calls", "refusal"]),
        st.sampled_from([None, None, "stop", "length", 7]),
        CHAT_USAGES,
    ),
    st.builds(text, PIECES, st.sampled_from([None, "stop"])),
    st.sampled_from([wire.VLLM_ERROR, wire.LIMITED, wire.AZURE, chat(choices=[]), chat(choices=None), "[DONE]"]),
)
RESPONSES = st.one_of(
    st.sampled_from(["created", "queued", "in_progress", "output_text.delta"]).map(response),
    st.builds(
        lambda kind, usage: response(kind, response={**wire.RESPONSE, "usage": usage}),
        st.sampled_from(["created", "completed", "incomplete", "failed"]),
        usages("input_tokens", "output_tokens", details=("a", "b")),
    ),
    st.just({"type": "error", "code": "x", "message": "m"}),
)
MESSAGES = st.one_of(
    st.sampled_from([wire.START, wire.BLOCK, wire.DELTA, wire.STOPPING, wire.STOP, wire.OVERLOADED, {"type": "ping"}]),
    st.builds(
        lambda usage: {**wire.STOPPING, "usage": usage},
        usages("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    ),
    PIECES.map(lambda piece: {**wire.DELTA, "delta": {"type": "text_delta", "text": piece}}),
)
GEMINI = st.one_of(
    st.builds(gemini, PIECES),
    st.builds(
        lambda usage, reason: {**gemini("x", finishReason=reason), "usageMetadata": usage},
        usages("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount"),
        st.sampled_from([None, "STOP", 3]),
    ),
    st.sampled_from([wire.GEMINI_ERROR, {"promptFeedback": {"blockReason": "SAFETY"}, "candidates": []}]),
)
JUNK = st.sampled_from(["text", "{", "[1]", "null", '{"a":1}', "", '{"type":7}', '{"object":[],"type":{}}'])
SPACINGS = st.sampled_from([wire.COMPACT, wire.PYTHONS, wire.ODD])
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
COMMENTS = st.sampled_from([b"", b": keepalive\n\n", b"id: 4\n", b"retry: 3\n\n", b"event: x\n"])


@st.composite
def event_streams(draw: st.DrawFn) -> bytes:
    """Events of one API with others and junk among them, in any spacing and with any line ends."""
    api = draw(st.sampled_from([CHAT, RESPONSES, MESSAGES, GEMINI]))
    every = st.one_of(api, api, api, JUNK, st.one_of(CHAT, RESPONSES, MESSAGES, GEMINI))
    stream = b"\xef\xbb\xbf" if draw(st.integers(0, 9)) == 0 else b""
    spacing, end = draw(SPACINGS), draw(ENDS)
    for event in draw(st.lists(every, max_size=10)):
        stream += draw(COMMENTS) + sse(event, draw(st.sampled_from(["", "", "error", "x"])), end, spacing=spacing)
    return stream[: len(stream) - draw(st.sampled_from([0, 0, 0, 1, 2, 9]))]


class Said(NamedTuple):
    provider: str = ""
    spoke: bool = False
    failed: bool = False
    usage: Usage | None = None
    finish: str = ""
    incomplete: bool = False


def reference(stream: bytes, expected: str) -> Said:
    """Decodes every event and reads the table of the contract."""
    said, state = Said(), dict[str, Any]()
    for data in data_of(stream):
        event = loads(data)
        if "api" not in state:
            if event is not None and (event.get("type") == "ping" or event.get("object") == ""):
                continue
            state["api"] = api_of(event, expected) if event is not None else None
            if state["api"] is None:
                return Said(spoke=True)
        said = after(said, state, event, data)
    api = state.get("api")
    ended = state.get("ended", False)
    providers = {"responses": "openai", "chat": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini"}
    return said._replace(provider=providers[api] if api else "", incomplete=bool(api) and not ended and not said.failed)


def data_of(stream: bytes) -> list[bytes]:
    events, data = [], []
    for field in [*re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        name, _, value = field.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not field and data:
            events.append(b"\n".join(data))
            data = []
    return events + ([b"\n".join(data)] if data else [])


def loads(data: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(data)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def failed(event: dict[str, Any]) -> bool:
    return bool(event.get("error")) or event.get("type") == "error" or event.get("object") == "error"


def api_of(event: dict[str, Any], expected: str) -> str | None:
    if str(event.get("type")).startswith("response."):
        return "responses"
    if event.get("type") == "message_start":
        return "anthropic"
    if "candidates" in event or "usageMetadata" in event:
        return "gemini"
    if event.get("object") in ("chat.completion.chunk", "text_completion"):
        return "chat"
    return {"openai": "chat"}.get(expected, expected) if failed(event) else None


def after(said: Said, state: dict[str, Any], event: dict[str, Any] | None, data: bytes) -> Said:
    api = state["api"]
    if event is None:
        state["ended"] = state.get("ended") or (api == "chat" and data.startswith(b"[DONE]"))
        return said
    if failed(event):
        return said._replace(failed=True)
    return {"chat": after_chat, "responses": after_response, "anthropic": after_message, "gemini": after_gemini}[api](
        said, state, event
    )


def number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None


def inside(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def told(said: Said, usage: Usage) -> Said:
    return said if usage == Usage() else said._replace(usage=usage)


def word(value: object) -> str:
    return value if isinstance(value, str) else ""


def after_chat(said: Said, state: dict[str, Any], event: dict[str, Any]) -> Said:
    usage = event.get("usage")
    cached = number(inside(usage, "prompt_tokens_details", "cached_tokens"))
    prompt, completion = number(inside(usage, "prompt_tokens")), number(inside(usage, "completion_tokens"))
    said = told(said, Usage(prompt, completion, cached))
    for choice in event.get("choices") or []:
        finish = word(choice.get("finish_reason"))
        delta = choice.get("delta") or {}
        says = [delta.get(key) for key in ("content", "reasoning", "tool_calls", "refusal")]
        spoke = bool(finish or choice.get("text") or any(says))
        said = said._replace(finish=finish or said.finish, spoke=said.spoke or (spoke and not said.failed))
    return said


def after_response(said: Said, state: dict[str, Any], event: dict[str, Any]) -> Said:
    kind, usage = word(event.get("type")), inside(event, "response", "usage")
    cached = number(inside(usage, "input_tokens_details", "cached_tokens"))
    said = told(said, Usage(number(inside(usage, "input_tokens")), number(inside(usage, "output_tokens")), cached))
    if kind in ("response.completed", "response.incomplete"):
        state["ended"] = True
        said = said._replace(finish=word(inside(event, "response", "status")))
    if kind == "response.failed":
        return said._replace(failed=True)
    quiet = kind in ("response.created", "response.queued", "response.in_progress")
    return said._replace(spoke=said.spoke or not (quiet or said.failed))


def after_message(said: Said, state: dict[str, Any], event: dict[str, Any]) -> Said:
    kind = event.get("type")
    if kind in ("message_start", "message_delta"):
        usage = inside(event, "message", "usage") if kind == "message_start" else event.get("usage")
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            count = number(inside(usage, name))
            state[name] = state.get(name) if count is None else count
        inputs = state["input_tokens"], state["cache_read_input_tokens"], state["cache_creation_input_tokens"]
        whole = None if inputs[0] is None else sum(count or 0 for count in inputs)
        said = told(said, Usage(whole, state["output_tokens"], inputs[1], inputs[2]))
    if kind == "message_start":
        said = said._replace(finish="")
    if kind == "message_delta":
        said = said._replace(finish=word(inside(event, "delta", "stop_reason")) or said.finish)
    state["ended"] = state.get("ended") or kind == "message_stop"
    return said._replace(spoke=said.spoke or not (kind in ("message_start", "ping") or said.failed))


def after_gemini(said: Said, state: dict[str, Any], event: dict[str, Any]) -> Said:
    usage = event.get("usageMetadata")
    output, thoughts = number(inside(usage, "candidatesTokenCount")), number(inside(usage, "thoughtsTokenCount"))
    both = None if output is None and thoughts is None else (output or 0) + (thoughts or 0)
    cached = number(inside(usage, "cachedContentTokenCount"))
    said = told(said, Usage(number(inside(usage, "promptTokenCount")), both, cached, None, thoughts))
    reasons = [word(candidate.get("finishReason")) for candidate in event.get("candidates") or []]
    reasons.append(word(inside(event, "promptFeedback", "blockReason")))
    for reason in filter(None, reasons):
        state["ended"] = True
        said = said._replace(finish=reason)
    spoke = bool(event.get("candidates") or reasons[-1]) and not said.failed
    return said._replace(spoke=said.spoke or spoke)


def told_by(inspector: LlmEvents | LlmLines) -> Said:
    incomplete = inspector.finish() is not None
    failed = isinstance(inspector.failure, UpstreamReportedError)
    return Said(inspector.provider, inspector.spoke, failed, inspector.usage, inspector.finish_reason, incomplete)


@given(st.data(), event_streams(), st.sampled_from(["openai", "anthropic", "gemini"]))
def test_what_a_stream_says_is_what_its_events_say_under_any_split(
    data: st.DataObject, stream: bytes, expected: str
) -> None:
    inspector = LlmEvents(expected)
    for chunk in data.draw(splits(stream)):
        inspector.feed(chunk)
    assert told_by(inspector) == reference(stream, expected)


@given(event_streams(), st.integers(0, 1500), st.integers(1024, 1600))
def test_many_events_with_one_cut_in_two_say_what_the_stream_says(stream: bytes, at: int, size: int) -> None:
    long = sse(chat({"content": "x" * 30})) * 20 + stream
    inspector = LlmEvents("openai")
    inspector.feed(long[:at])
    for begin in range(at, len(long), size):
        inspector.feed(long[begin : begin + size])
    assert told_by(inspector) == reference(long, "openai")


@given(event_streams())
def test_whole_events_say_what_the_stream_says(stream: bytes) -> None:
    inspector = LlmEvents("openai")
    for event in re.split(rb"(?<=\n\n)", stream):
        inspector.feed(event)
    assert told_by(inspector) == reference(stream, "openai")


TRICKY = st.lists(st.sampled_from(["a", '"', "\\", "\n", "[DONE]", "error", '"error"', "finish_reason", "}"])).map(
    "".join
)


@given(
    st.lists(st.one_of(TRICKY, st.just("word")), max_size=12),
    st.sampled_from([None, {"prompt_tokens": 3, "completion_tokens": 4}]),
    SPACINGS,
)
def test_chunks_that_differ_in_their_text_say_what_the_stream_says(
    texts: list[str], usage: dict[str, Any], spacing: tuple[str, str]
) -> None:
    events = [chat({"content": text}) for text in ("word", "word", *texts)]
    stream = [sse(event, spacing=spacing) for event in [*events, chat(finish="stop"), chat(usage=usage)]]
    inspector = LlmEvents("openai")
    for event in stream:
        inspector.feed(event)
    assert told_by(inspector) == reference(b"".join(stream), "openai")


@given(st.lists(st.one_of(TRICKY, st.just("word")), max_size=12), st.lists(st.integers(0, 14)), st.booleans())
def test_events_that_differ_in_their_text_are_counted_and_read_however_they_come(
    texts: list[str], cuts: list[int], role: bool
) -> None:
    events = [chat({"role": "assistant", "content": ""})] * role + [chat({"content": piece}) for piece in texts]
    events += [chat(finish="stop"), chat(usage={"prompt_tokens": 3, "completion_tokens": 4})]
    stream = [*map(sse, events), b"data: [DONE]\n\n"]
    inspector = LlmEvents("openai")
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for begin, end in pairwise(bounds):
        inspector.feed(b"".join(stream[begin:end]))
    assert inspector.events == len(stream)
    assert told_by(inspector) == reference(b"".join(stream), "openai")


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("end", [b"[DONE]", b'{"error":{"message":"x"}}'])
def test_an_event_in_the_text_of_another_is_one(end: bytes, line_end: bytes) -> None:
    before, behind = sse(chat({"content": "word"})).split(b"word")
    blank = 2 * line_end
    inspector = LlmEvents("openai")
    for word in (b"word", b"word", b"wo" + blank + b"data: " + end + blank + b"data: "):
        inspector.feed(before + word + behind)
    assert inspector.events == 5
    assert (inspector.finish(), inspector.failure is None) == (None, end == b"[DONE]")


def test_a_text_over_the_limit_is_not_read_either() -> None:
    before, behind = sse(chat({"content": "word"})).split(b"word")
    inspector = LlmEvents("openai")
    for word in (b"word", b"other", b"x" * LIMIT):
        inspector.feed(before + word + behind)
    assert (inspector.events, inspector.unread, inspector.finish()) == (3, True, None)


def test_a_chunk_with_other_text_is_no_change() -> None:
    inspector = LlmEvents("openai")
    changes = []
    for delta in ({"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {"content": "c"}):
        inspector.feed(sse(chat(delta)))
        changes.append(inspector.changes)
    inspector.feed(sse(chat(finish="stop")))
    assert len(set(changes)) == 2
    assert inspector.changes not in changes


@given(event_streams(), st.binary(max_size=4), st.integers(0, 400))
def test_damage_raises_nothing_and_says_the_same_under_any_split(stream: bytes, damage: bytes, at: int) -> None:
    broken = stream[:at] + damage + stream[at + len(damage) :]
    whole, bytewise = LlmEvents("openai"), LlmEvents("openai")
    whole.feed(broken)
    for byte in broken:
        bytewise.feed(bytes([byte]))
    assert told_by(whole) == told_by(bytewise)
    assert whole.events == bytewise.events
