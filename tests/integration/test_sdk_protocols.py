"""What a user's code sees through a route with a ``protocol``: the text, or its SDK's own exception."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.conftest import Serve
from tests.doubles.upstream import Conn, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

HI = [{"role": "user", "content": "hi"}]


def sse(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def delta(**content: str) -> bytes:
    choice = {"index": 0, "delta": content, "finish_reason": None}
    return sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def part(text: str, **more: str) -> bytes:
    return sse({"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, **more}]})


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
WORD = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word"}}
# For the end of a request's path: the media type, the first events, those that end it well, and a failure.
ENGINES: dict[str, tuple[str, list[bytes], list[bytes], bytes]] = {
    "/chat/completions": (
        "text/event-stream",
        [delta(role="assistant"), delta(content="word")],
        [b"data: [DONE]\n\n"],
        sse({"error": {"message": "no memory", "type": "server_error", "code": 500}}) + b"data: [DONE]\n\n",
    ),
    "/messages": (
        "text/event-stream",
        [
            sse({"type": "message_start", "message": MESSAGE | {"usage": {"input_tokens": 1, "output_tokens": 1}}}),
            sse(TEXT),
            sse(WORD),
        ],
        [sse({"type": "content_block_stop", "index": 0}), sse({"type": "message_stop"})],
        sse({"type": "error", "error": {"type": "overloaded_error", "message": "no memory"}}),
    ),
    ":streamGenerateContent": (
        "text/event-stream",
        [part("word")],
        [part("", finishReason="STOP")],
        sse({"error": {"code": 500, "status": "INTERNAL", "message": "no memory"}}),
    ),
    "/api/chat": (
        "application/x-ndjson",
        [line({"model": "m", "message": {"role": "assistant", "content": "word"}, "done": False})],
        [line({"model": "m", "message": {"role": "assistant", "content": ""}, "done": True})],
        line({"error": "no memory"}),
    ),
}


async def engine(conn: Conn) -> None:
    """Does what the model's name says, one request after the other: whole, failure, before, after, marker."""
    while conn.ended is None:
        await answer(conn)


async def answer(conn: Conn) -> None:
    head, body = await conn.read_request()
    path = head.target.partition(b"?")[0].decode()
    media, first, last, failure = next(one for end, one in ENGINES.items() if path.endswith(end))
    found = re.search(r"(whole|failure|before|after|marker)", body.decode() + path)
    scene = found[1] if found is not None else ""
    if scene == "before":
        conn.reset()
        return
    await conn.send(stream_head(media))
    for event in first:
        await conn.send_chunk(event)
    if scene == "after":
        await conn.stall()
        conn.reset()
        return
    for event in {"whole": last, "failure": [failure]}.get(scene, []):
        await conn.send_chunk(event)
    await conn.send_chunk(b"")


Words = AsyncIterator[str]


async def openai_words(url: str, model: str) -> Words:
    http = httpx2.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, http_client=http) as client:
        messages: Any = HI
        stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content


async def anthropic_words(url: str, model: str) -> Words:
    http = httpx2.AsyncClient(trust_env=False)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0, http_client=http) as client:
        messages: Any = HI
        stream = await client.messages.create(model=model, max_tokens=9, messages=messages, stream=True)
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text


async def gemini_words(url: str, model: str) -> Words:
    genai = pytest.importorskip("google.genai", exc_type=ImportError)
    options = genai.types.HttpOptions(base_url=url, async_client_args={"trust_env": False})
    client = genai.Client(api_key="key", http_options=options)
    try:
        async for chunk in await client.aio.models.generate_content_stream(model=model, contents="hi"):
            if chunk.text:
                yield chunk.text
    finally:
        await client.aio.aclose()
        client.close()


async def ollama_words(url: str, model: str) -> Words:
    sdk = pytest.importorskip("ollama", exc_type=ImportError)
    client = sdk.AsyncClient(host=url, trust_env=False)
    try:
        async for piece in await client.chat(model=model, messages=HI, stream=True):
            if piece.message.content:
                yield piece.message.content
    finally:
        await client._client.aclose()  # it has no public way


Sdk = Callable[[str, str], Words]
CUT = "The upstream did not finish its response"
NO_MARKER = "The upstream ended its stream without the end marker of its API"
# The classes of an error before the head, of a refused credential, and of an error inside a stream.
SDKS: dict[str, tuple[Sdk, tuple[str, str, str]]] = {
    "openai": (openai_words, ("InternalServerError", "AuthenticationError", "APIError")),
    "anthropic": (anthropic_words, ("InternalServerError", "AuthenticationError", "APIStatusError")),
    "google-genai": (gemini_words, ("ServerError", "ClientError", "ServerError")),
    "ollama": (ollama_words, ("ResponseError", "ResponseError", "ResponseError")),
}


async def outcome(words: Words, first: Callable[[], Awaitable[None]] | None = None) -> tuple[str, Exception | None]:
    """All the text that came, and the exception that ended it. ``first`` is called after the first word."""
    text = ""
    try:
        async for word in words:
            text += word
            if first is not None:
                await first()
    except Exception as error:
        return text, error
    return text, None


@pytest.mark.parametrize("sdk", SDKS)
async def test_users_code_sees_the_text_or_the_sdks_own_exception(run_proxy: RunProxy, serve: Serve, sdk: str) -> None:
    upstream = await serve(engine)
    route = {"upstream": upstream.url, "protocol": "auto", "on_truncation": "error_event"}
    locked = route | {"path": "/locked/*", "auth": {"bearer": {"tokens": ["another"]}}, "name": "locked"}
    proxy = await run_proxy(configuration([locked, route | {"path": "/*"}]))
    words, (before, denied, inside) = SDKS[sdk]

    async def release() -> None:
        upstream.connections[-1].go.set()

    assert await outcome(words(proxy.url, "whole")) == ("word", None)
    for url, model, text, kind, message in (
        (proxy.url, "failure", "word", inside, "no memory"),
        (proxy.url, "after", "word", inside, CUT),
        (proxy.url, "marker", "word", inside, NO_MARKER),
        (proxy.url, "before", "", before, "The upstream closed before it answered"),
        (proxy.url + "/locked", "whole", "", denied, "credential"),
    ):
        came, error = await outcome(words(url, model), release)
        assert (came, type(error).__name__) == (text, kind), (model, error)
        assert message in str(error), model
