"""What a JSON request body decides: the route, what its model is called upstream, and whether usage is asked for."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import Answer, connect
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response, silent

quirk = pytest.mark.quirk


class Echo:
    """Answers with its name, and keeps the bodies that it was sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bodies: list[bytes] = []
        self.upstream: Upstream

    async def start(self, serve: Serve) -> Echo:
        self.upstream = await serve(self._script)
        return self

    async def _script(self, conn: Conn) -> None:
        while True:
            _, body = await conn.read_request()
            self.bodies.append(body)
            await conn.send(response(self.name.encode()))

    @property
    def url(self) -> str:
        return self.upstream.url


async def post(
    proxy: RunningStack, body: bytes, *, target: str = "/v1/chat/completions", headers: Sequence[tuple[str, str]] = ()
) -> Answer:
    async with await connect(proxy.url) as client:
        fields = [("Content-Type", "application/json"), *headers]
        await client.request(target, method="POST", headers=fields, body=body)
        return await client.read_response("POST")


def ask(model: object, **more: object) -> bytes:
    return json.dumps({"messages": ["x"], "model": model, **more}).encode()


async def two(stack: StartStack, serve: Serve, **keys: Any) -> tuple[RunningStack, Echo, Echo]:
    """A route for llama-* and qwen, and one for everything that has no model or another."""
    a, b = await Echo("a").start(serve), await Echo("b").start(serve)
    first = route(a.url, models=["llama-*", "qwen"], protocol="openai", **keys)
    return await stack([first, route(b.url, name="rest")]), a, b


@pytest.mark.parametrize(
    ("model", "name"), [("llama-3", b"a"), ("llama-", b"a"), ("qwen", b"a"), ("qwen3", b"b"), ("gpt", b"b"), (7, b"b")]
)
async def test_the_model_of_a_body_chooses_the_route(
    stack: StartStack, serve: Serve, model: object, name: bytes
) -> None:
    proxy, a, b = await two(stack, serve)
    body = ask(model)
    answer = await post(proxy, body)
    assert (answer.status, answer.body) == (200, name)
    assert (a.bodies, b.bodies) == (([body], []) if name == b"a" else ([], [body]))
    exchange = await proxy.end_of()
    assert (exchange.route, exchange.upstream) == (("r0", "up0") if name == b"a" else ("rest", "up1"))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"no json", ()),
        (b'{"messages": []}', ()),
        (b'{"model": "qwen"', ()),
        (b'{"model": "qwen"} x', ()),
        (b'{"model": "' + b"q" * 1_000_000 + b'"}', ()),
        (b"[" * 100_000, ()),
        (b'{"a": ' + b"[" * 100_000, ()),
        (b'{"a": ' + b"9" * 1_000_000 + b', "model": "gpt"}', ()),
        (b'{"a\xff": "\xfe", "model": "\xff"}', ()),
        (gzip.compress(b'{"model": "qwen"}'), [("Content-Encoding", "gzip")]),
    ],
    ids=["text", "no model", "cut", "more behind", "1 MB", "depth", "depth inside", "digits", "no UTF-8", "gzip"],
)
async def test_a_body_without_a_model_to_be_read_is_not_the_routes_and_passes_as_it_is(
    stack: StartStack, serve: Serve, body: bytes, headers: Sequence[tuple[str, str]]
) -> None:
    proxy, _, b = await two(stack, serve)
    assert (await post(proxy, body, headers=headers)).body == b"b"
    assert b.bodies == [body]
    assert len((await proxy.end_of()).model) <= 128


async def test_a_body_over_inspect_body_is_not_the_routes(stack: StartStack, serve: Serve) -> None:
    proxy, _, b = await two(stack, serve, limits={"inspect_body": "1KiB"})
    body = ask("qwen", more="x" * 2000)
    assert (await post(proxy, body)).body == b"b"
    async with await connect(proxy.url) as client:
        await client.request(method="POST", headers=[("Transfer-Encoding", "chunked")])
        await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert (await client.read_response("POST")).body == b"b"
    assert b.bodies == [body, body]


async def test_the_bytes_that_are_held_show_in_a_metric_until_they_are_sent(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    proxy, _, _ = await two(stack, serve)
    client = await dial(proxy.url)
    body = ask("qwen", more="x" * 2000)
    await client.request(method="POST", headers=[("Content-Length", str(len(body)))])
    await client.send(body[:1500])

    def held() -> float:
        return proxy.metric("streamproxy_request_held_bytes")

    await until(held, "what has come to be held", holds=lambda size: size == 1500)
    await client.send(body[1500:])
    assert (await client.read_response("POST")).status == 200
    await proxy.end_of()
    assert held() == 0


@quirk("httpx", "user", reason="sends the whole body before it reads the head")
async def test_a_route_that_wants_to_know_nothing_of_a_body_holds_none_of_it(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    got_first = asyncio.Event()

    async def script(conn: Conn) -> None:
        await conn.read_head()
        assert await conn.read_chunk() == b'{"messages": "'
        got_first.set()
        assert [await conn.read_chunk(), await conn.read_chunk()] == [b'x"}', b""]
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, protocol="openai")])
    client = await dial(proxy.url)
    fields = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
    await client.request("/v1/chat/completions", method="POST", headers=fields)
    await client.send_chunk(b'{"messages": "')
    async with asyncio.timeout(20):
        await got_first.wait()
    assert proxy.metric("streamproxy_request_held_bytes") == 0
    await client.send_chunk(b'x"}')
    await client.send_chunk(b"")
    assert (await client.read_response("POST")).status == 200


async def test_a_body_that_is_held_for_its_model_is_not_sent_again_beyond_the_retrys_buffer(
    stack: StartStack, serve: Serve
) -> None:
    statuses: list[str] = []

    async def script(conn: Conn) -> None:
        while True:
            await conn.read_request()
            statuses.append("503 Busy" if len(statuses) % 2 == 0 else "200 OK")
            await conn.send(response(status=statuses[-1]))

    upstream = await serve(script)
    retry = {"attempts": 2, "non_idempotent": "on", "backoff": "1ms", "buffer": "1KiB"}
    proxy = await stack([route(upstream.url, models="qwen", retry=retry)])
    assert (await post(proxy, ask("qwen", more="x" * 100))).status == 200
    assert (await post(proxy, ask("qwen", more="x" * 1024))).status == 503
    assert statuses == ["503 Busy", "200 OK", "503 Busy"]


async def test_a_request_without_a_body_goes_to_the_route_without_models(stack: StartStack, serve: Serve) -> None:
    proxy, _, _ = await two(stack, serve)
    async with await connect(proxy.url) as client:
        assert (await client.get("/v1/models")).body == b"b"


async def test_two_model_keys_are_refused(stack: StartStack, serve: Serve) -> None:
    proxy, a, b = await two(stack, serve)
    answer = await post(proxy, b'{"model": "qwen", "x": 1, "Model": "gpt"}')
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
    assert (a.bodies, b.bodies) == ([], [])


async def test_a_model_that_no_route_has_is_not_found_in_the_form_of_the_first(stack: StartStack, serve: Serve) -> None:
    a = await Echo("a").start(serve)
    proxy = await stack([route(a.url, models="qwen", protocol="openai"), route(a.url, name="two", models="llama")])
    answer = await post(proxy, ask("gpt"))
    assert (answer.status, answer.get("proxy-status")) == (404, b"streamproxy; error=destination_not_found")
    assert json.loads(answer.body)["error"]["code"] == "model_not_found"
    exchange = await proxy.end_of()
    assert (exchange.route, exchange.model) == ("-", "gpt")
    assert a.bodies == []


async def test_nothing_is_held_for_a_client_that_no_route_lets_in(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    proxy, a, _ = await two(stack, serve)
    a_route = route(a.url, models="qwen", protocol="anthropic", auth={"bearer": {"tokens": ["secret"]}})
    proxy = await stack([a_route])
    client = await dial(proxy.url)
    await client.request(method="POST", headers=[("Content-Length", "100")])  # and the body never comes
    answer = await client.read_response("POST")
    assert answer.status == 401
    assert json.loads(answer.body)["error"]["type"] == "authentication_error"


async def test_the_chosen_routes_limits_and_time_outs_hold(stack: StartStack, serve: Serve, dial: Connect) -> None:
    a = await Echo("a").start(serve)

    slow = await serve(silent)
    proxy = await stack(
        [
            route(a.url, models="small", limits={"max_request_body": 20}),
            route(slow.url, name="slow", models="slow", timeouts={"first_byte": "50ms"}),
        ]
    )
    assert (await post(proxy, ask("small"))).status == 413
    assert (await post(proxy, ask("slow"))).status == 504


async def test_a_body_that_stalls_while_it_is_read_ahead_is_a_time_out(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    a = await Echo("a").start(serve)
    proxy = await stack([route(a.url, models="qwen", protocol="openai", timeouts={"request": "50ms"})])
    client = await dial(proxy.url)
    await client.request(method="POST", headers=[("Content-Length", "100")])
    await client.send(b'{"model": "qwen"')
    answer = await client.read_response("POST")
    assert answer.status == 408
    assert "error" in json.loads(answer.body)


async def test_a_client_that_leaves_while_its_body_is_read_ahead_is_gone_at_once(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    a = await Echo("a").start(serve)
    proxy = await stack([route(a.url, models="qwen")])
    client = await dial(proxy.url)
    await client.request(method="POST", headers=[("Content-Length", "100")])
    await client.send(b'{"model": "qwen"')
    await until(lambda: bool(proxy.app.ledger.live), "the request to begin")
    client.reset()
    assert (await proxy.end_of()).end == "client_disconnect"
    assert a.upstream.requests == []


async def test_an_upstream_calls_a_model_by_its_own_name_and_no_other_byte_changes(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    a = await Echo("a").start(serve)
    upstreams = {"llm": {"endpoints": [a.url], "models": {"gpt-4o": "qwen3-32b"}}}
    proxy = await stack([route("llm", protocol="openai")], upstreams=upstreams)
    before, after = b'{ "x" : "gpt-4o",\t"model" :"gpt-4o" , "n":1.50}\n', b'{ "x" : "gpt-4o",\t"model" :"qwen3-32b" , "n":1.50}\n'  # fmt: skip  # noqa: E501
    await post(proxy, before)
    await post(proxy, ask("other"))
    client = await dial(proxy.url)
    await client.request(method="POST", headers=[("Transfer-Encoding", "chunked")])
    for piece in (before[:20], before[20:]):
        await client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    await client.send(b"0\r\n\r\n")
    assert (await client.read_response("POST")).status == 200
    assert a.bodies == [after, ask("other"), after]
    assert a.upstream.requests[0].get("content-length") == b"%d" % len(after)
    assert a.upstream.requests[2].get("content-length") is None
    assert [one.model for one in proxy.ended[:2]] == ["gpt-4o", "other"]


async def test_a_retry_sends_the_body_that_was_changed(stack: StartStack, serve: Serve) -> None:
    bodies: list[bytes] = []

    async def script(conn: Conn) -> None:
        while True:
            bodies.append((await conn.read_request())[1])
            await conn.send(response(status="503 Busy" if len(bodies) == 1 else "200 OK"))

    upstream = await serve(script)
    upstreams = {"llm": {"endpoints": [upstream.url], "models": {"a": "bcd"}}}
    retry = {"attempts": 2, "non_idempotent": "on", "backoff": "1ms"}
    proxy = await stack([route("llm", retry=retry)], upstreams=upstreams)
    assert (await post(proxy, ask("a"))).status == 200
    assert bodies == [ask("bcd"), ask("bcd")]


@pytest.mark.parametrize(
    ("target", "body", "asked"),
    [
        ("/v1/chat/completions", b'{"model":"m","stream":true}', True),
        ("/v1/completions", b'{"model":"m","stream":true}', True),
        ("/v1/chat/completions", b'{"model":"m"}', False),
        ("/v1/chat/completions", b'{"stream":true,"stream_options":{"include_usage":false}}', False),
        ("/v1/responses", b'{"model":"m","stream":true}', False),
    ],
)
async def test_usage_is_asked_for_where_a_completion_streams_and_says_nothing_of_it(
    stack: StartStack, serve: Serve, target: str, body: bytes, asked: bool
) -> None:
    a = await Echo("a").start(serve)
    proxy = await stack([route(a.url, protocol="openai", usage="ask")])
    await post(proxy, body, target=target)
    sent = body[:-1] + b',"stream_options":{"include_usage":true}}' if asked else body
    assert a.bodies == [sent]


@pytest.mark.parametrize(
    ("protocol", "body", "coding"),
    [
        ("openai", b'{"stream": true, "messages": []}', b"identity"),
        ("openai", b'{"stream": false}', b"gzip, br"),
        ("openai", b"no json", b"gzip, br"),
        ("http", b'{"stream": true}', b"gzip, br"),
    ],
)
async def test_a_body_that_asks_for_a_stream_asks_for_an_uncompressed_one(
    stack: StartStack, serve: Serve, protocol: str, body: bytes, coding: bytes
) -> None:
    a = await Echo("a").start(serve)
    proxy = await stack([route(a.url, protocol=protocol)])
    await post(proxy, body, headers=[("Accept-Encoding", "gzip, br")])
    assert a.upstream.requests[0].get("accept-encoding") == coding
    assert a.bodies == [body]


@pytest.mark.quirk("http2", reason="the test's client sends its body at once there")
async def test_a_client_that_waits_for_100_is_told_to_go_on(stack: StartStack, serve: Serve, dial: Connect) -> None:
    a = await Echo("a").start(serve)
    proxy = await stack([route(a.url, models="qwen")])
    client = await dial(proxy.url)
    body = ask("qwen")
    fields = [("Content-Length", str(len(body))), ("Expect", "100-continue")]
    await client.request(method="POST", headers=fields)
    await until(lambda: b"100" in bytes(client.buffer), "100 Continue")
    await client.send(body)
    assert (await client.read_response("POST")).body == b"a"


@pytest.mark.quirk("http2", reason="the test's client sends its body at once there")
async def test_no_upstream_is_waited_for_with_a_body_that_is_held(
    stack: StartStack, serve: Serve, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("http1", "http2"):
        monkeypatch.setattr(f"streamproxy.client.{version}.body.CONTINUE_TIMEOUT", 3600.0)
    a = await Echo("a").start(serve)  # which never says 100
    proxy = await stack([route(a.url, models="qwen")])
    client = await dial(proxy.url)
    body = ask("qwen")
    await client.request(method="POST", headers=[("Transfer-Encoding", "chunked"), ("Expect", "100-continue")])
    await until(lambda: b"100" in bytes(client.buffer), "100 Continue")
    await client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert (await client.read_response("POST")).body == b"a"
    assert a.bodies == [body]


async def test_a_model_is_a_label_only_if_the_configuration_has_it(stack: StartStack, serve: Serve) -> None:
    said = {"object": "chat.completion", "model": "m", "usage": {"prompt_tokens": 1}}
    reply = response(json.dumps(said).encode(), headers=[("Content-Type", "application/json")])

    async def script(conn: Conn) -> None:
        while True:
            await conn.read_request()
            await conn.send(reply)

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, models=["known", "wide-*"], protocol="openai")])
    for model in ("known", "wide-1", "wide-2"):
        await post(proxy, ask(model))
    await proxy.end_of(2)
    count = "gen_ai_client_operation_duration_seconds_count"
    assert proxy.metric(count, gen_ai_request_model="known") == 1
    assert proxy.metric(count, gen_ai_request_model="other") == 2
