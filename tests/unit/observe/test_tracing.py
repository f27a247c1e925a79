"""Which exchanges are recorded, what their spans say, and how they come to a collector."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from unittest import mock

import pytest
from hypothesis import given, settings
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import http_attributes as incubating
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
    user_agent_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode

from streamproxy import errors
from streamproxy.config.tracing import Tracing
from streamproxy.errors import StreamproxyError
from streamproxy.exchange.exchange import Exchange, Phase
from streamproxy.observe import otlp
from streamproxy.observe.otlp import OtlpExporter
from streamproxy.observe.spans import SpanSink, resource, spans_of
from streamproxy.observe.tracing import SpanExport, Tracer
from tests.conftest import Serve
from tests.doubles.upstream import Conn, FullBacklog, answering, response
from tests.unit.observe.exchanges import finished, new_exchange, streaming

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NAMES = {
    value
    for module in (client_attributes, error_attributes, http_attributes, server_attributes, url_attributes,
                   user_agent_attributes, incubating)
    for value in vars(module).values()
    if isinstance(value, str)
}  # fmt: skip
HERE = resource("test")


def begun(*headers: tuple[bytes, bytes], ratio: float = 1.0, bits: Iterable[int] = ()) -> Exchange:
    exchange = new_exchange()
    numbers = iter(chain(bits, repeat(0xABC)))
    Tracer(ratio, bits=lambda size: next(numbers)).begin(exchange, list(headers), "https")
    return exchange


def traced(exchange: Exchange, *headers: tuple[bytes, bytes], target: bytes = b"/up?key=secret") -> Exchange:
    """Give an exchange a trace, and let its request have been made for the upstream at 100.25 s."""
    Tracer(1.0).begin(exchange, [(b"host", b"api.example:8443"), *headers], "https")
    assert exchange.trace is not None
    exchange.trace.opened_at, exchange.trace.target = 100.25, target
    return exchange


def pair(exchange: Exchange, now: float = 110.0) -> tuple[ReadableSpan, ReadableSpan]:
    server, client = spans_of(exchange, now, HERE)
    return server, client


def said(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


# Who is recorded.


def test_the_caller_decides_about_its_own_trace() -> None:
    recorded = begun((b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()), ratio=0.0).trace
    assert recorded is not None
    assert (recorded.trace_id, recorded.parent_id, recorded.sampled) == (TRACE, SPAN, True)
    other = begun((b"traceparent", f"00-{TRACE}-{SPAN}-00".encode()), ratio=1.0)
    assert (other.trace, other.trace_id) == (None, TRACE)


@pytest.mark.parametrize(("low_half", "sampled"), [(1 << 62, True), ((1 << 63) - 1, True), (1 << 63, False)])
def test_the_ratio_decides_about_a_trace_that_begins_here(low_half: int, sampled: bool) -> None:
    exchange = begun(ratio=0.5, bits=[(7 << 64) + low_half])
    assert exchange.trace is not None
    assert (exchange.trace.sampled, exchange.trace.parent_id) == (sampled, "")
    assert exchange.trace_id == f"{7:016x}{low_half:016x}"


def test_the_ratio_is_that_of_the_samplers_of_opentelemetry() -> None:
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    sampler = TraceIdRatioBased(0.3)
    for number in (1, int(0.3 * 2**64) - 2048, int(0.3 * 2**64) + 2048, 2**64 - 1, 2**127):
        trace = begun(ratio=0.3, bits=[number]).trace
        assert trace is not None
        assert trace.sampled is (sampler.should_sample(None, number, "x").decision is Decision.RECORD_AND_SAMPLE)


def test_no_id_is_all_zeros() -> None:
    trace = begun(bits=[0, 5, 0, 6, 0, 0, 7]).trace
    assert trace is not None
    assert [trace.trace_id, trace.server_id, trace.client_id] == [f"{5:032x}", f"{6:016x}", f"{7:016x}"]


@pytest.mark.parametrize("value", [b"garbage", f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01".encode()])
def test_an_invalid_traceparent_begins_another_trace(value: bytes) -> None:
    exchange = begun((b"traceparent", value), (b"tracestate", b"k=v"))
    assert exchange.trace is not None
    assert (exchange.trace.parent_id, exchange.trace.state) == ("", b"")
    assert exchange.trace_id == f"{0xABC:032x}"


# What the spans say.


def test_a_stream_makes_a_server_span_and_a_client_span_below_it() -> None:
    state = (b"tracestate", b"vendor=1")
    exchange = traced(streaming(new_exchange()), (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()), state)
    server, client = pair(exchange)
    assert exchange.trace is not None
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert (server.name, client.name) == ("POST chat", "POST")
    assert server.parent is not None
    assert (f"{server.parent.span_id:016x}", server.parent.is_remote) == (SPAN, True)
    assert client.parent is not None
    assert (client.parent.span_id, client.parent.is_remote) == (server.context.span_id, False)
    assert {f"{span.context.trace_id:032x}" for span in (server, client)} == {TRACE}
    assert f"{client.context.span_id:016x}" == exchange.trace.client_id
    assert client.context.trace_state.to_header() == "vendor=1"


def test_the_times_are_those_of_the_exchange() -> None:
    server, client = pair(traced(streaming(new_exchange())), now=110.0)
    begin = 1_700_000_000_250_000_000
    assert (server.start_time, server.end_time) == (begin, begin + 10_000_000_000)
    assert (client.start_time, client.end_time) == (begin + 250_000_000, begin + 10_000_000_000)
    assert [(event.name, (event.timestamp - begin) / 1e9) for event in (*server.events, *client.events)] == [
        ("streamproxy.first_byte", 3.5),
        ("streamproxy.end", 10.0),
        ("streamproxy.request_sent", 2.0),
        ("streamproxy.response_head", 3.0),
    ]


def test_the_attributes_are_those_of_the_semantic_conventions() -> None:
    exchange = traced(streaming(new_exchange()), (b"user-agent", b"curl/8"))
    exchange.query = b"token=secret&flag"
    server, client = pair(exchange)
    assert {name: value for name, value in said(server).items() if not name.startswith("streamproxy.")} == {
        "http.request.method": "POST",
        "http.request.body.size": 10,
        "http.response.body.size": 3000,
        "http.response.status_code": 200,
        "http.route": "chat",
        "url.scheme": "https",
        "url.path": "/v1/x",
        "url.query": "token=***&***",
        "client.address": "192.0.2.7",
        "server.address": "api.example",
        "server.port": 8443,
        "user_agent.original": "curl/8",
    }
    assert {name: value for name, value in said(client).items() if not name.startswith("streamproxy.")} == {
        "http.request.method": "POST",
        "http.request.body.size": 10,
        "http.request.resend_count": 2,
        "http.response.body.size": 3000,
        "http.response.status_code": 200,
        "url.full": "http://127.0.0.1:8000/up?key=***",
        "server.address": "127.0.0.1",
        "server.port": 8000,
    }
    names = {*said(server), *said(client)}
    assert {name for name in names if not name.startswith("streamproxy.")} <= NAMES


def test_a_request_that_went_nowhere_has_no_client_span() -> None:
    exchange = new_exchange(route="-", upstream="-")
    exchange.error, exchange.status = errors.NoRoute(), 404
    Tracer(1.0).begin(exchange, [], "http")
    (server,) = spans_of(exchange, 101.0, HERE)
    assert (server.name, "http.route" in said(server)) == ("POST", False)
    assert (server.status.status_code, said(server)["error.type"]) == (StatusCode.UNSET, "destination_not_found")


def test_an_odd_method_does_not_name_a_span() -> None:
    server, client = pair(traced(new_exchange(method="BREW")))
    assert (server.name, client.name) == ("HTTP chat", "HTTP")
    assert said(server)["http.request.method"] == "_OTHER"
    assert said(server)["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(
    ("error", "status", "phase", "failed", "kinds"),
    [
        (None, 200, "body", (False, False), (None, None)),
        (None, 404, "body", (False, True), (None, "404")),
        (None, 503, "body", (True, True), ("503", "503")),
        (errors.ResponseIncomplete(), 200, "body", (True, True), ("http_response_incomplete",) * 2),
        (errors.ConnectionRefused(), 502, "connect", (True, True), ("connection_refused",) * 2),
        (errors.HeadTimeout(), 504, "head", (True, True), ("http_response_timeout",) * 2),
        (errors.ClientDisconnected(), 200, "body", (False, False), ("connection_terminated", None)),
        (errors.ClientDisconnected(), 499, "head", (False, False), ("connection_terminated", None)),
        (errors.WriteTimeout(), 200, "body", (False, False), ("connection_write_timeout", None)),
        (errors.BodyTooLarge(), 413, "request", (False, False), ("http_request_error", None)),
        (errors.StoppedByShutdown(), 200, "body", (True, False), ("connection_terminated", None)),
        (errors.InternalError(), 500, "head", (True, True), ("proxy_internal_error",) * 2),
    ],
)
def test_a_span_has_failed_only_when_its_own_side_has(
    error: errors.ExchangeError | None,
    status: int,
    phase: Phase,
    failed: tuple[bool, bool],
    kinds: tuple[str | None, str | None],
) -> None:
    exchange = traced(new_exchange())
    exchange.error, exchange.status, exchange.phase = error, status, phase
    spans = pair(exchange)
    assert tuple(span.status.status_code is StatusCode.ERROR for span in spans) == failed
    assert tuple(said(span).get("error.type") for span in spans) == kinds
    end = spans[0].events[-1].attributes
    assert end is not None
    assert (end["streamproxy.end"], end["streamproxy.phase"]) == (exchange.end, phase)


def test_a_status_that_was_not_sent_is_not_said() -> None:
    exchange = traced(new_exchange())
    exchange.error, exchange.status, exchange.phase = errors.ClientDisconnected(), 499, "head"
    assert all("http.response.status_code" not in said(span) for span in pair(exchange))


@pytest.mark.parametrize("host", [b"[::1", b"a:99999", b"\xff:x", b""])
def test_a_malformed_host_costs_no_span(host: bytes) -> None:
    exchange = new_exchange()
    Tracer(1.0).begin(exchange, [(b"host", host)], "http")
    (server,) = spans_of(exchange, 101.0, HERE)
    assert "server.port" not in said(server)


@settings(max_examples=50)
@given(exchange=finished())
def test_the_spans_of_any_exchange_can_be_encoded(exchange: Exchange) -> None:
    spans = spans_of(traced(exchange, target=b"/\xff?\xfe"), 1e6, HERE)
    assert len(encode_spans(spans).resource_spans[0].scope_spans[0].spans) == 2


def test_an_exchange_that_is_not_recorded_has_no_spans() -> None:
    export = SpanExport(Tracing())
    sink = mock.Mock(spec=SpanSink)
    export._sink = sink
    export.observe(new_exchange())
    export.observe(begun(ratio=0.0))
    sink.take.assert_not_called()
    recorded = begun()
    export.observe(recorded)
    assert sink.take.call_args.args[0] is recorded


def test_the_sink_gives_everything_to_its_exporter_before_it_closes() -> None:
    exporter = InMemorySpanExporter()
    sink = SpanSink("chat-proxy", exporter)
    for _ in range(3):
        sink.take(traced(streaming(new_exchange())), 110.0)
    sink.close()
    spans = exporter.get_finished_spans()
    assert len(spans) == 6
    assert {span.resource.attributes["service.name"] for span in spans} == {"chat-proxy"}


def test_the_resource_says_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod")
    attributes = resource("mine").attributes
    assert attributes is not None
    assert attributes["service.name"] == "mine"
    assert "deployment.environment" not in attributes


# How they come to a collector.


async def export(exporter: OtlpExporter) -> bool:
    spans = spans_of(traced(streaming(new_exchange())), 110.0, HERE)
    return (await asyncio.to_thread(exporter.export, spans)).name == "SUCCESS"


async def test_a_batch_is_posted_as_protobuf_with_the_configured_headers_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of-another-collector")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    collector = await serve(answering(response(b"")))
    assert await export(OtlpExporter(f"{collector.url}/otlp", {"X-Api-Key": "schlüssel"}))
    head = await collector.request()
    assert (head.method, head.target) == (b"POST", b"/otlp/v1/traces")
    assert head.get("content-type") == b"application/x-protobuf"
    assert head.get("x-api-key") == "schlüssel".encode()
    assert head.get("x-key") is None


async def test_a_collector_that_asks_for_patience_is_asked_again(serve: Serve) -> None:
    collector = await serve([answering(response(status="503 Busy")), answering(response(b""))])
    with mock.patch.object(otlp, "_PAUSE", 0.001):
        assert await export(OtlpExporter(collector.url, {}))
    assert len(collector.requests) == 2


async def test_a_batch_that_is_refused_is_dropped_and_the_log_says_so_once(serve: Serve) -> None:
    refused, taken = answering(response(status="401 No")), answering(response(b""))
    collector = await serve([refused, refused, taken])
    exporter = OtlpExporter(collector.url, {})
    log, logger = io.StringIO(), logging.getLogger("test.spans")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(log))
    with mock.patch.object(otlp, "logger", logger):
        assert [await export(exporter) for _ in range(3)] == [False, False, True]
    assert log.getvalue().splitlines() == ["spans are lost: the collector answers 401", "spans are taken again"]


async def test_the_end_does_not_wait_for_a_collector_that_is_gone() -> None:
    async with FullBacklog() as gone:
        exporter = OtlpExporter(gone.url, {})
        exporter.hurry(0.05)
        assert not await export(exporter)
        exporter.shutdown()
        assert not await export(exporter)


async def test_a_collector_that_never_answers_holds_the_end_up_for_a_bounded_time(serve: Serve) -> None:
    async def silent(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()

    collector = await serve(silent)
    export_ = SpanExport(Tracing(endpoint=collector.url))
    await export_.start()
    export_.observe(traced(streaming(new_exchange())))
    with mock.patch("streamproxy.observe.tracing.FLUSH", 0.05):
        await export_.aclose()
    await export_.aclose()  # a second time does nothing
    assert len(collector.requests) == 1


async def test_spans_after_the_end_are_dropped(serve: Serve) -> None:
    collector = await serve(answering(response(b"")))
    export_ = SpanExport(Tracing(endpoint=collector.url))
    export_.observe(traced(streaming(new_exchange())))  # before the start, too
    await export_.start()
    await export_.aclose()
    export_.observe(traced(streaming(new_exchange())))
    assert collector.requests == []


# What it costs when it is off, or not installed.


def test_without_its_packages_the_error_says_what_to_install() -> None:
    with (
        mock.patch("streamproxy.observe.tracing.importlib.util.find_spec", return_value=None),
        pytest.raises(StreamproxyError, match=r"streamproxy\[otel\]"),
    ):
        SpanExport(Tracing())


@pytest.mark.parametrize(("tracing", "found"), [("off", "False"), ("{}", "True")])
def test_nothing_of_opentelemetry_is_imported_when_tracing_is_off(tracing: str, found: str) -> None:
    program = f"""
import asyncio, sys
from streamproxy import create_app
from streamproxy.config import parse_config
app = create_app(parse_config("tracing: {tracing}\\nroutes: [{{path: /*, upstream: 'http://127.0.0.1:9'}}]", name="x"))
async def main():
    await app.deployment.start()
    await app.aclose()
asyncio.run(main())
print(any(name.startswith("opentelemetry.sdk") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == found
