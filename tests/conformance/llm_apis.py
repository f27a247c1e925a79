"""The table of the LLM APIs, as bytes: what a stream of each says, how it ends, and how it fails."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tests.unit.dialects import wire
from tests.unit.dialects.wire import chat, gemini, line, ollama, response, sse, text

SSE, NDJSON = "text/event-stream", "application/x-ndjson"


class Api(NamedTuple):
    """``quiet`` events come before the first that says something, which is any of ``speech``.

    Before the ``ends``, each of which ends a stream well, comes ``spends``; the ``used`` tokens are the input, the
    output, those read from and written to a cache, and of reasoning. ``answer`` is the one to a request that does not
    stream. ``failures`` have the status of the response that the client gets where there is no head yet.
    """

    protocol: str
    path: str
    quiet: list[bytes]
    speech: list[bytes]
    spends: list[bytes]
    ends: list[bytes]
    used: tuple[int | None, ...]
    answer: dict[str, Any]
    failures: list[tuple[bytes, int]]
    media: str = SSE

    @property
    def stream(self) -> bytes:
        """A whole stream."""
        return b"".join([*self.quiet, self.speech[0], *self.spends, self.ends[0]])


def event(data: dict[str, Any]) -> bytes:
    return sse(data, data["type"])


def said(kind: str, **more: Any) -> bytes:
    """An event of the Responses API."""
    return event(response(kind, **more))


def report(error: dict[str, Any]) -> bytes:
    return sse({"error": error})


COMMENT = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"
LIMITED = {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}
UNFINISHED = wire.RESPONSE | {"status": "in_progress"}
FAILED = wire.RESPONSE | {"status": "failed", "error": {"code": "server_error", "message": "broken"}}
CUT_SHORT = wire.RESPONSE | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
SPENT = {"usage": wire.RESPONSE_USAGE}
BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": gemini("")["usageMetadata"]}

APIS = {
    "chat": Api(
        protocol="openai",
        path="/v1/chat/completions",
        quiet=[COMMENT, sse(wire.AZURE), sse(wire.ROLE)],
        speech=[
            sse(chat({"content": "hi"})),
            sse(chat({"reasoning_content": "hm"})),
            sse(chat({"tool_calls": [{"index": 0, "function": {"name": "f"}}]})),
            sse(chat({"refusal": "no"})),
            sse(chat(finish="stop")),
        ],
        spends=[sse(chat(usage={"prompt_tokens": 1})), sse(chat(usage=wire.CHAT_USAGE)), sse(chat(usage=None))],
        ends=[DONE],
        used=(11, 7, 8, None, 3),
        answer={"object": "chat.completion", "model": "m", "choices": [], "usage": wire.CHAT_USAGE},
        failures=[
            (sse(wire.VLLM_ERROR) + DONE, 502),
            (report(LIMITED), 429),
            (sse({"object": "error", "message": "old"}), 502),
        ],
    ),
    "completions": Api(
        protocol="openai",
        path="/v1/completions",
        quiet=[COMMENT, sse(text(""))],
        speech=[sse(text("hi")), sse(text("", "stop"))],
        spends=[sse(text("", usage=wire.CHAT_USAGE))],
        ends=[DONE],
        used=(11, 7, 8, None, 3),
        answer={"object": "text_completion", "model": "m", "choices": [], "usage": wire.CHAT_USAGE},
        failures=[(sse(wire.VLLM_ERROR) + DONE, 502), (report(LIMITED), 429)],
    ),
    "responses": Api(
        protocol="openai",
        path="/v1/responses",
        quiet=[COMMENT, *(said(kind, response=UNFINISHED) for kind in ("created", "queued", "in_progress"))],
        speech=[said("output_text.delta", delta="hi"), said("output_item.added", item={})],
        spends=[],
        ends=[said("completed", response=wire.RESPONSE | SPENT), said("incomplete", response=CUT_SHORT | SPENT)],
        used=(36, 87, 20, None, 64),
        answer=wire.RESPONSE | SPENT,
        failures=[
            (said("failed", response=FAILED), 502),
            (event({"type": "error", "code": "rate_limit_exceeded", "message": "slow down"}), 429),
        ],
    ),
    "anthropic": Api(
        protocol="anthropic",
        path="/v1/messages",
        quiet=[COMMENT, event({"type": "ping"}), event(wire.START)],
        speech=[event(wire.BLOCK), event(wire.DELTA)],
        spends=[event(wire.STOPPING)],
        ends=[event(wire.STOP)],
        used=(145, 12, 40, 100, None),
        answer=wire.MESSAGE | {"usage": wire.MESSAGE["usage"] | {"output_tokens": 12}},
        failures=[
            (event(wire.OVERLOADED), 529),
            (event({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}), 429),
            (event({"type": "error", "error": {"type": "api_error", "message": "broken"}}), 502),
        ],
    ),
    "gemini": Api(
        protocol="gemini",
        path="/v1beta/models/g:streamGenerateContent?alt=sse",
        quiet=[COMMENT, sse({"usageMetadata": {"promptTokenCount": 9}})],
        speech=[sse(gemini("hi")), sse(BLOCKED)],
        spends=[],
        ends=[sse(gemini("", finishReason="STOP")), sse(BLOCKED)],
        used=(9, 10, 2, None, 6),
        answer=gemini("hi", finishReason="STOP"),
        failures=[
            (sse(wire.GEMINI_ERROR), 429),
            (sse({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}), 502),
        ],
    ),
    "ollama": Api(
        protocol="ollama",
        path="/api/chat",
        quiet=[line(ollama(""))],
        speech=[
            line(ollama("hi")),
            line(ollama("", message={"role": "assistant", "content": "", "thinking": "hm"})),
            line(ollama("", message={"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]})),
            line({"model": "llama3", "response": "hi", "done": False}),
            line(wire.OLLAMA_DONE),
        ],
        spends=[],
        ends=[line(wire.OLLAMA_DONE)],
        used=(26, 298, None, None, None),
        answer=wire.OLLAMA_DONE | {"message": {"role": "assistant", "content": "hi"}},
        failures=[(line({"error": "broken"}), 502)],
        media=NDJSON,
    ),
}
ERRORS = {  # where each API has the kind of an error in its own form
    "openai": lambda body: body["error"]["type"],
    "anthropic": lambda body: body["error"]["type"],
    "gemini": lambda body: body["error"]["status"],
    "ollama": lambda body: type(body["error"]).__name__,
}
KINDS = {  # and what it says there of 401, 429 and 502
    "openai": ("authentication_error", "rate_limit_error", "server_error"),
    "anthropic": ("authentication_error", "rate_limit_error", "api_error"),
    "gemini": ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    "ollama": ("str", "str", "str"),
}


def kind_of(api: Api, body: bytes) -> str:
    """The kind of an error in this API's form."""
    return str(ERRORS[api.protocol](json.loads(body)))
