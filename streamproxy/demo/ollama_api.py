"""Ollama's own API: ``POST /api/chat`` and ``POST /api/generate``, which stream lines of JSON by default.

The last line has ``"done":true`` and the usage. A failing engine sends a line with ``{"error":"…"}``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from streamproxy.demo.call import Call, Refused, compact
from streamproxy.demo.completion import FAILURE, Completion, Form, complete
from streamproxy.demo.streams import NDJSON

Json = dict[str, object]

_CHAT = Form("messages", ("num_predict",), inside="options", streams=True)
_TEXT = Form("prompt", ("num_predict",), inside="options", text=True, streams=True)


async def chat(call: Call, token_delay: float) -> None:
    """Responds to a chat. If the response is streamed, its tokens are sent ``token_delay`` seconds apart."""
    await _answer(call, _CHAT, token_delay)


async def generate(call: Call, token_delay: float) -> None:
    """Responds to a prompt in the same way as `chat`."""
    await _answer(call, _TEXT, token_delay)


async def _answer(call: Call, form: Form, token_delay: float) -> None:
    try:
        completion = complete(await call.document(), form)
    except Refused as refusal:
        await call.answer(refusal.status, {"error": refusal.message})
        return
    if completion.stream:
        await call.stream(NDJSON, _lines(completion, form, token_delay))
    elif completion.fails:
        await call.answer(500, {"error": FAILURE})
    else:
        await call.answer(200, _line(completion, form, completion.text, done=True))


def _line(completion: Completion, form: Form, text: str, *, done: bool) -> Json:
    said: Json = {"message": {"role": "assistant", "content": text}} if form is _CHAT else {"response": text}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line: Json = {"model": completion.model, "created_at": now, **said, "done": done}
    if done:
        line |= {
            "done_reason": "length" if completion.cut else "stop",
            "total_duration": 0,
            "load_duration": 0,
            "prompt_eval_count": completion.prompt_tokens,
            "prompt_eval_duration": 0,
            "eval_count": len(completion.tokens),
            "eval_duration": 0,
        }
    return line


async def _lines(completion: Completion, form: Form, token_delay: float) -> AsyncGenerator[bytes, None]:
    for token in completion.tokens:
        await asyncio.sleep(token_delay)
        yield compact(_line(completion, form, token, done=False)) + b"\n"
    if completion.fails:
        yield compact({"error": FAILURE}) + b"\n"
    else:
        yield compact(_line(completion, form, "", done=True)) + b"\n"
