"""Anthropic's messages: ``POST /v1/messages``, streamed and whole.

A stream is a sequence of named events: ``message_start``, ``content_block_start``, ``ping``, the text in
``content_block_delta`` events, ``content_block_stop``, ``message_delta`` with the usage, and ``message_stop``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from streamproxy.demo.call import EVENT_STREAM, Call, Refused, sse
from streamproxy.demo.completion import FAILURE, Completion, Form, complete

Json = dict[str, object]

_FORM = Form("messages", ("max_tokens",))


async def messages(call: Call, token_delay: float) -> None:
    """Responds with a message. If it is streamed, its tokens are sent ``token_delay`` seconds apart."""
    try:
        completion = complete(await call.document(), _FORM)
    except Refused as refusal:
        kind = "request_too_large" if refusal.status == 413 else "invalid_request_error"
        await call.answer(refusal.status, {"type": "error", "error": {"type": kind, "message": refusal.message}})
        return
    if completion.fails and not completion.stream:
        await call.answer(529, _failure())
    elif completion.stream:
        await call.stream(EVENT_STREAM, _events(completion, token_delay))
    else:
        text: Json = {"type": "text", "text": completion.text}
        await call.answer(200, _message(completion, [text], _reason(completion), len(completion.tokens)))


def _failure() -> Json:
    return {"type": "error", "error": {"type": "overloaded_error", "message": FAILURE}}


def _reason(completion: Completion) -> str:
    return "max_tokens" if completion.cut else "end_turn"


def _message(completion: Completion, content: list[Json], reason: str | None, output_tokens: int) -> Json:
    return {
        "id": f"msg_{completion.id}",
        "type": "message",
        "role": "assistant",
        "model": completion.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": completion.prompt_tokens, "output_tokens": output_tokens},
    }


async def _events(completion: Completion, token_delay: float) -> AsyncGenerator[bytes, None]:
    def event(kind: str, **rest: object) -> bytes:
        return sse({"type": kind, **rest}, event=kind)

    yield event("message_start", message=_message(completion, [], None, 0))
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield event("ping")
    for token in completion.tokens:
        await asyncio.sleep(token_delay)
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})
    if completion.fails:
        yield sse(_failure(), event="error")
        return
    yield event("content_block_stop", index=0)
    delta = {"stop_reason": _reason(completion), "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": len(completion.tokens)})
    yield event("message_stop")
