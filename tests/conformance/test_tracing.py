"""Spans of real exchanges, as a collector gets them over OTLP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streamproxy.config import parse_config
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.connection import Head
from tests.doubles.stack import RunningStack, route
from tests.doubles.upstream import Conn, Upstream, answering, response, stream_head, streaming

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT = 2, 3  # kinds of the protocol
UNSET, ERROR = 0, 2  # codes of its status

Collect = Callable[..., Awaitable["Collector"]]


class Span:
    """One span as it came."""

    def __init__(self, message: Any) -> None:
        self.name: str = message.name
        self.kind: int = message.kind
        self.code: int = message.status.code
        self.trace_id: str = message.trace_id.hex()
        self.span_id: str = message.span_id.hex()
        self.parent_id: str = message.parent_span_id.hex()
        self.state: str = message.trace_state
        self.times = (message.start_time_unix_nano, message.end_time_unix_nano)
        self.attributes = attributes_of(message)
        self.events = {event.name: attributes_of(event) for event in message.events}


def attributes_of(message: Any) -> Mapping[str, object]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in message.attributes}


class Collector:
    """A receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        self.upstream: Upstream
        self.batches: list[ExportTraceServiceRequest] = []

    async def script(self, conn: Conn) -> None:
        head, body = await conn.read_request()
        assert (head.target, head.get("content-type")) == (b"/v1/traces", b"application/x-protobuf")
        self.batches.append(ExportTraceServiceRequest.FromString(body))
        await conn.send(response(b"", headers=[("Content-Type", "application/x-protobuf")]))

    @property
    def section(self) -> dict[str, object]:
        """What the proxy's configuration says of it."""
        return {"endpoint": self.upstream.url}

    async def spans_of(self, proxy: RunningStack, exchanges: int = 1) -> list[Span]:
        """All spans, once so many exchanges have ended; the proxy sends no more after that."""
        await proxy.end_of(exchanges - 1)
        assert proxy.app.deployment.spans is not None
        await proxy.app.deployment.spans.aclose()
        return [
            Span(span)
            for batch in self.batches
            for of_resource in batch.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]


@pytest.fixture
async def collector(serve: Serve) -> Collector:
    double = Collector()
    double.upstream = await serve(double.script)
    return double


def pair(spans: list[Span]) -> tuple[Span, Span]:
    """The server span and the client span of the only exchange, which belong together."""
    server, client = sorted(spans, key=lambda span: span.kind)
    assert (server.kind, client.kind) == (SERVER, CLIENT)
    assert (client.trace_id, client.parent_id) == (server.trace_id, server.span_id)
    assert server.times[0] <= client.times[0] <= client.times[1] <= server.times[1]
    return server, client


def traceparent(head: Head) -> list[str]:
    value = head.get("traceparent")
    assert value is not None
    return value.decode().split("-")


async def test_a_complete_stream_is_two_spans_in_the_callers_trace(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    upstream = await serve(streaming(b"data: 1\n\n", b"data: 2\n\n"))
    proxy = await stack([route(upstream.url, name="chat")], tracing=collector.section)
    client = await dial(proxy.url)
    headers = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), ("tracestate", "b=2")]
    assert (await client.get("/v1?token=secret", headers=headers)).complete
    server, asked = pair(await collector.spans_of(proxy))
    assert (server.trace_id, server.parent_id, server.state) == (TRACE, SPAN, "a=1,b=2")
    assert (server.code, asked.code) == (UNSET, UNSET)
    assert server.attributes["http.route"] == "chat"
    assert server.attributes["url.query"] == "token=***"
    assert server.attributes["client.address"] == "127.0.0.1"
    assert server.attributes["streamproxy.events"] == 2
    assert asked.attributes["url.full"] == f"{upstream.url}/v1?token=***"
    assert asked.attributes["http.response.status_code"] == 200
    assert server.events["streamproxy.first_byte"] == {}
    assert server.events["streamproxy.end"] == {"streamproxy.end": "complete", "streamproxy.phase": "body"}
    head = await upstream.request()
    assert traceparent(head) == ["00", TRACE, asked.span_id, "01"]
    states = [value for name, value in head.headers if name.lower() == b"tracestate"]
    assert b",".join(states).replace(b" ", b"") == b"a=1,b=2"
    assert (await proxy.end_of()).trace_id == TRACE


async def test_a_truncated_stream_has_failed_on_both_sides(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")

    upstream = await serve(script)
    proxy = await stack(upstream.url, tracing=collector.section)
    client = await dial(proxy.url)
    assert not (await client.get()).complete
    server, asked = pair(await collector.spans_of(proxy))
    assert (server.code, asked.code) == (ERROR, ERROR)
    assert asked.attributes["error.type"] == "http_response_incomplete"
    assert server.events["streamproxy.end"]["streamproxy.end"] == "upstream_truncated"
    assert traceparent(await upstream.request()) == ["00", server.trace_id, asked.span_id, "01"]


async def test_a_client_that_leaves_is_nobodys_failure(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await conn.stall()

    upstream = await serve(script)
    proxy = await stack(upstream.url, tracing=collector.section)
    client = await dial(proxy.url)
    await client.request()
    await client.read_head()
    await client.read_body_until(b"\n\n")
    client.reset()
    server, asked = pair(await collector.spans_of(proxy))
    assert (server.code, asked.code) == (UNSET, UNSET)
    assert server.events["streamproxy.end"]["streamproxy.end"] == "client_disconnect"
    assert "error.type" not in asked.attributes
    upstream.connections[0].go.set()


async def test_an_upstream_that_refuses_is_a_502_in_both_spans(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    upstream = await serve(answering(response(b"")))
    await upstream.stop()
    proxy = await stack(upstream.url, tracing=collector.section)
    client = await dial(proxy.url)
    assert (await client.get()).status == 502
    server, asked = pair(await collector.spans_of(proxy))
    assert server.attributes["http.response.status_code"] == 502
    assert server.attributes["error.type"] == asked.attributes["error.type"] == "connection_refused"
    assert "http.response.status_code" not in asked.attributes
    assert server.events["streamproxy.end"]["streamproxy.phase"] == "connect"


async def test_a_caller_that_does_not_record_is_passed_on_and_not_recorded(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, tracing=collector.section)
    client = await dial(proxy.url)
    await client.get(headers=[("traceparent", f"00-{TRACE}-{SPAN}-00"), ("tracestate", "a=1")])
    assert await collector.spans_of(proxy) == []
    head = await upstream.request()
    assert (traceparent(head), head.get("tracestate")) == (["00", TRACE, SPAN, "00"], b"a=1")
    assert (await proxy.end_of()).trace_id == TRACE


async def test_a_trace_that_is_not_sampled_here_is_announced_as_such(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, tracing=collector.section | {"sample_ratio": 0})
    client = await dial(proxy.url)
    await client.get()
    assert await collector.spans_of(proxy) == []
    version, trace_id, _, flags = traceparent(await upstream.request())
    assert (version, trace_id, flags) == ("00", (await proxy.end_of()).trace_id, "00")


async def test_a_checked_credential_is_in_no_span(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    upstream = await serve(answering(response(b"ok")))
    auth = {"bearer": {"tokens": ["sesame"]}, "from": ["header", {"query": "key"}]}
    proxy = await stack([route(upstream.url, auth=auth)], tracing=collector.section)
    client = await dial(proxy.url)
    assert (await client.get("/a?key=sesame&b=1")).status == 200
    server, asked = pair(await collector.spans_of(proxy))
    assert "sesame" not in f"{server.attributes} {asked.attributes}"
    assert asked.attributes["url.full"] == f"{upstream.url}/a?b=***"
    assert traceparent(await upstream.request())[2] == asked.span_id


@pytest.mark.parametrize(
    ("value", "trace_id"), [(f"00-{TRACE}-{SPAN}-01", TRACE), (f"00-{TRACE.upper()}-{SPAN}-01", ""), ("garbage", "")]
)
async def test_without_tracing_a_traceparent_is_passed_on_byte_for_byte(
    stack: StartStack, serve: Serve, dial: Connect, value: str, trace_id: str
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.get(headers=[("traceparent", value), ("tracestate", "what=ever,=")])
    head = await upstream.request()
    assert (head.get("traceparent"), head.get("tracestate")) == (value.encode(), b"what=ever,=")
    assert (await proxy.end_of()).trace_id == trace_id


async def test_a_reload_turns_tracing_on_and_off(
    stack: StartStack, serve: Serve, dial: Connect, collector: Collector
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    config = f"routes: [{{path: /*, upstream: '{upstream.url}'}}]\nlog: {{access: off}}\n"
    await client.get()
    await proxy.app.adopt(parse_config(f"{config}tracing: {{endpoint: '{collector.upstream.url}'}}", name="on"))
    await client.get()
    exported = proxy.app.deployment.spans
    await proxy.app.adopt(parse_config(config, name="off"))
    await client.get()
    await proxy.end_of(2)
    assert exported is not None
    assert proxy.app.deployment.spans is None
    assert [len(batch.resource_spans[0].scope_spans[0].spans) for batch in collector.batches] == [2]
    assert [(await upstream.request(number)).get("traceparent") is None for number in range(3)] == [True, False, True]
