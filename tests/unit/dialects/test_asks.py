"""Which requests ask for a stream, and which for one of events."""

from __future__ import annotations

import pytest

from streamproxy.dialects.protocols import DIALECTS

CHAT, GEMINI, OLLAMA = b"/v1/chat/completions", b"/v1beta/models/g:streamGenerateContent", b"/api/chat"


@pytest.mark.parametrize(
    ("protocol", "path", "query", "stream", "asks", "for_events"),
    [
        ("openai", CHAT, None, True, True, True),
        ("openai", CHAT, None, False, False, False),
        ("openai", CHAT, None, None, False, False),
        ("openai", b"/v1/responses", None, True, True, True),
        ("anthropic", b"/v1/messages", None, True, True, True),
        ("gemini", GEMINI, b"alt=sse", None, True, True),
        ("gemini", GEMINI, b"key=k&alt=sse", None, True, True),
        ("gemini", GEMINI, b"alt=sse2", None, False, False),
        ("gemini", GEMINI, None, True, False, False),
        ("gemini", b"/v1beta/models/g:generateContent", b"alt=sse", None, False, False),
        ("ollama", OLLAMA, None, True, True, False),
        ("ollama", CHAT, None, True, True, True),
        ("auto", OLLAMA, None, True, True, False),
        ("auto", GEMINI, b"alt=sse", None, True, True),
        ("auto", b"/somewhere", None, True, True, True),
        ("http", CHAT, None, True, False, False),
    ],
)
def test_a_stream_is_asked_for_as_the_api_does_it(
    protocol: str, path: bytes, query: bytes | None, stream: bool | None, asks: bool, for_events: bool
) -> None:
    dialect = DIALECTS[protocol].for_path(path)
    assert dialect.asks_for_stream(path, query, stream) is asks
    assert dialect.asks_for_events(path, query, stream) is for_events
