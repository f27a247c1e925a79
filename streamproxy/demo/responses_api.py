"""OpenAI's Responses: ``POST /v1/responses``, streamed and whole.

A stream is a sequence of numbered events with types: the response is created, an item and a part of it are added, the
text is sent in ``response.output_text.delta`` events, and then everything is closed, with the response and its usage at
the end. A failing engine ends the stream with ``response.failed``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from streamproxy.demo.call import EVENT_STREAM, Call, Refused, sse
from streamproxy.demo.completion import FAILURE, Completion, Form, complete
from streamproxy.demo.openai_api import error

Json = dict[str, object]

_FORM = Form("input", ("max_output_tokens",), text=True)


async def responses(call: Call, token_delay: float) -> None:
    """Responds with a response object. If it is streamed, its tokens are sent ``token_delay`` seconds apart."""
    try:
        completion = complete(await call.document(), _FORM)
    except Refused as refusal:
        await call.answer(refusal.status, error(refusal))
        return
    writer = _Writer(completion)
    if completion.stream:
        await call.stream(EVENT_STREAM, writer.events(token_delay))
    else:
        await call.answer(200, writer.end()[1])


class _Writer:
    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._number = -1
        self._created = int(time.time())

    def _event(self, kind: str, **rest: object) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number, **rest}, event=kind)

    def _response(self, status: str, **rest: object) -> Json:
        response: Json = {
            "id": f"resp_{self._completion.id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self._completion.model,
            "output": [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }
        return response | rest

    def _part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": []}

    def _item(self, status: str, parts: list[Json]) -> Json:
        item = f"msg_{self._completion.id}"
        return {"type": "message", "id": item, "role": "assistant", "status": status, "content": parts}

    def end(self) -> tuple[str, Json]:
        """Returns the type of the last event and its response object."""
        completion = self._completion
        sent, received = completion.prompt_tokens, len(completion.tokens)
        if completion.fails:
            return "response.failed", self._response("failed", error={"code": "server_error", "message": FAILURE})
        status = "incomplete" if completion.cut else "completed"
        return f"response.{status}", self._response(
            status,
            incomplete_details={"reason": "max_output_tokens"} if completion.cut else None,
            output=[self._item(status, [self._part(completion.text)])],
            usage={
                "input_tokens": sent,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": received,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": sent + received,
            },
        )

    async def events(self, token_delay: float) -> AsyncGenerator[bytes, None]:
        """Yields the events of a stream."""
        completion, text = self._completion, self._completion.text
        place: Json = {"item_id": f"msg_{completion.id}", "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.output_item.added", output_index=0, item=self._item("in_progress", []))
        yield self._event("response.content_part.added", **place, part=self._part(""))
        for token in completion.tokens:
            await asyncio.sleep(token_delay)
            yield self._event("response.output_text.delta", **place, delta=token, logprobs=[])
        if not completion.fails:
            item = self._item("completed", [self._part(text)])
            yield self._event("response.output_text.done", **place, text=text, logprobs=[])
            yield self._event("response.content_part.done", **place, part=self._part(text))
            yield self._event("response.output_item.done", output_index=0, item=item)
        kind, response = self.end()
        yield self._event(kind, response=response)
