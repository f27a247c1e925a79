"""What the contract says of LLM streams, row by row and for each API, over sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.conftest import Start
from tests.conformance.llm_apis import APIS, KINDS, Api, kind_of
from tests.conftest import Connect, Serve
from tests.doubles.client import Answer, connect, fetch
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, stream_head, streaming

JSON = [("Content-Type", "application/json")]


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    return APIS[request.param]


def each(what: Callable[[Api], list[Any]]) -> Any:
    """Parameters: each API with each of what it has of this."""
    cases = [(api, one) for api in APIS.values() for one in what(api)]
    ids = [f"{name}-{number}" for name, api in APIS.items() for number, _ in enumerate(what(api))]
    return pytest.mark.parametrize(("api", "one"), cases, ids=ids)


def holding(*chunks: bytes, media: str) -> Script:
    """Streams a chunk each time the test lets it, and then no more."""

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head(media))
        for chunk in chunks:
            await conn.send_chunk(chunk)
            await conn.stall()
            conn.go.clear()
        await conn.wait_ended()

    return script


async def post(proxy: RunningStack, path: str, body: bytes) -> Answer:
    async with await connect(proxy.url) as client:
        await client.request(path, method="POST", headers=JSON, body=body)
        return await client.read_response()


@pytest.mark.parametrize("protocol", ["own", "auto"])
@each(lambda api: api.ends)
async def test_a_stream_ends_well_with_its_marker_and_its_usage_is_counted(
    start: Start, serve: Serve, api: Api, one: bytes, protocol: str
) -> None:
    events = [*api.quiet, api.speech[0], *api.spends, one]
    upstream = await serve(streaming(*events, content_type=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol if protocol == "own" else "auto")])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (b"".join(events), True)
    exchange = await proxy.end_of()
    assert (exchange.end, tuple(exchange.usage)) == ("complete", api.used)
    for kind, tokens in zip(("input", "output", "cache_read", "cache_write", "reasoning"), api.used, strict=True):
        assert proxy.metric("gen_ai_client_token_usage_sum", gen_ai_token_type=kind) == (tokens or 0)


async def test_a_stream_without_its_marker_is_cut(start: Start, serve: Serve, api: Api) -> None:
    upstream = await serve(streaming(*api.quiet, *api.speech[:1], *api.spends, content_type=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    assert not (await fetch(proxy.url + api.path)).complete
    assert (await proxy.end_of()).end == "upstream_truncated"


async def test_a_length_is_an_end_without_a_marker(start: Start, serve: Serve, api: Api) -> None:
    body = b"".join([*api.quiet, api.speech[0]])
    upstream = await serve(answering(response(body, headers=[("Content-Type", api.media)])))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (body, True)
    assert (await proxy.end_of()).end == "complete"


@pytest.mark.parametrize("first", [False, True], ids=["late", "first"])
@each(lambda api: api.failures)
async def test_a_failure_inside_passes_as_it_came_and_is_counted(
    start: Start, serve: Serve, api: Api, one: tuple[bytes, int], first: bool
) -> None:
    events = [one[0]] if first else [*api.quiet, api.speech[0], one[0]]
    upstream = await serve(streaming(*events, content_type=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol, on_truncation="error_event")])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (b"".join(events), True)
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error) == ("upstream_error", "upstream_error")
    assert proxy.metric("streamproxy_error_events_total", route="r0") == 1


async def test_failures_inside_are_held_against_the_endpoint(start: Start, serve: Serve, api: Api) -> None:
    bad = await serve(streaming(api.failures[0][0], content_type=api.media))
    good = await serve(streaming(api.stream, content_type=api.media))
    pool = {"endpoints": [bad.url, good.url], "balance": "round_robin"}
    outlier = {"consecutive_failures": 1, "error_events": "on"}
    proxy = await start([route("pool", protocol=api.protocol)], upstreams={"pool": {**pool, "outlier": outlier}})
    for _ in range(3):
        await fetch(proxy.url + api.path)
    await proxy.end_of(2)
    assert proxy.metric("streamproxy_endpoint_up", endpoint=bad.url) == 0


@each(lambda api: api.speech)
async def test_the_first_event_is_the_first_that_says_something(
    start: Start, serve: Serve, dial: Connect, api: Api, one: bytes
) -> None:
    upstream = await serve(holding(b"".join(api.quiet), one, media=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    client = await dial(proxy.url)
    await client.request(api.path)
    await client.read_head()
    await client.read_body_until(api.quiet[-1])
    (exchange,) = proxy.app.ledger.live.values()
    assert exchange.first_event() is None
    (await upstream.connection()).go.set()
    await client.read_body_until(one)
    assert exchange.first_event() is not None


async def test_a_keepalive_has_the_shape_that_the_apis_sdk_takes(
    start: Start, serve: Serve, dial: Connect, api: Api
) -> None:
    upstream = await serve(holding(*api.quiet, media=api.media))
    keepalive = {"interval": "20ms", "ndjson": "on"}
    proxy = await start([route(upstream.url, protocol=api.protocol, keepalive=keepalive)])
    client = await dial(proxy.url)
    await client.request(api.path)
    await client.read_head()
    shape = {"gemini": b"\n", "ollama": b" "}.get(api.protocol, b": keepalive\n\n")
    await client.read_body_until(api.quiet[0] + shape * 3)


def gated(api: Api, **keys: Any) -> Any:
    conditions = ["first_event", "error_event", "429", "529"]
    retry = {"until": "first_event", "attempts": 1, "on": conditions, "non_idempotent": "on"}
    return route("main", protocol=api.protocol, retry=retry, **keys)


async def test_a_stream_that_says_nothing_in_time_leads_to_the_fallback(start: Start, serve: Serve, api: Api) -> None:
    mute = await serve(holding(b"".join(api.quiet), media=api.media))
    good = await serve(streaming(api.stream, content_type=api.media))
    upstreams = {"main": {"endpoints": [mute.url]}, "spare": {"endpoints": [good.url]}}
    proxy = await start([gated(api, fallback=["spare"], timeouts={"first_event": "800ms"})], upstreams=upstreams)
    assert (await fetch(proxy.url + api.path)).body == api.stream
    assert (await proxy.end_of()).upstream == "spare"


async def test_of_a_stream_of_no_known_kind_the_first_event_is_one_with_data(start: Start, serve: Serve) -> None:
    mute = await serve(holding(b": x\n\nid: 1\n\nevent: y\n\n", media="text/event-stream"))
    good = await serve(holding(b'data: {"hello":1}\n\n', media="text/event-stream"))
    upstreams = {"main": {"endpoints": [mute.url]}, "spare": {"endpoints": [good.url]}}
    chat = APIS["chat"]._replace(protocol="auto")
    proxy = await start([gated(chat, fallback=["spare"], timeouts={"first_event": "800ms"})], upstreams=upstreams)
    async with await connect(proxy.url) as client:
        await client.request(chat.path)
        assert (await client.read_head()).status == 200
        await client.read_body_until(b'data: {"hello":1}\n\n')


@each(lambda api: api.failures)
async def test_a_failure_before_the_first_event_leads_to_the_fallback(
    start: Start, serve: Serve, api: Api, one: tuple[bytes, int]
) -> None:
    bad = await serve(streaming(*api.quiet, one[0], content_type=api.media))
    good = await serve(streaming(api.stream, content_type=api.media))
    upstreams = {"main": {"endpoints": [bad.url]}, "spare": {"endpoints": [good.url]}}
    proxy = await start([gated(api, fallback=["spare"])], upstreams=upstreams)
    answer = await fetch(proxy.url + api.path)
    assert (answer.status, answer.body) == (200, api.stream)


@each(lambda api: api.failures)
async def test_with_no_attempt_left_it_is_the_status_with_the_upstreams_error(
    start: Start, serve: Serve, api: Api, one: tuple[bytes, int]
) -> None:
    failure, status = one

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head(api.media, ("Retry-After", "7")))
        for chunk in (*api.quiet, failure, b""):
            await conn.send_chunk(chunk)

    upstream = await serve(script)
    proxy = await start([gated(api)], upstreams={"main": {"endpoints": [upstream.url]}})
    answer = await fetch(proxy.url + api.path)
    assert (answer.status, answer.get("retry-after")) == (status, b"7")
    said = json.loads(failure.removesuffix(b"data: [DONE]\n\n").partition(b"data: ")[2] or failure)
    error = said.get("response", said).get("error")
    if error is not None:
        assert json.loads(answer.body)["error"] == error
    else:  # the report is the error itself
        assert said["message"] in answer.body.decode()


@each(lambda api: api.failures if api.media.endswith("event-stream") else [])
async def test_behind_an_early_head_it_is_an_event_in_the_form_of_the_api(
    start: Start, serve: Serve, dial: Connect, api: Api, one: tuple[bytes, int]
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        await conn.send(stream_head(api.media))
        for chunk in (*api.quiet, one[0], b""):
            await conn.send_chunk(chunk)

    upstream = await serve(script)
    keepalive = {"interval": "20ms", "before_headers": "20ms"}
    proxy = await start([gated(api, keepalive=keepalive)], upstreams={"main": {"endpoints": [upstream.url]}})
    client = await dial(proxy.url)
    await client.request(api.path, headers=[("Accept", api.media)])
    assert (await client.read_head()).status == 200
    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    last = json.loads(rest.body.rpartition(b"data: ")[2])
    said = json.loads(one[0].removesuffix(b"data: [DONE]\n\n").partition(b"data: ")[2])
    message = said.get("response", said).get("error", said)["message"]
    assert (last["error"]["message"], rest.complete) == (message, False)
    if api.protocol != "gemini":  # whose SDK has no name for the event
        assert b"event: error\ndata: " in rest.body


async def test_behind_an_event_over_a_megabyte_no_marker_is_missed(start: Start, serve: Serve, api: Api) -> None:
    ending = api.quiet[0][-1:] * (2 if api.media.endswith("event-stream") else 1)
    huge = (b"data: " if len(ending) == 2 else b"") + b'{"x":"' + b"y" * (1 << 20) + b'"}' + ending
    upstream = await serve(streaming(*api.quiet, api.speech[0], huge, *api.spends, content_type=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (b"".join([*api.quiet, api.speech[0], huge, *api.spends]), True)
    exchange = await proxy.end_of()
    assert exchange.end == "complete"
    if api.spends:
        assert exchange.usage.output == api.used[1]


@pytest.mark.parametrize("garbage", [b"data: {\xff\n\n", b'\n\ndata: {"object": 1, "type": []}\n\n{"model":1}\n'])
async def test_a_stream_that_makes_no_sense_passes_as_it_is(
    start: Start, serve: Serve, api: Api, garbage: bytes
) -> None:
    upstream = await serve(streaming(garbage, content_type=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    answer = await fetch(proxy.url + api.path)
    assert (answer.body, answer.complete) == (garbage, True)
    assert ((await proxy.end_of()).end, len(proxy.ended)) == ("complete", 1)


async def test_the_usage_of_an_answer_that_does_not_stream_is_read(start: Start, serve: Serve, api: Api) -> None:
    body = json.dumps(api.answer).encode()
    upstream = await serve(answering(response(body, headers=[("Content-Type", "application/json")])))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    assert (await fetch(proxy.url + api.path)).body == body
    exchange = await proxy.end_of()
    assert (tuple(exchange.usage), exchange.first_event()) == (api.used, None)


async def test_tokens_are_charged_with_what_was_reported(start: Start, serve: Serve, api: Api) -> None:
    upstream = await serve(streaming(api.stream, content_type=api.media))
    spent = sum(count or 0 for count in api.used[:2])
    limits = {"tokens": {"rate": f"{spent}/1h"}}
    proxy = await start([route(upstream.url, protocol=api.protocol, limits=limits)])
    assert (await fetch(proxy.url + api.path)).complete
    await proxy.end_of()
    refused = await fetch(proxy.url + api.path)
    assert (refused.status, kind_of(api, refused.body)) == (429, KINDS[api.protocol][1])
    assert refused.get("x-ratelimit-limit-tokens") == b"%d" % spent
    assert refused.get("x-ratelimit-remaining-tokens") == b"0"
    assert refused.get("x-ratelimit-reset-tokens") is not None
    assert refused.get("retry-after") is not None


@pytest.mark.parametrize("protocol", ["own", "auto"])
async def test_errors_before_the_head_have_the_form_of_the_api(
    start: Start, serve: Serve, api: Api, protocol: str
) -> None:
    named = api.protocol if protocol == "own" else "auto"
    locked = route("http://127.0.0.1:1", path="/locked/*", auth={"bearer": {"tokens": ["a"]}}, protocol=named)
    proxy = await start([locked, route("http://127.0.0.1:1", protocol=named)])
    denied, refused = await fetch(proxy.url + "/locked" + api.path), await fetch(proxy.url + api.path)
    assert (denied.status, refused.status) == (401, 502)
    kinds = (kind_of(api, denied.body), kind_of(api, refused.body))
    assert kinds == (KINDS[api.protocol][0], KINDS[api.protocol][2])


async def test_the_upstreams_name_takes_the_models_place_and_no_other_byte(
    start: Start, serve: Serve, api: Api
) -> None:
    bodies: list[bytes] = []

    async def script(conn: Conn) -> None:
        bodies.append((await conn.read_request())[1])
        await conn.send(response(b"{}"))

    upstream, other = await serve(script), await serve(answering(response(b"other")))
    pools = {"main": {"endpoints": [upstream.url], "models": {"m": "much-longer"}}, "other": {"endpoints": [other.url]}}
    routes = [route("main", models=["m", "n*"], protocol=api.protocol), route("other", protocol=api.protocol)]
    proxy = await start(routes, upstreams=pools)
    body = b'{ "x":[{"model":"m"}],\t"mod\\u0065l" : "m", "stream": false, "messages": [] }'
    assert (await post(proxy, api.path, body)).body == b"{}"
    assert (await post(proxy, api.path, b'{"model":"nn"}')).body == b"{}"
    assert bodies == [body.replace(b': "m"', b': "much-longer"'), b'{"model":"nn"}']
    for elsewhere in (b'{"model":"x"}', b"{}", b"no json", b'{"model":5}'):
        assert (await post(proxy, api.path, elsewhere)).body == b"other"
    assert (await post(proxy, api.path, b'{"model":"m","model":"n"}')).status == 400


async def test_usage_is_asked_for_in_completions_only(start: Start, serve: Serve, api: Api) -> None:
    bodies: list[bytes] = []

    async def script(conn: Conn) -> None:
        while True:
            bodies.append((await conn.read_request())[1])
            await conn.send(response(b"{}"))

    upstream = await serve(script)
    proxy = await start([route(upstream.url, protocol="auto", usage="ask")])
    for body in (b'{"stream":true}', b'{"stream":true,"stream_options":{}}', b'{"stream":false}'):
        await post(proxy, api.path, body)
    asked = b'{"stream":true,"stream_options":{"include_usage":true}}'
    first = asked if api.path.endswith("completions") else b'{"stream":true}'
    assert bodies == [first, b'{"stream":true,"stream_options":{}}', b'{"stream":false}']


async def test_a_stream_is_asked_for_uncompressed(start: Start, serve: Serve, api: Api) -> None:
    upstream = await serve(answering(response(b"{}")))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    async with await connect(proxy.url) as client:
        fields = [*JSON, ("Accept-Encoding", "gzip")]
        await client.request(api.path, method="POST", headers=fields, body=b'{"stream":true}')
        await client.read_response()
        await client.request(api.path.partition("?")[0], method="POST", headers=fields, body=b'{"stream":false}')
        await client.read_response()
    assert [head.get("accept-encoding") for head in upstream.requests] == [b"identity", b"gzip"]


async def test_no_model_of_a_client_is_a_label(start: Start, serve: Serve, api: Api) -> None:
    upstream = await serve(streaming(api.stream, content_type=api.media))
    proxy = await start([route(upstream.url, protocol=api.protocol)])
    await post(proxy, api.path, b'{"model":"a-model-of-my-own"}')
    await proxy.end_of()
    text = b"".join(proxy.app.metrics.exposition()[0])
    assert b"a-model-of-my-own" not in text
    await until(
        lambda: proxy.metric("gen_ai_client_operation_duration_seconds_count", gen_ai_request_model="other") == 1
    )
