"""The two LLM APIs of the demo, as documents: what goes in and what comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamproxy.demo import DemoUpstream
from streamproxy.demo.completion import TEXT, TOKENS
from tests.unit.demo.asgi import Exchange, events, post

APP = DemoUpstream(token_delay=0)
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
PROMPT: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "three little words"}]}


def ask(**more: object) -> bytes:
    return json.dumps(PROMPT | more).encode()


async def chunks(body: bytes) -> list[dict[str, Any]]:
    exchange = await post(APP, CHAT, body)
    assert exchange.fields[b"content-type"].startswith(b"text/event-stream")
    *parts, last = [event["data"] for event in events(exchange.body)]
    assert last == "[DONE]"
    return [json.loads(part) for part in parts]


async def test_a_streamed_chat_has_the_words_of_the_whole_one() -> None:
    whole = (await post(APP, CHAT, ask())).json()
    parts = await chunks(ask(stream=True))
    assert whole["choices"][0]["message"]["content"] == TEXT
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == TEXT
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [part["choices"][0]["finish_reason"] for part in parts[-2:]] == [None, "stop"]


async def test_every_token_is_an_event_of_its_own() -> None:
    exchange = await post(APP, CHAT, ask(stream=True))
    bodies = [message["body"] for message in exchange.sent[1:] if message["body"]]
    assert len(bodies) == len(TOKENS) + 3
    assert all(body.count(b"\n\n") == 1 and body.endswith(b"\n\n") for body in bodies)


async def test_usage_comes_in_a_chunk_without_choices_when_it_was_asked_for() -> None:
    *before, last = await chunks(ask(stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": len(TOKENS), "total_tokens": len(TOKENS) + 3}
    assert all(part["usage"] is None for part in before)


async def test_usage_does_not_come_unasked() -> None:
    assert all("usage" not in part and part["choices"] for part in await chunks(ask(stream=True)))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_chat_stops_at_its_limit_and_says_so(name: str) -> None:
    whole = (await post(APP, CHAT, ask(**{name: 4}))).json()
    assert whole["choices"][0]["message"]["content"] == "".join(TOKENS[:4])
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 4


async def test_the_same_request_gets_the_same_answer() -> None:
    first, second, other = [(await post(APP, MESSAGES, body)).body for body in (ask(), ask(), ask(max_tokens=1))]
    assert first == second != other


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"[1]", None),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": ["hello"]}', "messages"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens=True), "max_tokens"),
        (ask(max_tokens="9"), "max_tokens"),
    ],
)
async def test_an_impossible_chat_is_refused_in_the_form_of_the_api(body: bytes, param: str | None) -> None:
    exchange = await post(APP, CHAT, body)
    error = exchange.json()["error"]
    assert exchange.status == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]


async def test_an_impossible_message_is_refused_in_the_form_of_the_api() -> None:
    exchange = await post(APP, MESSAGES, b"not json")
    assert exchange.status == 400
    assert exchange.json()["type"] == "error"
    assert exchange.json()["error"]["type"] == "invalid_request_error"


async def test_a_document_that_is_too_large_is_refused_before_its_end() -> None:
    exchange = Exchange(APP, "POST", MESSAGES, body=[b"x" * (1 << 19)] * 4)
    await exchange.finish()
    assert exchange.status == 413
    assert not exchange.incoming.empty()


async def test_a_streamed_message_has_the_events_of_the_api_in_order() -> None:
    exchange = await post(APP, MESSAGES, ask(stream=True, max_tokens=2))
    parts = events(exchange.body)
    documents = [json.loads(part["data"]) for part in parts]
    deltas = ["content_block_delta"] * 2
    expected = ["message_start", "content_block_start", "ping", *deltas, "content_block_stop", "message_delta"]
    assert [part["event"] for part in parts] == [*expected, "message_stop"]
    assert [document["type"] for document in documents] == [*expected, "message_stop"]
    assert "".join(d["delta"]["text"] for d in documents[3:5]) == "".join(TOKENS[:2])
    assert documents[6]["delta"]["stop_reason"] == "max_tokens"
    assert documents[6]["usage"] == {"output_tokens": 2}


async def test_a_whole_message_has_the_text_and_the_usage() -> None:
    body = ask(system="be brief", messages=[{"role": "user", "content": [{"type": "text", "text": "one two"}]}])
    message = (await post(APP, MESSAGES, body)).json()
    assert message["content"] == [{"type": "text", "text": TEXT}]
    assert message["stop_reason"] == "end_turn"
    assert message["usage"] == {"input_tokens": 4, "output_tokens": len(TOKENS)}
