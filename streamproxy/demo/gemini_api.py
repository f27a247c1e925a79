"""Gemini's ``generateContent`` and ``streamGenerateContent`` under ``/v1beta/models/NAME``.

A stream is a sequence of responses, each with a part of the text. The last one has the finish reason and the usage.
Only event streams are supported: requests need ``alt=sse``, which the SDKs send.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from streamproxy.demo.call import EVENT_STREAM, Call, Refused, sse
from streamproxy.demo.completion import FAILURE, TOKENS_BEFORE_FAILURE, Completion, Form, complete

Json = dict[str, object]

_FORM = Form("contents", ("maxOutputTokens",), inside="generationConfig")


async def generate(call: Call, token_delay: float) -> None:
    """Responds to a prompt. If the response is streamed, its tokens are sent ``token_delay`` seconds apart."""
    model, _, verb = call.path.rpartition("/")[2].partition(":")
    try:
        if verb not in ("generateContent", "streamGenerateContent"):
            raise Refused(404, "There are generateContent and streamGenerateContent")
        if verb == "streamGenerateContent" and call.text("alt") != "sse":
            raise Refused(400, "The demo streams events alone: ask with alt=sse")
        completion = complete(await call.document(), _FORM)._replace(model=model)
    except Refused as refusal:
        await call.answer(refusal.status, _error(refusal.status, "INVALID_ARGUMENT", refusal.message))
        return
    if completion.fails:
        completion = completion._replace(tokens=completion.tokens[:TOKENS_BEFORE_FAILURE])
    if verb == "streamGenerateContent":
        await call.stream(EVENT_STREAM, _responses(completion, token_delay))
    elif completion.fails:
        await call.answer(503, _error(503, "UNAVAILABLE", FAILURE))
    else:
        await call.answer(200, _response(completion, completion.text, last=True))


def _error(code: int, status: str, message: str) -> Json:
    return {"error": {"code": code, "message": message, "status": status}}


def _response(completion: Completion, text: str, *, last: bool) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    sent, received = completion.prompt_tokens, len(completion.tokens)
    response: Json = {"candidates": [candidate], "modelVersion": completion.model, "responseId": completion.id}
    if last:
        candidate["finishReason"] = "MAX_TOKENS" if completion.cut else "STOP"
        response["usageMetadata"] = {
            "promptTokenCount": sent,
            "candidatesTokenCount": received,
            "totalTokenCount": sent + received,
        }
    return response


async def _responses(completion: Completion, token_delay: float) -> AsyncGenerator[bytes, None]:
    *before, final = completion.tokens
    for token in completion.tokens if completion.fails else before:
        await asyncio.sleep(token_delay)
        yield sse(_response(completion, token, last=False))
    if completion.fails:
        yield sse(_error(503, "UNAVAILABLE", FAILURE))
    else:
        yield sse(_response(completion, final, last=True))
