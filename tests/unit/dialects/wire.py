"""Events of the LLM APIs as their servers send them."""

from __future__ import annotations

import json
from typing import Any

# Between members, and behind a name: as most servers write it, as Python does, and as nobody does.
COMPACT, PYTHONS, ODD = (",", ":"), (", ", ": "), (" ,\t", "  :  ")


def sse(data: Any, name: str = "", end: str = "\n", *, spacing: tuple[str, str] = COMPACT) -> bytes:
    """One event, with these line ends, in this spacing."""
    text = data if isinstance(data, str) else json.dumps(data, separators=spacing)
    lines = ([f"event: {name}"] if name else []) + [f"data: {text}"]
    return "".join(line + end for line in [*lines, ""]).encode()


def line(data: Any, spacing: tuple[str, str] = COMPACT) -> bytes:
    return json.dumps(data, separators=spacing).encode() + b"\n"


def chat(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}]
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "qwen3", "choices": choices}
    return {**chunk, **more}


def text(piece: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": piece, "finish_reason": finish}
    return {"object": "text_completion", "model": "qwen3", "choices": [choice], **more}


CHAT_USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
AZURE = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []}
ROLE = chat({"role": "assistant", "content": ""})
VLLM_ERROR = {"error": {"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500}}
LIMITED = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}


def response(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "sequence_number": 1, **more}


RESPONSE = {"id": "r1", "object": "response", "model": "gpt-5", "status": "completed", "error": None, "usage": None}
RESPONSE_USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 20},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}

MESSAGE: dict[str, Any] = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [],
    "stop_reason": None,
    "usage": {
        "input_tokens": 5,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 40,
        "output_tokens": 1,
    },
}
START: dict[str, Any] = {"type": "message_start", "message": MESSAGE}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}
STOPPING: dict[str, Any] = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"output_tokens": 12},
}
STOP = {"type": "message_stop"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def gemini(piece: str, **candidate: Any) -> dict[str, Any]:
    content = {"parts": [{"text": piece}], "role": "model"}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "cachedContentTokenCount": 2}
    candidates = [{"content": content, "index": 0, **candidate}]
    return {"candidates": candidates, "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}


GEMINI_ERROR = {"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}


def ollama(piece: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "llama3.2",
        "created_at": "t",
        "message": {"role": "assistant", "content": piece},
        "done": False,
    } | more


OLLAMA_DONE = ollama("", done=True, done_reason="stop", prompt_eval_count=26, eval_count=298)
