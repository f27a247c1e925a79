"""The two spans of an exchange, made at its end from what it has written down.

Names are those of OpenTelemetry's semantic conventions for HTTP (the stable ones:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/); what they have no word for is ``streamproxy.*``.
``http.route`` is the name of the route, as in metrics and logs, and ``error.type`` the error's name of RFC 9209.
Values of queries are hidden, as in the access log.

A span has failed where the conventions say so: the SERVER span with a status of 5xx or a response that was cut short,
the CLIENT span with a status of 4xx or 5xx or an error of the upstream. A client that leaves is no failure.

Spans are made as `ReadableSpan` and not by a tracer of the SDK: all there is to say is known at once, a tracer would
take a lock for each attribute of a span that nothing else sees, and it lets ``OTEL_SDK_DISABLED`` and limits from the
environment overrule the configuration.
"""

from __future__ import annotations

import uuid
from functools import lru_cache
from urllib.parse import urlsplit

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from streamproxy.errors import ClientDisconnected, ClientError, ExchangeError, InternalError, UpstreamError
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.access_log import hide_values
from streamproxy.observe.series import METHODS, NO_ROUTE
from streamproxy.version import __version__
from streamproxy.wire.trace import Trace, parse_tracestate

_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
_SCOPE = InstrumentationScope("streamproxy", __version__, _SCHEMA)
_UNSET = Status(StatusCode.UNSET)
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Of the batch processor; it would take those that are not given from the environment.
_QUEUE, _BATCH, _DELAY_MS, _EXPORT_MS = 4096, 512, 2000.0, 30000.0

Value = str | int | float
Attributes = dict[str, Value]


class SpanSink:
    """Takes exchanges that have ended, and hands their spans to ``exporter`` in the thread of a batch processor."""

    def __init__(self, service_name: str, exporter: SpanExporter) -> None:
        self._resource = resource(service_name)
        self._processor: SpanProcessor = BatchSpanProcessor(
            exporter, _QUEUE, _DELAY_MS, _BATCH, _EXPORT_MS, meter_provider=NoOpMeterProvider()
        )

    def take(self, exchange: Exchange, now: float) -> None:
        """Record an exchange that has ended at ``now``, in seconds of the monotonic clock. Never waits."""
        for span in spans_of(exchange, now, self._resource):
            self._processor.on_end(span)

    def close(self) -> None:
        """Send what is left, and take no more. Blocks as long as the exporter does."""
        self._processor.shutdown()


def resource(service_name: str) -> Resource:
    """What all spans of this process are of; not `Resource.create`, which reads the environment."""
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
    """The spans of an exchange that has ended: the SERVER span, and the CLIENT span if the upstream was asked.

    ``now`` is its end in seconds of the monotonic clock. None at all for an exchange without a trace.
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
    """A time of the monotonic clock as nanoseconds since the epoch; a float of those would be 256 ns coarse."""
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
        if number:  # an attribute is dear to encode, and most exchanges have few of these
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


@lru_cache(maxsize=1024)
def _address(scheme: str, authority: str) -> Attributes:
    """Host and port of an authority; nothing for one that is malformed."""
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(scheme)
    except ValueError:
        return {}
    attributes: Attributes = {"server.address": host} if host else {}
    if host and port:
        attributes["server.port"] = port
    return attributes


def _status_sent(exchange: Exchange) -> int:
    """The status that went to the client, 0 if none did: 499 stands for that in logs and metrics only."""
    if isinstance(exchange.error, ClientDisconnected) and exchange.phase != "body":
        return 0
    return exchange.status


def _server_status(exchange: Exchange) -> Status:
    error = exchange.error
    if error is None:
        return Status(StatusCode.ERROR) if exchange.status >= 500 else _UNSET
    if isinstance(error, ClientError) or 400 <= exchange.status < 500:
        return _UNSET
    return Status(StatusCode.ERROR, error.detail)


def _upstream_error(exchange: Exchange) -> ExchangeError | None:
    """The error, if it is one of the request to the upstream; a client that broke it off has not seen it fail."""
    return exchange.error if isinstance(exchange.error, UpstreamError | InternalError) else None


def _client_status(exchange: Exchange) -> Status:
    if (error := _upstream_error(exchange)) is not None:
        return Status(StatusCode.ERROR, error.detail)
    return Status(StatusCode.ERROR) if exchange.phase == "body" and exchange.status >= 400 else _UNSET
