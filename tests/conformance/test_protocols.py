"""``protocol``: streams of LLM APIs are understood and pass unchanged; errors are said in the form of the API."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conformance.conftest import StartStack
from tests.conformance.pulse import Pulse, silent_stream
from tests.conftest import Connect, Serve
from tests.doubles.client import Answer, fetch
from tests.doubles.stack import route
from tests.doubles.upstream import Conn, Script, answering, response, stream_head, streaming


def data(event: dict[str, Any], name: str = "") -> bytes:
    line = b"data: " + json.dumps(event).encode() + b"\n\n"
    return b"event: " + name.encode() + b"\n" + line if name else line


def chunk(**more: Any) -> bytes:
    return data({"object": "chat.completion.chunk", "model": "m", "choices": [], **more})


CHAT = [
    chunk(choices=[{"delta": {"role": "assistant", "content": ""}}]),
    chunk(choices=[{"delta": {"content": "hi"}}]),
    chunk(choices=[{"delta": {}, "finish_reason": "stop"}]),
    chunk(
        usage={"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}},
    ),
    b"data: [DONE]\n\n",
]
MESSAGES = [
    data(
        {
            "type": "message_start",
            "message": {"model": "c", "usage": {"input_tokens": 2, "cache_read_input_tokens": 4}},
        },
        "message_start",
    ),
    data({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}, "content_block_delta"),
    data(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}, "message_delta"
    ),
    data({"type": "message_stop"}, "message_stop"),
]
GEMINI = [
    data({"candidates": [{"content": {"parts": [{"text": "hi"}]}}], "modelVersion": "g"}),
    data(
        {
            "candidates": [{"finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 6, "candidatesTokenCount": 2, "thoughtsTokenCount": 1},
        }
    ),
]
OLLAMA = [
    b'{"model":"o","message":{"content":"hi"},"done":false}\n',
    b'{"model":"o","done":true,"done_reason":"stop","prompt_eval_count":6,"eval_count":3}\n',
]
RESPONSES = [
    data({"type": "response.created", "response": {"model": "r"}}),
    data({"type": "response.output_text.delta", "delta": "hi"}),
    data(
        {
            "type": "response.completed",
            "response": {"model": "r", "status": "completed", "usage": {"input_tokens": 6, "output_tokens": 3}},
        }
    ),
]
SSE, NDJSON = "text/event-stream", "application/x-ndjson"
GENERATED = ("gcp.gemini", "generate_content", "g", "STOP", 6, 3)
APIS = [
    ("openai", "/v1/chat/completions", CHAT, SSE, ("openai", "chat", "m", "stop", 7, 3)),
    ("openai", "/v1/responses", RESPONSES, SSE, ("openai", "chat", "r", "completed", 6, 3)),
    ("anthropic", "/v1/messages", MESSAGES, SSE, ("anthropic", "chat", "c", "end_turn", 6, 3)),
    ("gemini", "/v1beta/models/g:streamGenerateContent", GEMINI, SSE, GENERATED),
    ("ollama", "/api/chat", OLLAMA, NDJSON, ("ollama", "chat", "o", "stop", 6, 3)),
]  # fmt: skip
IDS = ["openai", "responses", "anthropic", "gemini", "ollama"]


def cut(*chunks: bytes, content_type: str = SSE) -> Script:
    """Sends these chunks of a stream, and then resets the connection when the test says so."""

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head(content_type))
        for one in chunks:
            await conn.send_chunk(one)
        await conn.stall()
        conn.reset()

    return script


@pytest.mark.parametrize("protocol", ["auto", "own"])
@pytest.mark.parametrize(("own", "path", "events", "media", "said"), APIS, ids=IDS)
async def test_a_stream_passes_byte_for_byte_and_what_it_says_is_known(
    stack: StartStack,
    serve: Serve,
    protocol: str,
    own: str,
    path: str,
    events: Sequence[bytes],
    media: str,
    said: tuple[Any, ...],
) -> None:
    upstream = await serve(streaming(*events, content_type=media))
    proxy = await stack([route(upstream.url, protocol=own if protocol == "own" else "auto")])
    answer = await fetch(proxy.url + path)
    assert (answer.body, answer.complete) == (b"".join(events), True)
    exchange = await proxy.end_of()
    assert exchange.end == "complete"
    found = (exchange.provider, exchange.operation, exchange.model, exchange.finish_reason)
    assert (*found, exchange.usage.input, exchange.usage.output) == said
    assert exchange.first_event() is not None
    labels = {"gen_ai_provider_name": said[0], "gen_ai_operation_name": said[1], "gen_ai_request_model": "other"}
    tokens = "gen_ai_client_token_usage_sum"
    assert proxy.metric(tokens, gen_ai_token_type="input", **labels) == said[4]
    assert proxy.metric(tokens, gen_ai_token_type="output", **labels) == said[5]
    assert proxy.metric("gen_ai_client_operation_time_to_first_chunk_seconds_count", **labels) == 1


@pytest.mark.parametrize(("own", "path", "events", "media", "said"), APIS, ids=IDS)
async def test_a_stream_without_its_end_marker_does_not_look_finished(
    stack: StartStack, serve: Serve, own: str, path: str, events: Sequence[bytes], media: str, said: tuple[Any, ...]
) -> None:
    upstream = await serve(streaming(*events[:1], content_type=media))
    proxy = await stack([route(upstream.url, protocol=own, on_truncation="error_event")])
    answer = await fetch(proxy.url + path)
    assert not answer.complete
    message = "The upstream ended its stream without the end marker of its API"
    assert answer.body.startswith(events[0])
    report = answer.body[len(events[0]) :]
    said = {"type": "api_error", "code": "http_response_incomplete", "message": message}
    if own == "gemini":
        assert report.startswith(b'data: {"error":{"code":502,')
    elif own == "ollama":
        assert json.loads(report) == {"error": message}
    else:
        assert report.startswith(b"event: error\ndata: ")
        event = json.loads(report.partition(b"data: ")[2])
        if path.endswith("/responses"):  # whose clients check that an event has all its members
            said |= {"param": None}
            assert event == said | {"type": "error", "sequence_number": 0, "error": said}
        else:
            assert event == {"type": "error", "error": said}
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error) == ("upstream_truncated", "http_response_incomplete")


async def test_a_stream_of_no_known_kind_needs_no_marker(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(streaming(b"data: tick\n\n"))
    proxy = await stack([route(upstream.url, protocol="openai")])
    assert (await fetch(proxy.url)).complete
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.operation) == ("complete", "")


FAILURE = data({"error": {"message": "CUDA out of memory", "type": "InternalServerError"}})


async def test_a_failure_inside_a_stream_passes_to_the_upstreams_own_end_and_is_counted(
    stack: StartStack, serve: Serve
) -> None:
    events = [*CHAT[:2], FAILURE, b"data: [DONE]\n\n"]
    upstream = await serve(streaming(*events))
    proxy = await stack([route(upstream.url, protocol="openai", on_truncation="error_event")])
    answer = await fetch(proxy.url)
    assert (answer.body, answer.complete) == (b"".join(events), True)
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error) == ("upstream_error", "upstream_error")
    assert proxy.metric("streamproxy_error_events_total", route="r0") == 1


async def test_nothing_comes_behind_a_failure_when_the_upstream_dies_then(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(cut(*CHAT[:2], FAILURE))
    proxy = await stack([route(upstream.url, protocol="openai", on_truncation="error_event")])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(FAILURE)
    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    assert (rest.body, rest.complete) == (b"", False)
    assert (await proxy.end_of()).end == "upstream_error"


async def test_a_client_that_leaves_at_a_failure_does_not_hide_it(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(cut(*CHAT[:2], FAILURE))
    proxy = await stack([route(upstream.url, protocol="openai")])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(FAILURE)
    client.reset()
    assert (await proxy.end_of()).end == "upstream_error"


@pytest.mark.parametrize(("error_events", "up"), [("on", 0), ("off", 1)])
async def test_failures_inside_streams_eject_an_endpoint_where_they_count(
    stack: StartStack, serve: Serve, error_events: str, up: int
) -> None:
    bad, good = await serve(streaming(CHAT[0], FAILURE)), await serve(streaming(*CHAT))
    pool = {
        "endpoints": [bad.url, good.url],
        "balance": "round_robin",
        "outlier": {"consecutive_failures": 2, "error_events": error_events},
    }
    proxy = await stack([route("pool", protocol="openai")], upstreams={"pool": pool})
    for _ in range(6):
        await fetch(proxy.url)
    await proxy.end_of(5)
    assert proxy.metric("streamproxy_endpoint_up", endpoint=bad.url) == up
    assert proxy.metric("streamproxy_endpoint_up", endpoint=good.url) == 1


async def test_an_answer_that_does_not_stream_has_its_usage_read(stack: StartStack, serve: Serve) -> None:
    body = json.dumps(
        {
            "object": "chat.completion",
            "model": "m",
            "choices": [{"finish_reason": "length", "message": {"content": "x" * 5000}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4},
        }
    ).encode()
    upstream = await serve(answering(response(body, headers=[("Content-Type", "application/json")])))
    proxy = await stack([route(upstream.url, protocol="openai")])
    assert (await fetch(proxy.url)).body == body
    exchange = await proxy.end_of()
    assert (exchange.usage.input, exchange.usage.output, exchange.finish_reason) == (9, 4, "length")
    assert exchange.first_event() is None


async def test_a_compressed_stream_passes_unread(stack: StartStack, serve: Serve) -> None:
    packed = gzip.compress(CHAT[0])
    fields = [("Content-Type", SSE), ("Content-Encoding", "gzip")]
    upstream = await serve(answering(response(packed, headers=fields)))
    proxy = await stack([route(upstream.url, protocol="openai")])
    answer = await fetch(proxy.url)
    assert (answer.body, answer.complete) == (packed, True)
    assert (await proxy.end_of()).operation == ""


async def test_a_stream_with_a_length_is_whole_without_its_marker(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(answering(response(CHAT[0], headers=[("Content-Type", SSE)])))
    proxy = await stack([route(upstream.url, protocol="openai")])
    assert (await fetch(proxy.url)).complete
    assert (await proxy.end_of()).end == "complete"


def error_of(answer: Answer) -> Any:
    assert answer.get("content-type") == b"application/json"
    return json.loads(answer.body)


@pytest.mark.parametrize("protocol", ["auto", "own"])
@pytest.mark.parametrize(
    ("own", "path"), [(own, path) for own, path, *_ in APIS if "responses" not in path], ids=[*IDS[:1], *IDS[2:]]
)
async def test_our_own_errors_are_in_the_form_of_the_api(
    stack: StartStack, serve: Serve, protocol: str, own: str, path: str
) -> None:
    auth = {"bearer": {"tokens": ["secret"]}}
    proxy = await stack(
        [route("http://127.0.0.1:1", protocol=own if protocol == "own" else "auto", auth=auth,
               limits={"max_request_body": 10})]
    )  # fmt: skip
    denied = await fetch(proxy.url + path)
    token = [("Authorization", "Bearer secret")]
    large = await fetch(proxy.url + path, method="POST", headers=[*token, ("Content-Length", "11")])
    refused = await fetch(proxy.url + path, headers=token)
    assert (denied.status, large.status, refused.status) == (401, 413, 502)
    for answer, kind, code in (
        (denied, {"openai": "authentication_error", "anthropic": "authentication_error"}, "UNAUTHENTICATED"),
        (large, {"openai": "invalid_request_error", "anthropic": "request_too_large"}, "INVALID_ARGUMENT"),
        (refused, {"openai": "server_error", "anthropic": "api_error"}, "UNAVAILABLE"),
    ):
        error = error_of(answer)["error"]
        if own == "ollama":
            assert isinstance(error, str)
        elif own == "gemini":
            assert (error["code"], error["status"]) == (answer.status, code)
        else:
            assert error["type"] == kind[own]
    assert denied.get("www-authenticate")


async def test_an_error_of_a_path_that_tells_no_api_is_a_problem(stack: StartStack) -> None:
    proxy = await stack([route("http://127.0.0.1:1", protocol="auto")])
    answer = await fetch(proxy.url + "/somewhere")
    assert answer.get("content-type") == b"application/problem+json"


async def test_an_ndjson_stream_that_breaks_ends_with_a_line_of_ollama(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(cut(OLLAMA[0], content_type=NDJSON))
    proxy = await stack([route(upstream.url, protocol="ollama", on_truncation="error_event")])
    client = await dial(proxy.url)
    await client.request("/api/chat")
    await client.read_head()
    await client.read_body_until(OLLAMA[0])
    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    assert not rest.complete
    assert list(json.loads(rest.body)) == ["error"]


def paused(before: bytes, after: bytes, content_type: str) -> Script:
    """A stream that waits for its test between two chunks, the first of which may be empty."""

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head(content_type))
        if before:
            await conn.send_chunk(before)
        await conn.stall()
        await conn.send_chunk(after)
        await conn.send_chunk(b"")

    return script


@pytest.mark.parametrize(
    ("protocol", "path", "before", "keepalive"),
    [
        ("gemini", "/", b"", b"\n"),
        ("auto", "/m:streamGenerateContent", b"", b"\n"),
        ("auto", "/", GEMINI[0], b"\n"),
        ("auto", "/", CHAT[0], b": keepalive\n\n"),
        ("openai", "/", b"id: 1\n" + CHAT[0], b": keepalive\n"),
    ],
)
async def test_a_keepalive_has_the_shape_that_the_apis_clients_take(
    stack: StartStack, serve: Serve, dial: Connect, protocol: str, path: str, before: bytes, keepalive: bytes
) -> None:
    upstream = await serve(paused(before, b"data: [DONE]\n\n" if protocol != "gemini" else GEMINI[1], SSE))
    proxy = await stack([route(upstream.url, protocol=protocol, keepalive="20ms")])
    client = await dial(proxy.url)
    await client.request(path)
    await client.read_head()
    if before:
        await client.read_body_until(before)
    expected = keepalive * 2
    assert (await client.read_body_until(expected)) == expected
    (await upstream.connection()).go.set()
    await client.read_rest()


@pytest.mark.parametrize("before", [b"", OLLAMA[0]], ids=["before the first line", "between lines"])
async def test_an_idle_ndjson_stream_gets_single_spaces_at_the_start_of_a_line(
    stack: StartStack, serve: Serve, dial: Connect, before: bytes
) -> None:
    upstream = await serve(paused(before, OLLAMA[1], NDJSON))
    keepalive = {"interval": "20ms", "ndjson": "on"}
    proxy = await stack([route(upstream.url, protocol="ollama", keepalive=keepalive)])
    client = await dial(proxy.url)
    await client.request("/api/chat")
    await client.read_head()
    assert await client.read_body_until(before + b"  ") == before + b"  "
    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    assert rest.complete
    assert rest.body.lstrip(b" ") == OLLAMA[1]
    assert (await proxy.end_of()).keepalives >= 2


async def test_no_space_stands_inside_a_line(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(paused(OLLAMA[0][:9], OLLAMA[0][9:] + OLLAMA[1], NDJSON))
    silent = await serve(silent_stream)
    keepalive = {"interval": "10ms", "ndjson": "on"}
    silent_route = route(silent.url, keepalive="10ms") | {"path": "/silent"}
    proxy = await stack([silent_route, route(upstream.url, keepalive=keepalive)])
    pulse = await Pulse.start(proxy, dial)
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    await client.read_body_until(OLLAMA[0][:9])
    await pulse.intervals()  # in which nothing may come
    (await upstream.connection()).go.set()
    assert (await client.read_rest()).body == OLLAMA[0][9:] + OLLAMA[1]
    assert (await proxy.end_of()).keepalives == 0


async def test_an_inspector_that_fails_is_given_up_and_the_stream_goes_on(
    stack: StartStack,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    if request.config.getoption("--build") == "compiled":
        pytest.skip("what is compiled can't be made to fail")

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("streamproxy.dialects.stream.note", fail)
    upstream = await serve(streaming(*CHAT))
    proxy = await stack([route(upstream.url, protocol="openai")])
    answer = await fetch(proxy.url)
    assert (answer.body, answer.complete) == (b"".join(CHAT), True)
    assert (await proxy.end_of()).end == "complete"
    assert sum("not read any further" in record.message for record in caplog.records) == 1


async def test_the_log_names_the_protocol(stack: StartStack, serve: Serve) -> None:
    upstream = await serve(answering(response(b"hi")))
    proxy = await stack(upstream.url)
    await fetch(proxy.url)
    assert (await proxy.end_of()).protocol == ("HTTP/2" if stack.server == "http2" else "HTTP/1.1")
