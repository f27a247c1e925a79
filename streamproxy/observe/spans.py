"""Creates the two spans of an exchange at its end.

Names follow the stable OpenTelemetry semantic conventions for HTTP
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/); attributes without a convention are ``streamproxy.*``.
``http.route`` is the name of the route, as in metrics and logs, and ``error.type`` is the RFC 9209 name of the error.
Values of queries are hidden, as in the access log.

A span has failed as defined by the conventions: the SERVER span with a status of 5xx or a truncated response, the
CLIENT span with a status of 4xx or 5xx or an error of the upstream. A client that leaves is not a failure.

Spans are created as `ReadableSpan` and not by a tracer of the SDK. All facts are known at once, while a tracer would
take a lock for each attribute, and would let ``OTEL_SDK_DISABLED`` and limits from the environment override the
configuration.
"""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from streamproxy.errors import (
    ClientDisconnected,
    ClientError,
    ExchangeError,
    InternalError,
    UpstreamError,
    UpstreamReportedError,
)
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.json_line import hide_values
from streamproxy.observe.series import METHODS, NO_ROUTE
from streamproxy.version import __version__
from streamproxy.wire.hosts import DEFAULT_PORTS
from streamproxy.wire.trace import Trace, parse_tracestate

_LONGEST_KEPT: Final = 256  # characters of an authority whose parts are remembered; clients choose theirs

_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
_SCOPE = InstrumentationScope("streamproxy", __version__, _SCHEMA)
_UNSET = Status(StatusCode.UNSET)

# Settings of the batch processor, which would read missing ones from the environment.
_QUEUE, _BATCH, _DELAY_MS, _EXPORT_MS = 4096, 512, 2000.0, 30000.0

Value = str | int | float
Attributes = dict[str, Value]


class SpanSink:
    """Accepts ended exchanges, and passes their spans to ``exporter`` in the thread of a batch processor."""

    def __init__(self, service_name: str, exporter: SpanExporter) -> None:
        self._resource = resource(service_name)
        self._processor: SpanProcessor = BatchSpanProcessor(
            exporter, _QUEUE, _DELAY_MS, _BATCH, _EXPORT_MS, meter_provider=NoOpMeterProvider()
        )

    def take(self, exchange: Exchange, now: float) -> None:
        """Records an exchange that ended at ``now``, in seconds of the monotonic clock. Never blocks."""
        for span in spans_of(exchange, now, self._resource):
            self._processor.on_end(span)

    def close(self) -> None:
        """Sends the remaining spans and accepts no more. Blocks as long as the exporter does."""
        self._processor.shutdown()


def resource(service_name: str) -> Resource:
    """Returns the resource of this process. `Resource.create` is not used, because it reads the environment."""
    return Resource(
        {
            "service.name": service_name,
            "service.version": __version__,
            "service.instance.id": str(uuid.uuid4()),
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": sdk_version,
        },
        _SCHEMA,
    )


def spans_of(exchange: Exchange, now: float, of: Resource) -> list[ReadableSpan]:
    """Returns the spans of an ended exchange: the SERVER span, and the CLIENT span if a request was sent upstream.

    ``now`` is its end in seconds of the monotonic clock. An exchange without a trace has no spans.
    """
    trace = exchange.trace
    if trace is None:
        return []
    spans = [_server_span(exchange, trace, now, of)]
    if trace.opened_at:
        spans.append(_client_span(exchange, trace, now, of))
    return spans


def _server_span(exchange: Exchange, trace: Trace, now: float, of: Resource) -> ReadableSpan:
    events = [Event("streamproxy.end", _end_of(exchange), _wall(exchange, now))]
    if exchange.first_byte_at:
        events.insert(0, Event("streamproxy.first_byte", {}, _wall(exchange, exchange.first_byte_at)))
    route = "" if exchange.route == NO_ROUTE else exchange.route
    return ReadableSpan(
        f"{_method(exchange)} {route}" if route else _method(exchange),
        context=_context(trace, trace.server_id, remote=False),
        parent=_context(trace, trace.parent_id, remote=True) if trace.parent_id else None,
        resource=of,
        attributes=_server_attributes(exchange, trace, route),
        events=events,
        kind=SpanKind.SERVER,
        status=_server_status(exchange),
        start_time=_wall(exchange, exchange.started_at),
        end_time=_wall(exchange, now),
        instrumentation_scope=_SCOPE,
    )


def _client_span(exchange: Exchange, trace: Trace, now: float, of: Resource) -> ReadableSpan:
    times = (("request_sent", exchange.sent_at), ("response_head", exchange.head_at))
    return ReadableSpan(
        _method(exchange),
        context=_context(trace, trace.client_id, remote=False),
        parent=_context(trace, trace.server_id, remote=False),
        resource=of,
        attributes=_client_attributes(exchange, trace),
        events=[Event(f"streamproxy.{name}", {}, _wall(exchange, at)) for name, at in times if at],
        kind=SpanKind.CLIENT,
        status=_client_status(exchange),
        start_time=_wall(exchange, trace.opened_at),
        end_time=_wall(exchange, now),
        instrumentation_scope=_SCOPE,
    )


def _context(trace: Trace, span_id: str, *, remote: bool) -> SpanContext:
    state = TraceState(parse_tracestate(trace.state)) if trace.state else None
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), remote, TraceFlags(trace.flags), state)


def _wall(exchange: Exchange, at: float) -> int:
    """Converts a time of the monotonic clock to nanoseconds since the epoch, without a float's loss of precision."""
    return int(exchange.started_wall * 1e6) * 1000 + int((at - exchange.started_at) * 1e9)


def _method(exchange: Exchange) -> str:
    return exchange.method if exchange.method in METHODS else "HTTP"


def _server_attributes(exchange: Exchange, trace: Trace, route: str) -> Attributes:
    attributes = _common_attributes(exchange)
    attributes["url.scheme"], attributes["url.path"] = trace.scheme, exchange.path
    attributes["streamproxy.request_id"] = exchange.request_id
    for name, number in (
        ("chunks", exchange.chunks),
        ("events", exchange.events),
        ("keepalives", exchange.keepalives),
        ("queue_seconds", exchange.queued),
        ("backpressure_seconds", exchange.backpressure),
    ):
        if number:  # attributes are expensive to encode, and most are 0
            attributes[f"streamproxy.{name}"] = number
    if route:
        attributes["http.route"] = route
    if exchange.query:
        attributes["url.query"] = hide_values(exchange.query)
    if exchange.client:
        attributes["client.address"] = exchange.client
    if trace.user_agent:
        attributes["user_agent.original"] = trace.user_agent.decode("latin-1")
    if trace.host:
        attributes |= _address(trace.scheme, trace.host.decode("latin-1"))
    if status := _status_sent(exchange):
        attributes["http.response.status_code"] = status
    if exchange.error is not None:
        attributes["error.type"] = exchange.error.error
    elif exchange.status >= 500:
        attributes["error.type"] = str(exchange.status)
    return attributes


def _client_attributes(exchange: Exchange, trace: Trace) -> Attributes:
    scheme, _, authority = exchange.endpoint.partition("://")
    path, question, query = trace.target.partition(b"?")
    attributes = _common_attributes(exchange) | _address(scheme, authority)
    attributes["url.full"] = exchange.endpoint + path.decode("latin-1") + question.decode() + hide_values(query)
    attributes["streamproxy.upstream"] = exchange.upstream
    if exchange.retries:
        attributes["http.request.resend_count"] = exchange.retries
    if exchange.phase == "body":
        attributes["http.response.status_code"] = exchange.status
    if (error := _upstream_error(exchange)) is not None:
        attributes["error.type"] = error.error
    elif exchange.phase == "body" and exchange.status >= 400:
        attributes["error.type"] = str(exchange.status)
    return attributes


def _common_attributes(exchange: Exchange) -> Attributes:
    attributes: Attributes = {
        "http.request.method": exchange.method if exchange.method in METHODS else "_OTHER",
        "http.request.body.size": exchange.request_bytes,
        "http.response.body.size": exchange.response_bytes,
    }
    if exchange.method not in METHODS:
        attributes["http.request.method_original"] = exchange.method
    return attributes


def _end_of(exchange: Exchange) -> Attributes:
    attributes: Attributes = {"streamproxy.end": exchange.end, "streamproxy.phase": exchange.phase}
    if exchange.error is not None:
        attributes["error.type"] = exchange.error.error
    return attributes


def _address(scheme: str, authority: str) -> Attributes:
    """Returns the host and port of an authority; nothing if it is malformed."""
    return _kept_address(scheme, authority) if len(authority) <= _LONGEST_KEPT else _read_address(scheme, authority)


@lru_cache(maxsize=1024)
def _kept_address(scheme: str, authority: str) -> Attributes:
    return _read_address(scheme, authority)


def _read_address(scheme: str, authority: str) -> Attributes:
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port or DEFAULT_PORTS.get(scheme)
    except ValueError:
        return {}
    attributes: Attributes = {"server.address": host} if host else {}
    if host and port:
        attributes["server.port"] = port
    return attributes


def _status_sent(exchange: Exchange) -> int:
    """Returns the status sent to the client, or 0 if none was; only logs and metrics show 499."""
    if isinstance(exchange.error, ClientDisconnected) and exchange.phase != "body":
        return 0
    return exchange.status


def _description(error: ExchangeError) -> str:
    """Returns what went wrong, without the text of an upstream, which may contain anything."""
    return error.title if isinstance(error, UpstreamReportedError) else error.detail


def _server_status(exchange: Exchange) -> Status:
    error = exchange.error
    if error is None:
        return Status(StatusCode.ERROR) if exchange.status >= 500 else _UNSET
    if isinstance(error, ClientError) or 400 <= exchange.status < 500:
        return _UNSET
    return Status(StatusCode.ERROR, _description(error))


def _upstream_error(exchange: Exchange) -> ExchangeError | None:
    """Returns the exchange's error if the upstream caused it. If the client left, the upstream has not failed."""
    return exchange.error if isinstance(exchange.error, UpstreamError | InternalError) else None


def _client_status(exchange: Exchange) -> Status:
    if (error := _upstream_error(exchange)) is not None:
        return Status(StatusCode.ERROR, _description(error))
    return Status(StatusCode.ERROR) if exchange.phase == "body" and exchange.status >= 400 else _UNSET
