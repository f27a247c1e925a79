"""Bodies made to hurt their reader: each is refused clearly or passes as it is, and grows no label and no log line."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest

from streamproxy.observe.json_line import json_line
from tests.conformance.conftest import Start
from tests.conformance.llm_apis import APIS, DONE, SSE, Api
from tests.conftest import Connect, Serve
from tests.doubles.client import Answer, fetch
from tests.doubles.stack import RunningStack, route
from tests.doubles.upstream import Conn, Upstream, answering, response, streaming
from tests.unit.dialects import wire
from tests.unit.dialects.wire import chat, sse

JSON = ("Content-Type", "application/json")
LONGEST_LINE = 4096  # bytes of the access log, with every name at its longest, escaped
DIGITS = b"9" * 10**6
DEEP = b"[" * 10**5 + b"]" * 10**5
KEYS = b",".join([b'"k":1'] * 10**5)
MEGABYTE = b"m" * (1 << 20)


class Echo:
    """An upstream that answers with nothing, and has the bodies that it was sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, conn: Conn) -> None:
        while True:
            self.bodies.append((await conn.read_request())[1])
            await conn.send(response(b"{}"))


async def choosing(start: Start, serve: Serve, **keys: Any) -> tuple[RunningStack, Echo, Echo]:
    """The proxy with a route for ``model``, whose upstream calls it otherwise, and one for all the rest."""
    chosen, others = Echo(), Echo()
    first, second = await serve(chosen), await serve(others)
    pools = {
        "chosen": {"endpoints": [first.url], "models": {"m": "other"}, "balance": {"prefix": {}}},
        "others": {"endpoints": [second.url]},
    }
    routes = [route("chosen", models=["m"], protocol="openai", usage="ask", **keys), route("others", protocol="openai")]
    return await start(routes, upstreams=pools), chosen, others


async def post(proxy: RunningStack, dial: Connect, body: bytes, *headers: tuple[str, str]) -> Answer:
    client = await dial(proxy.url)
    await client.request("/v1/chat/completions", method="POST", headers=[JSON, *headers], body=body)
    return await client.read_response()


async def line_of(proxy: RunningStack, number: int = 0) -> dict[str, Any]:
    """The line of the log, which is well-formed and no longer than any other."""
    exchange = await proxy.end_of(number)
    line = json_line(exchange, exchange.started_at + 1)
    assert len(line.encode()) < LONGEST_LINE
    read: dict[str, Any] = json.loads(line)
    return read


@pytest.mark.parametrize(
    "bomb",
    [b'"x":' + DIGITS, b'"x":[' + DIGITS + b"]", KEYS, b'"x":"' + MEGABYTE + b'"'],
    ids=["digits", "digits inside", "duplicate keys", "long text"],
)
async def test_a_body_that_is_hard_to_parse_is_edited_where_its_model_is(
    start: Start, serve: Serve, dial: Connect, bomb: bytes
) -> None:
    proxy, chosen, _ = await choosing(start, serve, limits={"inspect_body": "4MiB"})
    assert (await post(proxy, dial, b'{%b,"model":"m"}' % bomb)).status == 200
    assert chosen.bodies == [b'{%b,"model":"other"}' % bomb]


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":%b,"model":"m"}' % DEEP,
        DEEP,
        b'{"model":%b}' % DIGITS,
        b'{"model":"%b"}' % MEGABYTE,
        b'{"model":"m\xff"}',
        b'\xff{"model":"m"}',
        b'{"model":"m"',
        b'{"model":"\\ud800"}',
    ],
    ids=["depth", "depth alone", "number", "long model", "UTF-8 in the model", "UTF-8", "cut", "half a character"],
)
async def test_a_body_that_has_no_model_to_be_read_passes_as_it_is(
    start: Start, serve: Serve, dial: Connect, body: bytes
) -> None:
    proxy, chosen, others = await choosing(start, serve, limits={"inspect_body": "4MiB"})
    assert (await post(proxy, dial, body)).status == 200
    assert (chosen.bodies, others.bodies) == ([], [body])
    await line_of(proxy)


async def test_a_body_with_two_models_is_refused(start: Start, serve: Serve, dial: Connect) -> None:
    proxy, chosen, others = await choosing(start, serve)
    answer = await post(proxy, dial, b'{"model":"m","mod\\u0065l":"x"}')
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["message"] == "The request's JSON body has two model keys"
    assert chosen.bodies + others.bodies == []


async def test_a_compressed_body_passes_unread(start: Start, serve: Serve, dial: Connect) -> None:
    proxy, chosen, others = await choosing(start, serve)
    packed = gzip.compress(b'{"model":"m"}' + b" " * (64 << 20))
    assert (await post(proxy, dial, packed, ("Content-Encoding", "gzip"))).status == 200
    assert (chosen.bodies, others.bodies) == ([], [packed])


async def test_what_calls_itself_compressed_in_a_case_of_its_own_passes_unread(
    start: Start, serve: Serve, dial: Connect
) -> None:
    proxy, chosen, others = await choosing(start, serve)
    await post(proxy, dial, b'{"model":"m"}', ("content-encoding", "GZip"))
    assert (len(chosen.bodies), len(others.bodies)) == (0, 1)


async def test_a_body_shorter_than_its_length_is_no_request(start: Start, serve: Serve, dial: Connect) -> None:
    proxy, chosen, others = await choosing(start, serve)
    client = await dial(proxy.url)
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    )
    await client.send(head + b'{"model":"m"}')
    client.close()
    assert (await proxy.end_of()).end == "client_disconnect"
    assert chosen.bodies + others.bodies == []


async def test_what_comes_behind_the_length_of_a_body_is_no_part_of_it(
    start: Start, serve: Serve, dial: Connect
) -> None:
    proxy, chosen, _ = await choosing(start, serve)
    client = await dial(proxy.url)
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    )
    await client.send(head + b'{"model":"m"},"model":"x"}')
    assert (await client.read_response()).status == 200
    assert (await client.read_response()).status == 400
    assert chosen.bodies == [b'{"model":"other"}']


SENSELESS = [-1, 1 << 70, 10**400, 1.5, "7", True, None, [], {}, [[1]]]


@pytest.mark.parametrize("value", SENSELESS, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("name", ["chat", "responses", "anthropic", "gemini", "ollama"])
async def test_usage_that_makes_no_sense_counts_for_nothing(start: Start, serve: Serve, name: str, value: Any) -> None:
    api = APIS[name]
    events = [*api.quiet, api.speech[0], *api.spends, api.ends[0]]
    bad = [_spoiled(one, json.dumps(value).encode()) for one in events]
    assert bad != events
    upstream = await serve(streaming(*bad, content_type=api.media))
    limits = {"tokens": {"rate": "1/1h"}}
    proxy = await start([route(upstream.url, protocol=api.protocol, limits=limits)])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (b"".join(bad), True)
    line = await line_of(proxy)
    assert {line.get(key) for key in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")} <= {None}
    assert proxy.metric("gen_ai_client_token_usage_sum") == 0
    assert (await fetch(proxy.url + api.path)).status == 200  # nothing was charged


def _spoiled(event: bytes, value: bytes) -> bytes:
    """The event with this value for every number of tokens in it."""
    head, data, body = event.rpartition(b"data: ")

    def spoil(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: "@" if _counts(key, part) else spoil(part) for key, part in found.items()}
        return [spoil(part) for part in found] if isinstance(found, list) else found

    if not body.startswith(b"{"):
        return event
    end = b"\n\n" if data else b"\n"
    return (
        head + data + json.dumps(spoil(json.loads(body)), separators=(",", ":")).encode().replace(b'"@"', value) + end
    )


def _counts(key: str, value: Any) -> bool:
    return isinstance(value, int) and ("token" in key.lower() or key.endswith("_count"))


@pytest.mark.parametrize(
    "bomb",
    [b'{"error":' + DEEP + b"}", b'{"usage":' + DIGITS + b"}", b"{" + KEYS + b',"usage":{}}', b'{"usage":"\xff\xfe"}'],
    ids=["depth", "digits", "duplicate keys", "UTF-8"],
)
async def test_a_bomb_in_a_stream_passes_and_hides_nothing_else(start: Start, serve: Serve, bomb: bytes) -> None:
    api = APIS["chat"]
    events = [*api.quiet, api.speech[0], b"data: " + bomb + b"\n\n", *api.spends, DONE]
    upstream = await serve(streaming(*events))
    proxy = await start([route(upstream.url, protocol="openai")])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (b"".join(events), True)
    line = await line_of(proxy)
    assert (line["end"], line["input_tokens"], line["output_tokens"]) == ("complete", 11, 7)


FLOODS = {
    "LF": b"\n" * (1 << 18),
    "CR": b"\r" * (1 << 18),
    "CRLF": b"\r\n" * (1 << 17),
    "comments": b": x\n\n" * (1 << 16),
    "marks": b"\xef\xbb\xbf" * (1 << 18) + b"\n\n",
    "zeros": b"\0" * (1 << 20) + b"\n\n",
    "ids": b"id: " + MEGABYTE + b"\n\n",
    "names": b"event: " + MEGABYTE + b"\n\n",
    "lines without a field": b"x\n" * (1 << 17) + b"\n",
    "lines of one event": b"data: x\n" * (1 << 17) + b"\n",
    "pings": sse({"type": "ping"}) * (1 << 14),
    "empty events": b"data\n\ndata:\n\n" * (1 << 14),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_in_a_stream_passes_and_hides_nothing_else(start: Start, serve: Serve, flood: str) -> None:
    api = APIS["chat"]
    events = [*api.quiet, api.speech[0], FLOODS[flood], *api.spends, DONE]
    upstream = await serve(streaming(*events))
    proxy = await start([route(upstream.url, protocol="openai")])
    answer = await fetch(proxy.url + api.path)
    assert (len(answer.body), answer.complete) == (sum(map(len, events)), True)
    assert answer.body == b"".join(events)
    line = await line_of(proxy)
    assert (line["end"], line["input_tokens"], line["output_tokens"]) == ("complete", 11, 7)


@pytest.mark.parametrize("name", ["m" * (1 << 19), "\ud800" * 200, "a\r\nb\x1b[0m" * 30, "\U0001f600" * 300])
async def test_the_names_that_a_stream_says_grow_no_line_and_no_label(start: Start, serve: Serve, name: str) -> None:
    last = sse(chat(finish=name, model=name, usage=wire.CHAT_USAGE))
    upstream = await serve(streaming(sse(chat({"content": "hi"}, model=name)), last, DONE))
    proxy = await start([route(upstream.url, protocol="openai")])
    assert (await fetch(proxy.url + "/v1/chat/completions")).complete
    line = await line_of(proxy)
    assert len(line.get("model", "")) <= 128
    assert len(line.get("finish", "")) <= 128
    assert "\n" not in json_line(proxy.ended[0], 0.0)
    series = b"".join(proxy.app.metrics.exposition()[0])
    assert set(re.findall(rb'gen_ai_request_model="([^"]*)"', series)) == {b"other"}


async def test_a_client_with_a_thousand_models_makes_no_series(start: Start, serve: Serve, dial: Connect) -> None:
    proxy, _, others = await choosing(start, serve)
    client = await dial(proxy.url)
    before = len(b"".join(proxy.app.metrics.exposition()[0]).splitlines())
    for number in range(50):
        body = b'{"model":"mine-%d"}' % number
        await client.request("/v1/chat/completions", method="POST", headers=[JSON], body=body)
        await client.read_response()
    text = b"".join(proxy.app.metrics.exposition()[0])
    assert (len(others.bodies), b"mine-" in text) == (50, False)
    # What one request adds is what fifty do.
    await client.request("/v1/chat/completions", method="POST", headers=[JSON], body=b'{"model":"mine-50"}')
    await client.read_response()
    await proxy.end_of(50)
    assert len(b"".join(proxy.app.metrics.exposition()[0]).splitlines()) >= before
    assert len(b"".join(proxy.app.metrics.exposition()[0]).splitlines()) == len(text.splitlines())


async def test_an_error_of_an_upstream_that_is_a_megabyte_is_told_without_it(start: Start, serve: Serve) -> None:
    failure = sse({"error": {"message": "x" * (1 << 19), "code": 500}})
    upstream: Upstream = await serve(streaming(failure, DONE, content_type=SSE))
    retry = {"until": "first_event", "attempts": 1, "on": ["error_event"]}
    proxy = await start([route(upstream.url, protocol="openai", retry=retry)])
    answer = await fetch(proxy.url + "/v1/chat/completions")
    assert answer.status == 502
    assert len(answer.body) < 2048
    await line_of(proxy)


async def test_an_answer_over_a_megabyte_passes_unread(start: Start, serve: Serve) -> None:
    api: Api = APIS["chat"]
    body = json.dumps({"x": "y" * (1 << 20), **api.answer}).encode()
    upstream = await serve(answering(response(body, headers=[("Content-Type", "application/json")])))
    proxy = await start([route(upstream.url, protocol="openai")])
    assert (await fetch(proxy.url + api.path)).body == body
    assert "input_tokens" not in await line_of(proxy)
