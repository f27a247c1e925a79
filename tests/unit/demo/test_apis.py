"""The further APIs of the demo, as documents: each is recognised by the proxy, ends, fails and has its usage."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.demo import DemoUpstream
from streamproxy.demo.completion import FAILURE, TEXT, TOKENS, TOKENS_BEFORE_FAILURE
from streamproxy.demo.echo import MOST, Echo
from streamproxy.dialects.protocols import DIALECTS
from streamproxy.formats.inspector import Inspector
from streamproxy.upstream.load import ENGINES
from streamproxy.wire.media import media_type
from streamproxy.wire.websocket import control_frame
from tests.unit.demo.asgi import Exchange, get, post

APP = DemoUpstream(token_delay=0)
GEMINI = "/v1beta/models/{model}:streamGenerateContent?alt=sse"
MESSAGES = {"messages": [{"role": "user", "content": "three little words"}]}
APIS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat": ("openai", "/v1/chat/completions", MESSAGES | {"stream_options": {"include_usage": True}}),
    "text": ("openai", "/v1/completions", {"prompt": "a b c", "stream_options": {"include_usage": True}}),
    "responses": ("openai", "/v1/responses", {"input": "three little words"}),
    "anthropic": ("anthropic", "/v1/messages", MESSAGES),
    "gemini": ("gemini", GEMINI, {"contents": [{"role": "user", "parts": [{"text": "three little words"}]}]}),
    "ollama": ("ollama", "/api/chat", MESSAGES),
    "ollama-text": ("ollama", "/api/generate", {"prompt": "a b c"}),
}


async def stream(api: str, model: str) -> tuple[Exchange, Inspector]:
    """The stream of an API, and what the proxy understands of it."""
    protocol, path, request = APIS[api]
    body = json.dumps(request | {"model": model, "stream": True}).encode()
    exchange = await post(APP, path.replace("{model}", model), body)
    inspector = DIALECTS[protocol].inspector(200, media_type(exchange.fields[b"content-type"]))
    assert inspector is not None
    for message in exchange.sent[1:]:
        if message["body"]:
            inspector.feed(message["body"])
    return exchange, inspector


@pytest.mark.parametrize("api", APIS)
async def test_the_proxy_understands_a_stream_to_its_end(api: str) -> None:
    exchange, inspector = await stream(api, "demo-2")
    assert exchange.status == 200
    assert exchange.complete
    assert inspector.failure is None
    assert inspector.finish() is None
    assert inspector.model == "demo-2"
    usage = inspector.usage
    assert usage is not None
    assert (usage.input, usage.output) == (3, len(TOKENS))


@pytest.mark.parametrize("api", APIS)
async def test_a_model_that_fails_does_it_inside_its_stream(api: str) -> None:
    exchange, inspector = await stream(api, "demo-fails")
    assert exchange.status == 200
    assert inspector.failure is not None
    assert FAILURE.encode() in exchange.body
    assert TOKENS[TOKENS_BEFORE_FAILURE].strip().encode() not in exchange.body


@pytest.mark.parametrize("api", APIS)
async def test_what_does_not_stream_has_the_whole_text(api: str) -> None:
    _, path, request = APIS[api]
    body = json.dumps(request | {"model": "demo-1", "stream": False}).encode()
    target = path.replace("{model}", "demo-1").replace("streamGenerateContent?alt=sse", "generateContent")
    exchange = await post(APP, target, body)
    assert exchange.status == 200
    assert TEXT in json.dumps(exchange.json(), ensure_ascii=False)


@pytest.mark.parametrize("api", APIS)
async def test_a_request_without_a_prompt_is_refused(api: str) -> None:
    exchange = await post(APP, APIS[api][1].replace("{model}", "demo-1"), b"{}")
    assert exchange.status == 400
    assert exchange.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"), [("/v1beta/models/m:embed", 404), ("/v1beta/models/m:streamGenerateContent", 400)]
)
async def test_gemini_has_two_verbs_and_streams_events(path: str, status: int) -> None:
    assert (await post(APP, path, b"{}")).status == status


async def test_the_engine_counts_what_runs_with_the_names_of_vllm() -> None:
    app, names = DemoUpstream(token_delay=0), ENGINES["vllm"]
    mute = Exchange(app, "GET", "/mute")
    await mute.has_sent(2)
    busy = await get(app, names.path)
    mute.leave()
    await mute.finish()
    idle = await get(app, names.path)
    assert names.running + b'{engine="0",model_name="demo-1"} 1\n' in busy.body
    assert names.running + b'{engine="0",model_name="demo-1"} 0\n' in idle.body
    assert names.waiting in idle.body
    assert names.cache[0] in idle.body


async def test_the_mute_endpoint_sends_its_head_and_nothing_more() -> None:
    mute = Exchange(APP, "GET", "/mute")
    await mute.has_sent(2)
    assert (mute.status, mute.body) == (200, b"")
    mute.leave()
    await mute.finish()


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A client's frame, masked."""
    size, mask = len(payload), b"\x01\x02\x03\x04"
    first = (0x80 if final else 0) | opcode
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


def unmasked(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """The same frame of a server."""
    masked = frame(opcode, payload, final=final)
    start = len(masked) - len(payload) - 4
    return bytes((masked[0], masked[1] & 0x7F)) + masked[2:start] + payload


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=5), st.lists(st.integers(0, 2000))
)
def test_every_message_comes_back_however_it_was_cut(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*message) for message in messages)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    echo = Echo()
    answer = b"".join(echo.feed(data[a:b]) for a, b in pairwise(places))
    assert answer == b"".join(unmasked(*message) for message in messages)


def test_long_messages_and_fragments_come_back_as_they_were() -> None:
    long = bytes(70_000)
    assert Echo().feed(frame(2, long)) == unmasked(2, long)
    parts = frame(1, b"a", final=False) + frame(0, b"b")
    assert Echo().feed(parts) == unmasked(1, b"a", final=False) + unmasked(0, b"b")


def test_a_ping_is_answered_and_a_close_ends() -> None:
    echo = Echo()
    assert echo.feed(frame(9, b"beat")) == control_frame(10, b"beat")
    assert echo.feed(frame(10, b"")) == b""
    assert echo.feed(frame(8, b"\x03\xe8bye") + frame(1, b"late")) == control_frame(8, b"\x03\xe8")
    assert echo.closed


def test_frames_that_are_not_masked_or_too_large_end_the_socket() -> None:
    plain, huge = Echo(), Echo()
    assert plain.feed(b"\x81\x01a") == control_frame(8, b"\x03\xea")
    assert huge.feed(b"\x82\xff" + (MOST + 1).to_bytes(8, "big")) == control_frame(8, b"\x03\xf1")
    assert plain.closed
    assert huge.closed
