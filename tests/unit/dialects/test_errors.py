"""The error objects and error events of each API, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamproxy.dialects.anthropic import AnthropicDialect
from streamproxy.dialects.auto import AutoDialect
from streamproxy.dialects.base import Dialect
from streamproxy.dialects.gemini import GeminiDialect
from streamproxy.dialects.llm import LlmDialect
from streamproxy.dialects.ollama import OllamaDialect
from streamproxy.dialects.openai import OpenAIDialect
from streamproxy.errors import (
    BadRequest,
    BodyTooLarge,
    ClientLimitReached,
    Denied,
    DestinationUnavailable,
    ExchangeError,
    HeadTimeout,
    LimitReached,
    NoRoute,
    ResponseIncomplete,
    UpstreamReportedError,
)

DIALECTS = [OpenAIDialect(), AnthropicDialect(), GeminiDialect(), OllamaDialect()]
CUT = ResponseIncomplete("cut")
NESTED = (
    b"event: error\n"
    b'data: {"type":"error","error":{"type":"api_error","code":"http_response_incomplete","message":"cut"}}\n\n'
)


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        (OpenAIDialect(), NESTED),
        (AnthropicDialect(), NESTED),
        (GeminiDialect(), b'data: {"error":{"code":502,"status":"UNAVAILABLE","message":"cut"}}\n\n'),
        (OllamaDialect(), b'{"error":"cut"}\n'),
    ],
)
def test_an_error_event_has_the_form_of_its_api(dialect: Dialect, event: bytes) -> None:
    assert dialect.error_event(CUT, "r1") == event


@pytest.mark.parametrize(
    ("error", "status", "openai", "anthropic", "gemini"),
    [
        (BadRequest(), 400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
        (Denied(challenge="Bearer"), 401, "authentication_error", "authentication_error", "UNAUTHENTICATED"),
        (NoRoute(), 404, "invalid_request_error", "not_found_error", "NOT_FOUND"),
        (BodyTooLarge(), 413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"),
        (ClientLimitReached(), 429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"),
        (ExchangeError(), 500, "server_error", "api_error", "INTERNAL"),
        (CUT, 502, "server_error", "api_error", "UNAVAILABLE"),
        (DestinationUnavailable(), 503, "server_error", "api_error", "UNAVAILABLE"),
        (HeadTimeout(), 504, "server_error", "timeout_error", "DEADLINE_EXCEEDED"),
        (UpstreamReportedError(status=529), 529, "server_error", "overloaded_error", "UNAVAILABLE"),
    ],
)
def test_an_error_object_tells_the_status_in_the_words_of_its_api(
    error: ExchangeError, status: int, openai: str, anthropic: str, gemini: str
) -> None:
    assert error.status == status
    said = [json.loads(dialect.error(error, "r1")[1]) for dialect in DIALECTS]
    assert said[0] == {"error": {"message": error.detail, "type": openai, "param": None, "code": error.error}}
    assert said[1] == {"type": "error", "error": {"type": anthropic, "message": error.detail}, "request_id": "r1"}
    assert said[2] == {"error": {"code": status, "status": gemini, "message": error.detail}}
    assert said[3] == {"error": error.detail}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_fields_are_those_of_every_error(dialect: Dialect) -> None:
    fields, body = dialect.error(LimitReached(retry_after=0.2), "r1")
    assert fields[:7] == [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"proxy-status", b"streamproxy; error=connection_limit_reached"),
        (b"via", b"1.1 streamproxy"),
        (b"x-request-id", b"r1"),
        (b"retry-after", b"1"),
    ]
    assert dict(dialect.error(Denied(challenge="Bearer x"), "r1")[0])[b"www-authenticate"] == b"Bearer x"
    assert dict(dialect.error(BodyTooLarge(), "r1")[0])[b"connection"] == b"close"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_an_upstream_reported_goes_out_as_it_said_it(dialect: LlmDialect) -> None:
    payload = b'{"error": {"type":"overloaded_error","message":"busy\\nnow"}}'
    error = UpstreamReportedError("busy", status=529, payload=payload)
    assert dialect.error(error, "r1")[1] == payload
    event = dialect.error_event(error, "r1")
    said: Any = json.loads(event.split(b"data: ")[-1])["error"]
    assert said == ("busy\nnow" if dialect.name == "ollama" else {"type": "overloaded_error", "message": "busy\nnow"})
    assert event.strip().count(b"\n") == (1 if b"event:" in event else 0)


@pytest.mark.parametrize("payload", [b'{"error":"busy"}', b"", b"[", b'{"error":' + b"[" * 5000])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_report_in_any_form_is_told(dialect: LlmDialect, payload: bytes) -> None:
    error = UpstreamReportedError("busy", payload=payload)
    assert b"busy" in dialect.error_event(error, "r1")


class Plain(Dialect):
    def error(self, error: ExchangeError, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
        return [], b"plain"

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        return b"plain event"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/v1/chat/completions", "openai"),
        (b"/v1/completions", "openai"),
        (b"/openai/responses", "openai"),
        (b"/v1/embeddings", "openai"),
        (b"/v1/messages", "anthropic"),
        (b"/v1beta/models/gemini-2.5-flash:generateContent", "gemini"),
        (b"/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini"),
        (b"/api/chat", "ollama"),
        (b"/api/generate", "ollama"),
        (b"/v1/models", "auto"),
        (b"/", "auto"),
    ],
)
def test_auto_tells_the_api_by_the_end_of_the_path(path: bytes, name: str) -> None:
    assert AutoDialect(Plain()).for_path(path).name == name


def test_auto_says_errors_plainly_where_the_path_tells_nothing() -> None:
    auto = AutoDialect(Plain())
    assert auto.error(CUT, "r1") == ([], b"plain")
    assert auto.error_event(CUT, "r1") == b"plain event"
    assert OpenAIDialect().for_path(b"/v1/messages").name == "openai"
