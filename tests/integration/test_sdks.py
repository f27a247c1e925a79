"""The openai and anthropic Python SDKs through the proxy: every delta comes, and leaving reaches the upstream."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.conftest import Serve
from tests.doubles.upstream import Conn, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.proxy import RunningProxy, configuration

WORDS = ["A", " stream", " comes", " through", ".", " \u00e9\U0001f30a"]


def sse(data: dict[str, Any], *, named: bool = False) -> bytes:
    line = f"data: {json.dumps(data)}\n\n"
    return (f"event: {data['type']}\n{line}" if named else line).encode()


def openai_chunk(**delta: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return sse(chunk)


OPENAI = [openai_chunk(role="assistant"), *(openai_chunk(content=word) for word in WORDS), b"data: [DONE]\n\n"]

MESSAGE: dict[str, Any] = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
ANTHROPIC_EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 6}},
    {"type": "message_stop"},
]
ANTHROPIC = [sse(event, named=True) for event in ANTHROPIC_EVENTS]


class Model:
    """An upstream that streams these events and, with ``hold``, stalls after so many of them."""

    def __init__(self, events: list[bytes], hold: int | None = None) -> None:
        self.events = events
        self.hold = hold
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, conn: Conn) -> None:
        while True:
            _, body = await conn.read_request()
            self.bodies.append(json.loads(body))
            await conn.send(stream_head("text/event-stream; charset=utf-8"))
            for number, event in enumerate(self.events):
                if number == self.hold:
                    await conn.stall()
                await conn.send_chunk(event)
            await conn.send_chunk(b"")


def openai_client(proxy: RunningProxy) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="key", max_retries=0, http_client=http)


def anthropic_client(proxy: RunningProxy) -> anthropic.AsyncAnthropic:
    http = httpx2.AsyncClient(trust_env=False)
    return anthropic.AsyncAnthropic(base_url=proxy.url, api_key="key", max_retries=0, http_client=http)


def route(url: str, **keys: Any) -> list[dict[str, Any]]:
    """One route, with keepalives as often as there is a pause."""
    return [{"path": "/v1/*", "upstream": url, "keepalive": "5ms", **keys}]


ways = pytest.mark.parametrize("keys", [{}, {"resume": {}}], ids=["passed on", "kept"])  # with ids: auto


@ways
async def test_openai_sdk_gets_every_delta(run_proxy: RunProxy, serve: Serve, keys: Any) -> None:
    model = Model(OPENAI)
    upstream = await serve(model)
    proxy = await run_proxy(configuration(route(upstream.url, protocol="openai", **keys)))
    async with openai_client(proxy) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "go"}], stream=True
        )
        words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]
    assert words == WORDS
    assert model.bodies[0]["stream"] is True
    assert upstream.requests[0].get("authorization") == b"Bearer key"


@ways
async def test_anthropic_sdk_gets_every_delta(run_proxy: RunProxy, serve: Serve, keys: Any) -> None:
    upstream = await serve(Model(ANTHROPIC))
    proxy = await run_proxy(configuration(route(upstream.url, protocol="anthropic", **keys)))
    async with (
        anthropic_client(proxy) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "go"}]) as stream,
    ):
        words = [word async for word in stream.text_stream]
        message = await stream.get_final_message()
    assert words == WORDS
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 6)
    head = upstream.requests[0]
    credentials = head.all("x-api-key") + head.all("authorization")  # which one is the SDK's choice
    assert credentials in ([b"key"], [b"Bearer key"])


@ways
@pytest.mark.parametrize("ids", [False, True], ids=["without ids", "with ids"])
async def test_openai_sdk_takes_keepalives_between_deltas(
    run_proxy: RunProxy, serve: Serve, ids: bool, keys: Any
) -> None:
    events = [b"id: %d\n%s" % (number, event) for number, event in enumerate(OPENAI)] if ids else OPENAI
    upstream = await serve(Model(events, hold=3))
    proxy = await run_proxy(configuration(route(upstream.url, protocol="openai", **keys)))
    async with openai_client(proxy) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "go"}], stream=True
        )
        chunks = [await anext(stream) for _ in range(3)]
        await proxy.until_keepalives(3)
        (await upstream.connection()).go.set()
        chunks += [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[1:]] == WORDS


@ways
async def test_anthropic_sdk_takes_keepalives_between_deltas(run_proxy: RunProxy, serve: Serve, keys: Any) -> None:
    upstream = await serve(Model(ANTHROPIC, hold=4))
    proxy = await run_proxy(configuration(route(upstream.url, protocol="anthropic", **keys)))
    async with (
        anthropic_client(proxy) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "go"}]) as stream,
    ):
        words = [await anext(stream.text_stream)]
        await proxy.until_keepalives(3)
        (await upstream.connection()).go.set()
        words += [word async for word in stream.text_stream]
    assert words == WORDS


async def test_closing_an_openai_stream_closes_the_upstreams_connection(run_proxy: RunProxy, serve: Serve) -> None:
    upstream = await serve(Model(OPENAI, hold=3))
    proxy = await run_proxy(configuration(route(upstream.url)))
    async with openai_client(proxy) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "go"}], stream=True
        )
        received = [await anext(stream) for _ in range(3)]
        assert received[-1].choices[0].delta.content == WORDS[1]
        await stream.close()
        conn = await upstream.connection()
        assert (await conn.wait_ended()).how in ("eof", "reset")


async def test_closing_an_anthropic_stream_closes_the_upstreams_connection(run_proxy: RunProxy, serve: Serve) -> None:
    upstream = await serve(Model(ANTHROPIC, hold=4))
    proxy = await run_proxy(configuration(route(upstream.url)))
    async with anthropic_client(proxy) as client:
        stream = await client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "go"}], stream=True
        )
        received = [await anext(stream) for _ in range(3)]
        assert received[-1].type == "content_block_delta"
        await stream.close()
        conn = await upstream.connection()
        assert (await conn.wait_ended()).how in ("eof", "reset")


async def test_an_upstreams_error_reaches_the_sdk_as_its_own_exception(run_proxy: RunProxy, serve: Serve) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        body = b'{"error": {"message": "slow down", "type": "rate_limit"}}'
        await conn.send(response(body, status="429 Too Many", headers=[("Content-Type", "application/json")]))

    upstream = await serve(script)
    proxy = await run_proxy(configuration(route(upstream.url)))
    async with openai_client(proxy) as client:
        with pytest.raises(openai.RateLimitError, match="slow down"):
            await client.models.list()
