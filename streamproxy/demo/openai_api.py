"""OpenAI's chat and text completions, streamed and whole, and ``GET /v1/models``.

A stream is a sequence of ``chat.completion.chunk`` objects: the role, the text in deltas, the finish reason, the usage
if ``stream_options.include_usage`` requests it, and ``data: [DONE]``. A stream of ``POST /v1/completions`` is the same
without roles. A failing engine sends an error in a chunk and then the end marker, as vLLM does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from streamproxy.demo.call import EVENT_STREAM, Call, Refused, sse
from streamproxy.demo.completion import FAILURE, MODELS, Completion, Form, complete

Json = dict[str, object]

_CHAT = Form("messages", ("max_tokens", "max_completion_tokens"))
_TEXT = Form("prompt", ("max_tokens",), text=True)


async def chat_completions(call: Call, token_delay: float) -> None:
    """Responds with a chat completion. If it is streamed, its tokens are sent ``token_delay`` seconds apart."""
    await _answer(call, _CHAT, token_delay)


async def completions(call: Call, token_delay: float) -> None:
    """Responds with a text completion in the same way as `chat_completions`."""
    await _answer(call, _TEXT, token_delay)


async def _answer(call: Call, form: Form, token_delay: float) -> None:
    try:
        completion = complete(await call.document(), form)
    except Refused as refusal:
        await call.answer(refusal.status, error(refusal))
        return
    writer = _Writer(completion, chat=form is _CHAT)
    if completion.fails and not completion.stream:
        await call.answer(500, _failure())
    elif completion.stream:
        await call.stream(EVENT_STREAM, writer.chunks(token_delay))
    else:
        await call.answer(200, writer.whole())


async def models(call: Call) -> None:
    """Lists the models, in a form that the SDKs of both OpenAI and Anthropic can read."""
    listed = [_model(name) for name in MODELS]
    document = {"object": "list", "data": listed, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
    await call.answer(200, document)


def _model(name: str) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": 1735689600,
        "owned_by": "streamproxy",
        "type": "model",
        "display_name": name.replace("-", " ").capitalize(),
        "created_at": "2025-01-01T00:00:00Z",
    }


def error(refusal: Refused) -> Json:
    """Returns the body of a refusal."""
    said = {"message": refusal.message, "type": "invalid_request_error", "param": refusal.param, "code": None}
    return {"error": said}


def _failure() -> Json:
    return {"error": {"message": FAILURE, "type": "InternalServerError", "param": None, "code": 500}}


def _usage(completion: Completion) -> Json:
    sent, received = completion.prompt_tokens, len(completion.tokens)
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def _reason(completion: Completion) -> str:
    return "length" if completion.cut else "stop"


class _Writer:
    """Writes a completion in the form of a chat or of a text."""

    def __init__(self, completion: Completion, *, chat: bool) -> None:
        self._completion = completion
        self._chat = chat
        self._head: Json = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{completion.id}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": completion.model,
        }

    def whole(self) -> Json:
        """Returns the response to a request that does not stream."""
        completion = self._completion
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        said: Json = {"message": message} if self._chat else {"text": completion.text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": _reason(completion)}
        return self._head | {"choices": [choice], "usage": _usage(completion)}

    async def chunks(self, token_delay: float) -> AsyncGenerator[bytes, None]:
        """Yields the events of a stream."""
        completion = self._completion
        if self._chat:
            self._head["object"] = "chat.completion.chunk"
            yield self._chunk(self._choice("", role="assistant"))
        for token in completion.tokens:
            await asyncio.sleep(token_delay)
            yield self._chunk(self._choice(token))
        if completion.fails:
            yield sse(_failure())
        else:
            yield self._chunk(self._choice(None, _reason(completion)))
            if completion.include_usage:
                yield self._chunk([], _usage(completion))
        yield b"data: [DONE]\n\n"

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> bytes:
        document = self._head | {"choices": choices}
        if self._completion.include_usage:  # null in every chunk but the last, as the API has it
            document["usage"] = usage
        return sse(document)

    def _choice(self, text: str | None, reason: str | None = None, **first: str) -> list[Json]:
        delta: Json = {**first} if text is None else {**first, "content": text}
        said: Json = {"delta": delta} if self._chat else {"text": text or ""}
        return [{"index": 0, **said, "logprobs": None, "finish_reason": reason}]
