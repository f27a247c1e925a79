"""The JSON answers to requests that do not stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.openai import OpenAIDialect
from streamproxy.dialects.stream import LlmAnswer, LlmEvents, LlmLines
from streamproxy.formats.events import LIMIT
from streamproxy.formats.inspector import Usage
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import SseTracker
from tests.unit.dialects import wire
from tests.unit.formats.splits import splits

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
CHAT = {"object": "chat.completion", "model": "qwen3", "choices": [CHOICE], "usage": wire.CHAT_USAGE}
EMBEDDING = {"object": "embedding", "index": 0, "embedding": [0.5] * 20_000}
EMBEDDINGS = {"object": "list", "data": [EMBEDDING], "model": "e5", "usage": {"prompt_tokens": 8, "total_tokens": 8}}
RESPONSE = {**wire.RESPONSE, "usage": wire.RESPONSE_USAGE}
MESSAGE = {**wire.MESSAGE, "stop_reason": "end_turn"}
ANSWERS: list[tuple[dict[str, Any], tuple[str, str, str, str], Usage]] = [
    (CHAT, ("openai", "chat", "qwen3", "stop"), Usage(11, 7, 8, None, 3)),
    (
        wire.text("a", "stop", usage=wire.CHAT_USAGE),
        ("openai", "text_completion", "qwen3", "stop"),
        Usage(11, 7, 8, None, 3),
    ),
    (EMBEDDINGS, ("openai", "embeddings", "e5", ""), Usage(8)),
    (RESPONSE, ("openai", "chat", "gpt-5", "completed"), Usage(36, 87, 20, None, 64)),
    (MESSAGE, ("anthropic", "chat", "claude-x", "end_turn"), Usage(145, 1, 40, 100)),
    (
        wire.gemini("a", finishReason="STOP"),
        ("gcp.gemini", "generate_content", "gemini-2.5-flash", "STOP"),
        Usage(9, 10, 2, None, 6),
    ),
    (wire.OLLAMA_DONE, ("ollama", "chat", "llama3.2", "stop"), Usage(26, 298)),
]


@given(st.data(), st.sampled_from(ANSWERS))
def test_an_answer_says_what_its_stream_would_under_any_split(
    data: st.DataObject, case: tuple[dict[str, Any], tuple[str, str, str, str], Usage]
) -> None:
    answer, said, usage = case
    inspector = LlmAnswer()
    for chunk in data.draw(splits(json.dumps(answer).encode())):
        inspector.feed(chunk)
    assert inspector.finish() is None
    assert (inspector.provider, inspector.operation, inspector.model, inspector.finish_reason) == said
    assert inspector.usage == usage
    assert not inspector.between_events


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data":[]}',
        b'{"object":"list","data":[]}',
        b'{"object":"chat.completion","usage":{"prompt_tokens":5}',
        b'{"object":"chat.completion","usage":' + b"[" * 400 + b"]" * 400 + b"}",
        b'{"object":"chat.completion","usage":{"prompt_tokens":' + b"9" * 5000 + b"}}",
        json.dumps(CHAT | {"a": "x" * LIMIT}).encode(),
    ],
)
def test_an_answer_that_says_nothing_is_passed(body: bytes) -> None:
    inspector = LlmAnswer()
    inspector.feed(body)
    assert inspector.finish() is None
    assert inspector.usage is None


@pytest.mark.parametrize(
    ("status", "media", "kind"),
    [
        (200, b"text/event-stream", LlmEvents),
        (503, b"text/event-stream", SseTracker),
        (200, b"application/x-ndjson", LlmLines),
        (404, b"application/ndjson", LineCounter),
        (200, b"application/json", LlmAnswer),
        (429, b"application/json", type(None)),
        (200, b"text/html", type(None)),
    ],
)
def test_the_media_type_and_the_status_choose_the_inspector(status: int, media: bytes, kind: type) -> None:
    assert type(OpenAIDialect().inspector(status, media)) is kind
