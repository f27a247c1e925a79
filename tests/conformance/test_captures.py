"""What inference engines send, through the proxy: no byte is changed, and what it says is understood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamproxy.formats.inspector import Usage
from streamproxy.upstream.load import ENGINES
from tests.captures import CAPTURES, HERE, LOADS, OPENAI, REFUSALS, Capture, Refusal
from tests.conformance.conftest import Start
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head, streaming

LLAMA_CPP = {"path": "/metrics", "running": "llamacpp:requests_processing", "waiting": "llamacpp:requests_deferred"}


def named(cases: Any) -> Any:
    return {"argvalues": cases, "ids": [case.file for case in cases]}


async def replayed(start: Start, serve: Serve, capture: Capture, size: int) -> RunningStack:
    """The proxy, after a client has read the capture, which came in chunks of this size."""
    body = capture.body
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    upstream = await serve(streaming(*chunks, content_type=capture.media))
    proxy = await start([route(upstream.url, protocol="auto")])
    answer = await fetch(proxy.url + capture.path)
    assert answer.body == body
    # A stream that reports its failure ends in its own way; one that only stops is seen to be cut.
    assert answer.complete == (capture.end != "upstream_truncated")
    return proxy


@pytest.mark.parametrize("size", [97, 1 << 20])
@pytest.mark.parametrize("capture", **named(CAPTURES))
async def test_a_stream_passes_unchanged_and_is_understood(
    start: Start, serve: Serve, capture: Capture, size: int
) -> None:
    proxy = await replayed(start, serve, capture, size)
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.model, exchange.finish_reason) == (capture.end, capture.model, capture.finish)
    assert exchange.usage == capture.usage
    known = bool(capture.model or capture.failure)
    assert bool(exchange.first_event_at) == (known and capture.speaks)
    assert capture.failure in str(exchange.error)
    assert proxy.metric("streamproxy_error_events_total") == bool(capture.failure)
    assert proxy.metric("gen_ai_client_operation_duration_seconds_count") == known
    for kind, tokens in zip(
        ("input", "output", "cache_read", "cache_write", "reasoning"), capture.usage or (), strict=False
    ):
        assert proxy.metric("gen_ai_client_token_usage_sum", gen_ai_token_type=kind) == (tokens or 0)


@pytest.mark.parametrize(
    ("file", "usage"),
    [
        ("vllm/chat-continuous.sse", Usage(31, 3, reasoning=2)),
        ("sglang/chat-continuous.sse", Usage(20, 2, reasoning=0)),
        ("trtllm/chat-tools-continuous.sse", Usage(40, 12, 0)),
        ("trtllm/chat-cut.sse", None),
    ],
)
async def test_usage_that_is_said_as_it_goes_counts_for_a_stream_that_dies(
    start: Start, serve: Serve, file: str, usage: Usage | None
) -> None:
    events = (HERE / file).read_bytes().split(b"\n\n")
    begun = b"\n\n".join(events[:3]) + b"\n\n"

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(begun)
        conn.close()

    upstream = await serve(script)
    proxy = await start([route(upstream.url, protocol="auto")])
    answer = await fetch(proxy.url + OPENAI)
    assert (answer.body.strip(), answer.complete) == (begun.strip(), False)
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.usage) == ("upstream_truncated", usage)


@pytest.mark.parametrize("capture", **named([capture for capture in CAPTURES if not capture.speaks]))
async def test_a_failure_before_the_engine_has_spoken_leads_to_the_fallback(
    start: Start, serve: Serve, capture: Capture
) -> None:
    bad = await serve(streaming(capture.body))
    good = await serve(streaming(b"data: [DONE]\n\n"))
    retry = {"until": "first_event", "on": ["error_event"], "attempts": 1}
    upstreams = {"bad": {"endpoints": [bad.url]}, "good": {"endpoints": [good.url]}}
    proxy = await start([route("bad", protocol="auto", retry=retry, fallback=["good"])], upstreams=upstreams)
    answer = await fetch(proxy.url + capture.path)
    assert (answer.status, answer.body, answer.complete) == (200, b"data: [DONE]\n\n", True)
    assert proxy.metric("streamproxy_fallbacks_total", upstream="good") == 1


@pytest.mark.parametrize("refusal", **named(REFUSALS))
async def test_an_error_before_the_head_passes_unchanged(start: Start, serve: Serve, refusal: Refusal) -> None:
    fields = [("Content-Type", "application/json")]
    upstream = await serve(answering(response(refusal.body, status=refusal.status, headers=fields)))
    proxy = await start([route(upstream.url, protocol="auto")])
    answer = await fetch(proxy.url + refusal.path)
    assert (answer.status, answer.body, answer.complete) == (refusal.status, refusal.body, True)
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.usage) == ("complete", None)


@pytest.mark.parametrize("refusal", **named([refusal for refusal in REFUSALS if refusal.path == OPENAI]))
async def test_an_error_behind_an_early_head_is_told_in_the_engines_words(
    start: Start, serve: Serve, dial: Connect, refusal: Refusal
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        fields = [("Content-Type", "application/json")]
        await conn.send(response(refusal.body, status=refusal.status, headers=fields))

    upstream = await serve(script)
    keepalive = {"interval": "20ms", "before_headers": "20ms"}
    proxy = await start([route(upstream.url, protocol="auto", keepalive=keepalive)])
    client = await dial(proxy.url)
    await client.request(OPENAI, headers=[("Accept", "text/event-stream")])
    await client.read_head()
    (await upstream.connection()).go.set()
    rest = await client.read_rest()
    said = json.loads(rest.body.rpartition(b"data: ")[2])["error"]
    reported = json.loads(refusal.body)
    about = reported.get("error", reported)
    assert said["message"] == (about if isinstance(about, str) else about["message"])
    assert not rest.complete


@pytest.mark.parametrize("engine", LOADS)
async def test_the_engines_metrics_are_read(start: Start, serve: Serve, engine: str) -> None:
    metrics = (HERE / engine / "metrics.txt").read_bytes()

    async def script(conn: Conn) -> None:
        while True:
            head, _ = await conn.read_request()
            known = head.target == (ENGINES[engine].path if engine in ENGINES else "/metrics").encode()
            await conn.send(response(metrics if known else b"", status=200 if known else 404))

    upstream = await serve(script)
    load = {"source": engine if engine in ENGINES else LLAMA_CPP, "interval": "10ms"}
    pool = {"endpoints": [upstream.url], "balance": "least_load", "load": load}
    proxy = await start([route("pool")], upstreams={"pool": pool})
    running = proxy.app.deployment.upstreams["pool"]
    await running.start()
    try:
        kinds = dict(zip(("running", "waiting", "cache"), LOADS[engine], strict=True))
        for kind, value in kinds.items():
            if value is not None:
                await until(lambda: proxy.metric("streamproxy_endpoint_load", kind=kind) == value, kind)  # noqa: B023
    finally:
        await running.quiesce()
