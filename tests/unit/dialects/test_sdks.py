"""The APIs' own SDKs, told of errors in each dialect's words: the exceptions that a user's code sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from streamproxy.dialects.anthropic import AnthropicDialect
from streamproxy.dialects.base import Dialect
from streamproxy.dialects.gemini import GeminiDialect
from streamproxy.dialects.ollama import OllamaDialect
from streamproxy.dialects.openai import OpenAIDialect
from streamproxy.errors import (
    BadRequest,
    ClientLimitReached,
    Denied,
    DestinationUnavailable,
    ExchangeError,
    HeadTimeout,
    NoRoute,
    ResponseIncomplete,
    UpstreamReportedError,
)
from tests.unit.dialects import wire
from tests.unit.dialects.wire import chat, gemini, line, ollama, response, sse

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
CUT = ResponseIncomplete("the upstream was cut")
OVERLOADED = UpstreamReportedError(
    "busy", status=529, payload=b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
)


@asynccontextmanager
async def serve(head: bytes, body: bytes) -> AsyncIterator[str]:
    """A server that answers everything with this, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            for field in request.lower().split(b"\r\n"):
                if field.startswith(b"content-length:"):
                    await reader.readexactly(int(field.partition(b":")[2]))
            writer.write(head + b"connection: close\r\n\r\n" + body)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def refusing(dialect: Dialect, error: ExchangeError) -> Any:
    fields, body = dialect.error(error, "req-1")
    head = b"".join(name + b": " + value + b"\r\n" for name, value in fields if name != b"connection")
    return serve(b"HTTP/1.1 %d X\r\n" % error.status + head, body)


def failing(dialect: Dialect, *events: bytes, media: bytes = b"text/event-stream") -> Any:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + media + b"\r\n"
    return serve(head, b"".join(events) + dialect.error_event(CUT, "req-1"))


def openai_client(url: str) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, http_client=http)


def anthropic_client(url: str) -> anthropic.AsyncAnthropic:
    http = httpx2.AsyncClient(trust_env=False)
    return anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0, http_client=http)


async def texts(stream: Any, of: Callable[[Any], Any]) -> list[Any]:
    """What comes before the stream raises."""
    seen: list[Any] = []
    try:
        async for item in stream:
            seen.append(of(item))  # noqa: PERF401 - what came before the error counts
    except Exception as error:  # whatever it is, the caller looks at it
        seen.append(error)
    return seen


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest(), openai.BadRequestError),
        (Denied(challenge="Bearer"), openai.AuthenticationError),
        (NoRoute(), openai.NotFoundError),
        (ClientLimitReached(retry_after=3), openai.RateLimitError),
        (DestinationUnavailable(), openai.InternalServerError),
        (HeadTimeout(), openai.InternalServerError),
        (OVERLOADED, openai.InternalServerError),
    ],
)
async def test_openai_raises_its_own_exception(error: ExchangeError, kind: type[openai.APIStatusError]) -> None:
    async with refusing(OpenAIDialect(), error) as url, openai_client(url) as client:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.status_code == error.status
    assert error.detail in caught.value.message
    assert caught.value.request_id == "req-1"
    if error is not OVERLOADED:
        assert caught.value.code == error.error


async def test_openai_raises_an_error_event_in_chat() -> None:
    async with failing(OpenAIDialect(), sse(chat({"content": "a"}))) as url, openai_client(url) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        first, error = await texts(stream, lambda chunk: chunk.choices[0].delta.content)
    assert first == "a"
    assert isinstance(error, openai.APIError)
    assert (error.message, error.code) == ("the upstream was cut", "http_response_incomplete")


async def test_openai_raises_an_error_event_in_responses() -> None:
    delta = response("output_text.delta", item_id="i", output_index=0, content_index=0, delta="a", logprobs=[])
    async with failing(OpenAIDialect(), sse(delta, delta["type"])) as url, openai_client(url) as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        first, error = await texts(stream, lambda event: event.delta)
    assert first == "a"
    assert isinstance(error, openai.APIError)
    assert error.message == "the upstream was cut"


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (BadRequest(), anthropic.BadRequestError, "invalid_request_error"),
        (Denied(challenge="Bearer"), anthropic.AuthenticationError, "authentication_error"),
        (NoRoute(), anthropic.NotFoundError, "not_found_error"),
        (ClientLimitReached(), anthropic.RateLimitError, "rate_limit_error"),
        (DestinationUnavailable(), anthropic.InternalServerError, "api_error"),
        (OVERLOADED, anthropic.InternalServerError, "overloaded_error"),
    ],
)
async def test_anthropic_raises_its_own_exception(
    error: ExchangeError, kind: type[anthropic.APIStatusError], name: str
) -> None:
    async with refusing(AnthropicDialect(), error) as url, anthropic_client(url) as client:
        with pytest.raises(kind) as caught:
            await client.messages.create(model="m", max_tokens=5, messages=MESSAGES)
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["type"]) == (error.status, name)
    assert body["error"]["message"] == error.detail
    assert caught.value.request_id == "req-1"


async def test_anthropic_raises_an_error_event() -> None:
    starts: list[dict[str, Any]] = [wire.START, wire.BLOCK, wire.DELTA]
    events = [sse(event, event["type"]) for event in starts]
    async with failing(AnthropicDialect(), *events) as url, anthropic_client(url) as client:
        stream = await client.messages.create(model="m", max_tokens=5, messages=MESSAGES, stream=True)
        *_, last, error = await texts(stream, lambda event: event.type)
    assert last == "content_block_delta"
    assert isinstance(error, anthropic.APIStatusError)
    assert "the upstream was cut" in error.message


GeminiCall = Callable[[Any], Awaitable[Any]]


@asynccontextmanager
async def gemini_client(url: str) -> AsyncIterator[Any]:
    genai = pytest.importorskip("google.genai", exc_type=ImportError)
    options = genai.types.HttpOptions(base_url=url, async_client_args={"trust_env": False})
    client = genai.Client(api_key="key", http_options=options)
    try:
        yield client.aio
    finally:
        await client.aio.aclose()
        client.close()


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (BadRequest(), "ClientError", "INVALID_ARGUMENT"),
        (Denied(challenge="Bearer"), "ClientError", "UNAUTHENTICATED"),
        (ClientLimitReached(), "ClientError", "RESOURCE_EXHAUSTED"),
        (DestinationUnavailable(), "ServerError", "UNAVAILABLE"),
        (HeadTimeout(), "ServerError", "DEADLINE_EXCEEDED"),
    ],
)
async def test_gemini_raises_its_own_exception(error: ExchangeError, kind: str, status: str) -> None:
    async with refusing(GeminiDialect(), error) as url, gemini_client(url) as client:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await client.models.generate_content(model="m", contents="hi")
    raised: Any = caught.value
    assert type(raised).__name__ == kind
    assert (raised.code, raised.status, raised.message) == (error.status, status, error.detail)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_gemini_raises_an_error_event(end: str) -> None:
    async with failing(GeminiDialect(), sse(gemini("a"), end=end)) as url, gemini_client(url) as client:
        stream = await client.models.generate_content_stream(model="m", contents="hi")
        first, error = await texts(stream, lambda chunk: chunk.text)
    assert first == "a"
    assert type(error).__name__ == "ServerError"
    assert (error.code, error.status, error.message) == (502, "UNAVAILABLE", "the upstream was cut")


@pytest.mark.parametrize("error", [BadRequest(), NoRoute(), DestinationUnavailable()])
async def test_ollama_raises_its_own_exception(error: ExchangeError) -> None:
    sdk = pytest.importorskip("ollama", exc_type=ImportError)
    async with refusing(OllamaDialect(), error) as url:
        with pytest.raises(sdk.ResponseError) as caught:
            await sdk.AsyncClient(host=url, trust_env=False).chat(model="m", messages=MESSAGES)
    assert (caught.value.status_code, caught.value.error) == (error.status, error.detail)


async def test_ollama_raises_an_error_line() -> None:
    sdk = pytest.importorskip("ollama", exc_type=ImportError)
    media = b"application/x-ndjson"
    async with failing(OllamaDialect(), line(ollama("a")), media=media) as url:
        stream = await sdk.AsyncClient(host=url, trust_env=False).chat(model="m", messages=MESSAGES, stream=True)
        first, error = await texts(stream, lambda part: part.message.content)
    assert first == "a"
    assert isinstance(error, sdk.ResponseError)
    assert error.error == "the upstream was cut"
