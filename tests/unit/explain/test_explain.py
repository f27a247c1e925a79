"""What is said of a request without sending it: the route, the upstreams, the request's head, the time-outs."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from streamproxy.config import parse_config
from streamproxy.explain import Explanation, asked, explain

CONFIG = """
upstreams:
  llm:
    endpoints: [http://127.0.0.1:8000, {url: http://127.0.0.1:8001, weight: 3}]
    models: {gpt-4o: qwen3}
    request_headers: {set: {authorization: "Bearer sk-upstream", x-tenant: "${TENANT}"}}
  canary: {endpoints: [http://127.0.0.1:8002]}
  spare: {endpoints: [{url: "http://spare.example", resolve: each}]}
routes:
  - {name: other, path: /other, upstream: llm}
  - {name: put, path: /v1/*, methods: [PUT], upstream: llm}
  - {name: host, path: /v1/*, hosts: [api.example], upstream: llm}
  - {name: header, path: /v1/*, headers: {x-beta: "1"}, upstream: llm}
  - {name: llama, path: /v1/*, models: ["llama-*"], upstream: llm}
  - name: chat
    path: /v1/*
    models: [gpt-4o]
    upstream: [{name: llm, weight: 95}, {name: canary, weight: 5}]
    fallback: [spare]
    protocol: openai
    usage: ask
    rewrite: {strip_prefix: /v1, add_prefix: /api}
    resume: {window: 10m}
    timeouts: {total: 600s}
    limits: {max_streams: 5, requests: {rate: 10/1m}}
    request_headers: {set: {x-team: search}}
  - {name: ws, path: /ws, upstream: canary}
  - {name: no-ws, path: /plain, upstream: canary, websocket: off}
  - {name: secret, path: /secret, upstream: canary, auth: {bearer: {tokens: [sesame]}}}
  - {name: prefix, path: /prefix, upstream: cached}
"""
CACHED = "  cached: {endpoints: [http://127.0.0.1:8003, http://127.0.0.1:8004], balance: {prefix: {}}}\n"
TEXT = CONFIG.replace("routes:\n", CACHED + "routes:\n")
RESUMED = "routes: [{path: /v1/*, methods: [POST], upstream: 'http://127.0.0.1:8000', resume: {}}]"
CHAT = '{"model":"gpt-4o","stream":true}'
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def said(method: str, url: str, *fields: str, body: str | None = None, text: str = TEXT) -> Explanation:
    config = parse_config(text, name="test", environ={"TENANT": "acme-internal"})
    return await explain(config, asked(method, url, fields, body))


async def test_the_route_its_upstreams_and_their_shares_are_named() -> None:
    lines, taken = await said("POST", "/v1/chat/completions", body=CHAT)
    assert taken
    assert lines[:8] == [
        "route: chat",
        "upstream: llm, 95 of 100 requests, balance least_streams",
        "  endpoint: http://127.0.0.1:8000, weight 1",
        "  endpoint: http://127.0.0.1:8001, weight 3",
        "upstream: canary, 5 of 100 requests, balance least_streams",
        "  endpoint: http://127.0.0.1:8002, weight 1",
        "fallback: spare, balance least_streams",
        "  endpoint: http://spare.example, weight 1, each of its addresses",
    ]


async def test_the_request_is_shown_as_it_would_go_upstream() -> None:
    lines, _ = await said("POST", "http://shop.example/v1/chat/completions?x=1#top", body=CHAT)
    assert "  POST /api/chat/completions?x=1 HTTP/1.1" in lines
    assert "  x-forwarded-host: shop.example" in lines
    assert "  x-team: search" in lines
    assert "  content-length: 71" in lines
    assert '  body: {"model":"qwen3","stream":true,"stream_options":{"include_usage":true}}' in lines


async def test_secrets_are_hidden_whoever_sets_them() -> None:
    lines, _ = await said("POST", "/v1/chat", "X-Api-Key: mine", "X-Other: Bearer mine", body=CHAT)
    text = "\n".join(lines)
    assert "authorization: ***" in text
    assert "x-tenant: ***" in text  # it came from outside the file
    assert "x-api-key: ***" in text
    assert "x-other: ***" in text
    assert all(secret not in text for secret in ("sk-upstream", "acme-internal", "mine"))


async def test_time_outs_limits_and_kept_streams_are_said() -> None:
    lines, _ = await said("POST", "/v1/chat", body=CHAT)
    time_outs = next(line for line in lines if line.startswith("time-outs: "))
    assert "connect 5s, request 60s, first_byte 300s, first_event off" in time_outs
    assert time_outs.endswith("total 600s")
    assert "limits: max_streams 5, requests (rate 10/60s, burst off)" in lines
    assert "retry: off" in lines
    assert any(line.startswith("resume: window 600s") for line in lines)


async def test_every_route_before_says_why_it_does_not_match() -> None:
    lines, _ = await said("POST", "/v1/chat", body=CHAT)
    assert lines[lines.index("routes before it:") + 1 :] == [
        "  other: the path is not one of its own",
        "  put: it takes only PUT",
        "  host: the host 'localhost' is not one of its own",
        "  header: it needs the header x-beta",
        "  llama: the model is 'gpt-4o', and it takes only llama-*",
    ]
    lines, _ = await said("POST", "/v1/chat", "X-Beta: 2", body=CHAT)
    assert "  header: it needs another value of the header x-beta" in lines


async def test_a_request_that_no_route_takes_hears_why_of_each() -> None:
    lines, taken = await said("GET", "/nowhere")
    assert not taken
    assert lines[0] == "no route takes this request: 404, destination_not_found"
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('{"model":"other"}', "  chat: the model is 'other', and it takes only gpt-4o"),
        ("{}", "  chat: the body names no model, and it takes only gpt-4o"),
        (None, "  chat: the body names no model, and it takes only gpt-4o"),
    ],
)
async def test_a_model_that_no_route_serves_is_nobodys(body: str | None, why: str) -> None:
    lines, taken = await said("POST", "/v1/chat", body=body)
    assert not taken
    assert lines[0].startswith("no route takes this request: 404")
    assert why in lines


async def test_a_body_with_two_models_is_refused_as_the_proxy_refuses_it() -> None:
    lines, taken = await said("POST", "/v1/chat", body='{"model":"a","model":"b"}')
    assert not taken
    assert lines[0].startswith("refused before a route is chosen: 400")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (["Content-Length: -1"], "400, http_request_error: The request is malformed"),
        (["Content-Length: 32", "Content-Length: 33"], "400, http_request_error: The request is"),
        (["Content-Length: 31"], "400, http_request_error: The body is not as long as its Content-Length"),
        (["Transfer-Encoding: gzip"], "400, http_request_error: The request is malformed"),
        (["Host: a", "Host: b"], "400, http_request_error: The request is refused"),
        (["Host: a b"], "400, http_request_error: The request is refused"),
        ([f"X-{number}: 1" for number in range(101)], "431, http_request_error: The request has more"),
        (["X: " + "1" * (64 << 10)], "431, http_request_error: The request head is over"),
    ],
)
async def test_a_head_that_no_listener_takes_is_refused_in_its_words(fields: list[str], why: str) -> None:
    lines, taken = await said("POST", "/v1/chat", *fields, body=CHAT)
    assert (len(lines), taken) == (1, False)
    assert lines[0].startswith(f"refused before a route is chosen: {why}"), lines


async def test_bytes_that_are_no_text_are_taken_as_the_command_line_has_them() -> None:
    value = b"\xff\xfe".decode("utf-8", "surrogateescape")
    lines, taken = await said(
        "POST",
        f"/v1/{value}?{value}",
        f"X-Own: {value}",
        "X-Space: \t\u00a0x\u00a0 \t",  # NBSP is no white space of HTTP
        body=f'{{"model":"gpt-4o","x":"{value}"}}',
    )
    assert taken
    assert {r"  POST /api/\xff\xfe?\xff\xfe HTTP/1.1", r"  x-own: \xff\xfe"} <= set(lines)
    assert "  x-space: \u00a0x\u00a0" in lines
    assert r'  body: {"model":"qwen3","x":"\xff\xfe"}' in lines


async def test_a_refused_credential_is_said_beside_where_it_would_have_gone() -> None:
    lines, taken = await said("GET", "/secret")
    assert taken
    assert lines[1] == "refused: 401, http_request_denied: A valid credential is needed"
    assert "  endpoint: http://127.0.0.1:8002, weight 1" in lines
    assert not any(line.startswith("request to") for line in lines)
    lines, _ = await said("GET", "/secret", "Authorization: Bearer sesame")
    assert "request to http://127.0.0.1:8002:" in lines


async def test_a_websocket_goes_up_as_a_handshake_where_the_route_has_them() -> None:
    lines, _ = await said("GET", "/ws", *HANDSHAKE)
    assert "  upgrade: websocket" in lines
    lines, _ = await said("GET", "/plain", *HANDSHAKE)
    assert lines[1].startswith("refused: 501")


async def test_a_conversation_names_the_one_endpoint_that_has_its_prefix() -> None:
    body = '{"messages":[{"role":"user","content":"hello"}]}'
    asked_of = {
        next(line for line in (await said("POST", "/prefix", body=body)).lines if line.startswith("request to"))
        for _ in range(8)
    }
    assert len(asked_of) == 1


async def test_a_cursor_is_answered_from_what_is_kept() -> None:
    lines, _ = await said("GET", "/v1/chat", "Last-Event-ID: " + "a" * 24 + "/5", text=RESUMED)
    assert any(line.startswith("replayed: ") for line in lines)
    assert not any(line.startswith("request to") for line in lines)


async def test_events_of_a_redis_name_the_channel_that_is_read() -> None:
    text = """
upstreams: {news: {redis: {url: "redis://u:secret@127.0.0.1:6379", channel: "user:{query.id}"}}}
routes: [{path: /events, upstream: news}]
"""
    lines, _ = await said("GET", "/events?id=5", text=text)
    assert lines[1:3] == ["upstream: news, events of a Redis (pubsub user:{query.id})", "reads: user:5"]
    assert "secret" not in "\n".join(lines)
    assert (await said("GET", "/events", text=text)).lines[2].startswith("refused: 400")
    assert (await said("POST", "/events?id=5", text=text)).lines[2].startswith("refused: 405")


async def test_nothing_is_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a connection was opened")

    def only_addresses(*arguments: Any, flags: int = 0, **more: Any) -> Any:
        assert flags & socket.AI_NUMERICHOST, "a name was looked up"
        return look_up(*arguments, flags=flags, **more)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", only_addresses)
    assert (await said("POST", "/v1/chat", body=CHAT)).taken


@pytest.mark.parametrize(
    ("method", "url", "field"),
    [
        ("GET", "nope", "a: b"),
        ("GET", "ftp://host/x", "a: b"),
        ("GET", "/a b", "a: b"),
        ("G T", "/", "a: b"),
        ("GET", "/", "no colon"),
        ("GET", "/", "two words: b"),
        ("GET", "/", "a: b\r\nc: d"),
    ],
)
def test_wrong_usage_is_said(method: str, url: str, field: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is neither|has a space"):
        asked(method, url, [field], None)


@pytest.mark.parametrize(
    ("url", "host", "path", "query"),
    [
        ("http://h.example:81/a?b=c?d#e", b"h.example:81", b"/a", b"b=c?d"),
        ("https://user:word@h.example", b"h.example", b"/", None),
        ("/a?", b"localhost", b"/a", b""),
        ("*", b"localhost", b"*", None),
        ("http://h.example?x=1", b"h.example", b"/", b"x=1"),
    ],
)
def test_the_target_is_taken_byte_for_byte(url: str, host: bytes, path: bytes, query: bytes | None) -> None:
    request = asked("GET", url, [], None)
    assert dict(request.headers)[b"host"] == host
    assert (request.target.path, request.target.query) == (path, query)
