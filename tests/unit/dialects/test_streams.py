"""What is understood of each API's streams: recognition, the first word, the end, failures, usage."""

from __future__ import annotations

from typing import Any

import pytest

from streamproxy.dialects.stream import LlmEvents, LlmLines
from streamproxy.errors import ResponseIncomplete, UpstreamReportedError
from streamproxy.formats.events import LIMIT
from streamproxy.formats.inspector import Usage
from tests.unit.dialects import wire
from tests.unit.dialects.wire import chat, gemini, line, ollama, response, sse, text

DONE = b"data: [DONE]\n\n"
HELLO = sse(chat({"content": "hello"}))
LAST = sse(chat(finish="stop"))
USED = sse(chat(choices=[], usage=wire.CHAT_USAGE))


def read(*chunks: bytes, expected: str = "openai", has_length: bool = False) -> LlmEvents:
    inspector = LlmEvents(expected, has_length)
    for chunk in chunks:
        inspector.feed(chunk)
    return inspector


def read_lines(*chunks: bytes) -> LlmLines:
    inspector = LlmLines()
    for chunk in chunks:
        inspector.feed(chunk)
    return inspector


def test_a_chat_stream_says_its_model_usage_and_end() -> None:
    stream = read(sse(wire.ROLE), HELLO, LAST, USED, DONE)
    assert (stream.provider, stream.operation, stream.model) == ("openai", "chat", "qwen3")
    assert stream.usage == Usage(input=11, output=7, cache_read=8, reasoning=3)
    assert stream.finish_reason == "stop"
    assert stream.failure is stream.finish() is None
    assert stream.events == 5


def test_a_text_completion_is_one_too() -> None:
    stream = read(sse(text("")), sse(text("a")), sse(text("", "length", usage=wire.CHAT_USAGE)), DONE)
    assert (stream.operation, stream.finish_reason, stream.finish()) == ("text_completion", "length", None)
    assert stream.usage is not None
    assert stream.usage.output == 7


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"tool_calls": [{"index": 0}]},
        {"refusal": "no"},
    ],
)
def test_chat_speaks_with_a_delta_that_says_something(delta: dict[str, Any]) -> None:
    stream = read(b": comment\n\n", sse(wire.AZURE), sse(wire.ROLE), sse(chat({"content": None})))
    assert not stream.spoke
    stream.feed(sse(chat(delta)))
    assert stream.spoke


def test_chat_speaks_with_a_reason_to_finish() -> None:
    assert not read(sse(wire.ROLE), USED).spoke
    assert read(sse(wire.ROLE), LAST).spoke


def test_a_chat_stream_without_its_marker_is_incomplete() -> None:
    assert isinstance(read(HELLO, LAST).finish(), ResponseIncomplete)
    assert read(HELLO, LAST, b"data: [DONE]").finish() is None
    assert read(HELLO, LAST, b"data: [DONE]\n").finish() is None


def test_a_content_length_proves_the_end() -> None:
    assert read(HELLO, has_length=True).finish() is None


@pytest.mark.parametrize("expected", ["openai", "anthropic", "auto"])
@pytest.mark.parametrize(
    "event",
    [sse({"hello": 1}), sse("text"), sse("[DONE]"), sse("[1]"), sse("{"), sse({"object": "other"}), b"data\n\n"],
)
def test_a_stream_of_no_known_kind_is_passed_as_it_is(expected: str, event: bytes) -> None:
    stream = read(b": hi\n\n", expected=expected)
    assert not stream.spoke
    stream.feed(event)
    stream.feed(HELLO + sse(wire.VLLM_ERROR))
    assert stream.spoke
    assert (stream.provider, stream.model, stream.usage, stream.failure) == ("", "", None, None)
    assert stream.finish() is None
    assert stream.events == 3


def test_an_error_with_done_behind_it_is_a_failure() -> None:
    stream = read(HELLO, sse(wire.VLLM_ERROR), DONE)
    assert isinstance(stream.failure, UpstreamReportedError)
    assert (stream.failure.status, str(stream.failure)) == (502, "out of memory")
    assert (stream.failure.error, stream.failure.end) == ("upstream_error", "upstream_error")
    assert stream.finish() is None


@pytest.mark.parametrize(
    ("event", "provider", "status"),
    [
        (wire.VLLM_ERROR, "openai", 502),
        (wire.LIMITED, "openai", 429),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "openai", 502),
        ({"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}, "openai", 502),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "m", "param": None}, "openai", 429),
        (wire.OVERLOADED, "anthropic", 529),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "m"}}, "anthropic", 429),
        (wire.GEMINI_ERROR, "gcp.gemini", 429),
    ],
)
def test_an_error_may_come_first_and_says_nothing_else(event: dict[str, Any], provider: str, status: int) -> None:
    expected = {"gcp.gemini": "gemini"}.get(provider, provider)
    stream = read(sse(event, "error"), HELLO, expected=expected)
    assert stream.provider == provider
    assert isinstance(stream.failure, UpstreamReportedError)
    assert stream.failure.status == status
    assert b'"error"' in stream.failure.payload
    assert not stream.spoke
    assert stream.finish() is None


def test_an_error_of_null_is_none() -> None:
    stream = read(HELLO, sse(chat({"content": "a"}, error=None)), DONE)
    assert stream.failure is stream.finish() is None


def test_responses_speak_after_their_first_events() -> None:
    created = response("created", response=wire.RESPONSE)
    stream = read(sse(created, "response.created"), sse(response("queued")), sse(response("in_progress")))
    assert not stream.spoke
    stream.feed(sse(response("output_item.added", item={})))
    assert stream.spoke
    assert isinstance(stream.finish(), ResponseIncomplete)


@pytest.mark.parametrize(
    ("kind", "more", "finish"),
    [
        ("completed", {}, "completed"),
        (
            "incomplete",
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "max_output_tokens",
        ),
    ],
)
def test_responses_end_completed_or_incomplete(kind: str, more: dict[str, Any], finish: str) -> None:
    last = response(kind, response={**wire.RESPONSE, "usage": wire.RESPONSE_USAGE, **more})
    stream = read(sse(response("created", response=wire.RESPONSE)), sse(response("output_text.delta")), sse(last))
    assert (stream.provider, stream.operation, stream.model) == ("openai", "chat", "gpt-5")
    assert stream.usage == Usage(input=36, output=87, cache_read=20, reasoning=64)
    assert (stream.finish_reason, stream.finish()) == (finish, None)


def test_a_response_that_failed_is_a_failure() -> None:
    failed = {**wire.RESPONSE, "status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow"}}
    stream = read(sse(response("created", response=wire.RESPONSE)), sse(response("failed", response=failed)))
    assert isinstance(stream.failure, UpstreamReportedError)
    assert (stream.failure.status, str(stream.failure)) == (429, "slow")
    assert stream.failure.payload == b'{"error":{"code":"rate_limit_exceeded","message":"slow"}}'


def test_a_message_adds_up_what_its_events_say() -> None:
    events: list[dict[str, Any]] = [wire.START, {"type": "ping"}, wire.BLOCK, wire.DELTA, wire.STOPPING, wire.STOP]
    stream = read(*(sse(event, event["type"]) for event in events), expected="anthropic")
    assert (stream.provider, stream.operation, stream.model) == ("anthropic", "chat", "claude-x")
    assert stream.usage == Usage(input=145, output=12, cache_read=40, cache_write=100)
    assert (stream.finish_reason, stream.finish(), stream.failure) == ("end_turn", None, None)


def test_a_message_speaks_after_its_start_and_pings() -> None:
    stream = read(sse({"type": "ping"}), sse(wire.START), sse({"type": "ping"}))
    assert not stream.spoke
    stream.feed(sse(wire.BLOCK))
    assert stream.spoke
    assert isinstance(stream.finish(), ResponseIncomplete)


def test_a_correction_in_a_message_delta_counts() -> None:
    stopping = {**wire.STOPPING, "usage": {"input_tokens": 6, "output_tokens": 3, "cache_read_input_tokens": None}}
    assert read(sse(wire.START), sse(wire.BLOCK), sse(stopping)).usage == Usage(146, 3, 40, 100)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_gemini_counts_thoughts_as_output(end: str) -> None:
    stream = read(sse(gemini("a"), end=end), expected="gemini")
    assert stream.spoke
    assert isinstance(stream.finish(), ResponseIncomplete)
    stream.feed(sse(gemini("b", finishReason="STOP"), end=end))
    assert (stream.provider, stream.operation, stream.model) == ("gcp.gemini", "generate_content", "gemini-2.5-flash")
    assert stream.usage == Usage(input=9, output=10, cache_read=2, reasoning=6)
    assert (stream.finish_reason, stream.finish()) == ("STOP", None)


def test_gemini_ends_with_a_blocked_prompt() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    stream = read(sse(blocked))
    assert (stream.spoke, stream.finish_reason, stream.finish()) == (True, "SAFETY", None)


def test_gemini_says_nothing_with_usage_alone() -> None:
    assert not read(sse({"usageMetadata": {"promptTokenCount": 4}})).spoke


def test_ollama_ends_with_done() -> None:
    stream = read_lines(line(ollama("")))
    assert not stream.spoke
    stream.feed(line(ollama("hello")))
    assert stream.spoke
    assert isinstance(stream.finish(), ResponseIncomplete)
    stream.feed(line(wire.OLLAMA_DONE))
    assert (stream.provider, stream.operation, stream.model) == ("ollama", "chat", "llama3.2")
    assert stream.usage == Usage(input=26, output=298)
    assert (stream.finish_reason, stream.finish()) == ("stop", None)


@pytest.mark.parametrize(
    "done", [b'"done":true', b'"done": true', b'"done" : true', b'"done":  true', b'"done"\t:true']
)
@pytest.mark.parametrize("together", [False, True])
def test_ollama_ends_in_any_spacing(done: bytes, together: bool) -> None:
    lines = [line(ollama("hi")), line(ollama('"done":true')), b'{"model":"m","message":{},%b,"eval_count":3}\n' % done]
    inspector = LlmLines()
    for part in (lines[:1], lines[1:]) if together else ([one] for one in lines):
        inspector.feed(b"".join(part))
    assert (inspector.finish(), inspector.usage) == (None, Usage(output=3))


def test_ollama_generates_and_thinks() -> None:
    stream = read_lines(line({"model": "m", "response": "", "thinking": "hm", "done": False}))
    assert (stream.operation, stream.spoke) == ("text_completion", True)


def test_a_line_with_an_error_is_a_failure() -> None:
    for stream in (read_lines(line({"error": "no model"})), read_lines(line(ollama("a")), line({"error": "no model"}))):
        assert str(stream.failure) == "no model"
        assert stream.provider == "ollama"
        assert stream.finish() is None


def test_lines_of_no_known_kind_are_passed_as_they_are() -> None:
    stream = read_lines(line({"a": 1}), line({"error": "x"}), line(ollama("a")))
    assert (stream.spoke, stream.provider, stream.failure, stream.finish()) == (True, "", None, None)


@pytest.mark.parametrize(
    "usage",
    ["x", 7, [], {}, {"prompt_tokens": -1}, {"prompt_tokens": 10**18}, {"prompt_tokens": True}, {"prompt_tokens": 1.5}],
)
def test_usage_that_makes_no_sense_is_ignored(usage: object) -> None:
    stream = read(HELLO, USED, sse(chat(choices=[], usage=usage)), DONE)
    assert stream.usage == Usage(input=11, output=7, cache_read=8, reasoning=3)


def test_the_last_usage_wins() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 9, "prompt_tokens_details": None}
    assert read(HELLO, USED, sse(chat(usage=usage)), DONE).usage == Usage(input=11, output=9)


@pytest.mark.parametrize("spacing", [wire.COMPACT, wire.PYTHONS])
def test_nulls_are_passed_over_in_either_spacing(spacing: tuple[str, str]) -> None:
    stream = read(HELLO)
    quiet = sse(chat({"content": 'with "usage": 1 and "error" in it'}, usage=None), spacing=spacing)
    assert stream.skips(quiet)
    assert not stream.skips(sse(chat(usage=wire.CHAT_USAGE), spacing=spacing))
    assert not stream.skips(sse(chat(finish="stop"), spacing=spacing))


@pytest.mark.parametrize("step", [1 << 14, 1 << 24])
def test_behind_an_event_over_the_limit_a_missing_marker_proves_nothing(step: int) -> None:
    whole = HELLO + sse(chat({"content": "x" * (LIMIT + 1)})) + LAST
    stream = read(*(whole[at : at + step] for at in range(0, len(whole), step)))
    assert stream.finish() is None
    assert (stream.finish_reason, stream.events) == ("stop", 3)


@pytest.mark.parametrize(
    "bomb",
    [
        '{"error":' + "[" * 100_000,
        '{"usage":' + "[" * 500_000 + "]" * 500_000 + "}",
        '{"usage":{"prompt_tokens":' + "9" * 1_000_000 + "}}",
        '{"usage":{"prompt_tokens":1' + ',"prompt_tokens":1' * 50_000 + "}}",
        '{"error":{"message":' + '{"a":' * 900 + "1" + "}" * 900 + "}}",
        '{"error":{"code":' + "9" * 4000 + ',"message":7}}',
        '{"finish_reason":1e999999,"choices":{"a":[[]]},"usage":[{}],"model":{"x":1},"error":null}',
        '{"choices":[{"delta":[],"finish_reason":{}},7,null],"usage":{"prompt_tokens_details":[]}}',
        '{"choices":[{"delta":{"content":"\\ud800"}}],"model":"' + "m" * 900_000 + '","error":""}',
    ],
)
def test_a_bomb_of_an_upstream_is_passed(bomb: str) -> None:
    for before in (b"", HELLO):
        stream = read(before, sse(bomb), b"data: \xff\xfe{\n\n", DONE)
        assert stream.events == (3 if not before else 4)
        stream.finish()
        assert len(stream.model) <= 256


def test_invalid_utf8_in_content_hides_nothing_else() -> None:
    broken = sse(chat({"content": "?"}, finish="stop")).replace(b"?", b"\xff")
    stream = read(HELLO, broken, DONE)
    assert (stream.finish_reason, stream.finish()) == ("stop", None)
