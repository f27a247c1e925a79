"""OpenAI's chat completions: ``POST /v1/chat/completions``, streamed and whole, and ``GET /v1/models``.

A stream is a sequence of ``chat.completion.chunk`` objects, the role first, then the text in deltas, then the reason
why it ended, then the usage where ``stream_options.include_usage`` asked for it, and ``data: [DONE]``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from streamproxy.demo.call import EVENT_STREAM, Call, Refused, sse
from streamproxy.demo.completion import MODEL, Completion, complete

Json = dict[str, object]


async def chat_completions(call: Call, token_delay: float) -> None:
    """Answer one chat completion; its tokens come ``token_delay`` seconds apart when it is streamed."""
    try:
        completion = complete(await call.document(), "max_tokens", "max_completion_tokens")
    except Refused as refusal:
        await call.answer(refusal.status, _error(refusal))
        return
    created = int(time.time())
    if completion.stream:
        await call.stream(EVENT_STREAM, _chunks(completion, created, token_delay))
    else:
        await call.answer(200, _whole(completion, created))


async def models(call: Call) -> None:
    """List the one model, in an object that both OpenAI's and Anthropic's SDKs read."""
    model = {
        "id": MODEL,
        "object": "model",
        "created": 1735689600,
        "owned_by": "streamproxy",
        "type": "model",
        "display_name": "Demo 1",
        "created_at": "2025-01-01T00:00:00Z",
    }
    await call.answer(200, {"object": "list", "data": [model], "has_more": False, "first_id": MODEL, "last_id": MODEL})


def _error(refusal: Refused) -> Json:
    error = {"message": refusal.message, "type": "invalid_request_error", "param": refusal.param, "code": None}
    return {"error": error}


def _usage(completion: Completion) -> Json:
    sent, received = completion.prompt_tokens, len(completion.tokens)
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def _reason(completion: Completion) -> str:
    return "length" if completion.cut else "stop"


def _whole(completion: Completion, created: int) -> Json:
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    return {
        "id": f"chatcmpl-{completion.id}",
        "object": "chat.completion",
        "created": created,
        "model": completion.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(completion)}],
        "usage": _usage(completion),
    }


async def _chunks(completion: Completion, created: int, token_delay: float) -> AsyncGenerator[bytes, None]:
    def chunk(choices: list[Json], usage: Json | None = None) -> bytes:
        document: Json = {
            "id": f"chatcmpl-{completion.id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": completion.model,
            "choices": choices,
        }
        if completion.include_usage:  # null in every chunk but the last, as the API has it
            document["usage"] = usage
        return sse(document)

    def choice(delta: Json, reason: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    yield chunk(choice({"role": "assistant", "content": ""}))
    for token in completion.tokens:
        await asyncio.sleep(token_delay)
        yield chunk(choice({"content": token}))
    yield chunk(choice({}, _reason(completion)))
    if completion.include_usage:
        yield chunk([], _usage(completion))
    yield b"data: [DONE]\n\n"
