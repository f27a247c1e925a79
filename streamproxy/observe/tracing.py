"""Tracing: decides which exchanges are recorded as spans, and exports the spans.

Theory of operation. A traced exchange has two spans: a SERVER span for the client's request and, as its child, a CLIENT
span for the upstream request. Nothing is recorded while the exchange runs, since the exchange itself holds the facts.
Only the ids must exist before the request goes upstream. So `Tracer` creates a `Trace` with the ids at the beginning,
the id of the client span is sent in ``traceparent``, and at the end `SpanExport` creates both spans from the exchange.

A valid ``traceparent`` of the caller decides whether a trace is recorded, otherwise ``sample_ratio``. An exchange whose
caller does not record the trace has no `Trace`, and its fields are passed on unchanged. A new trace that is not
recorded is announced to the upstream as such, so that the upstream does not start another.

`Tracer` needs no package and belongs to the routes of one configuration. `SpanExport` uses the OpenTelemetry SDK, which
is imported only by `SpanExport.start`. The SDK's thread sends the spans in batches, and drops them if there are too
many. After a reload, spans go where the new configuration says.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from streamproxy.config.tracing import Tracing
from streamproxy.errors import StreamproxyError
from streamproxy.exchange.exchange import Exchange
from streamproxy.wire.headers import Headers, first, joined
from streamproxy.wire.trace import SAMPLED, Trace, parse_traceparent

if TYPE_CHECKING:
    from streamproxy.observe.otlp import OtlpExporter
    from streamproxy.observe.spans import SpanSink

FLUSH = 3.0  # seconds to send the last spans
_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.common.trace_encoder")
_HALF = 1 << 64


class Tracer:
    """Decides whether an exchange is recorded, and creates the ids of its spans.

    ``sample_ratio`` applies to traces that begin here; ``bits`` returns the given number of random bits.
    """

    def __init__(self, sample_ratio: float, *, bits: Callable[[int], int] = random.getrandbits) -> None:
        self._bound = round(sample_ratio * _HALF)
        self._bits = bits

    def begin(self, exchange: Exchange, headers: Headers, scheme: str) -> None:
        """Sets the ``trace_id`` of an exchange, and its ``trace`` unless its caller does not record the trace.

        ``headers`` are the client's.
        """
        parent = parse_traceparent(joined(headers, b"traceparent"))
        if parent is None:
            number = self._id(128)
            exchange.trace_id = f"{number:032x}"
            # OpenTelemetry's sampler TraceIdRatioBased decides by the same half of the id.
            flags, parent_id = SAMPLED if number % _HALF < self._bound else 0, ""
        else:
            exchange.trace_id, parent_id, flags = parent
            if not parent.sampled:
                return
        trace = exchange.trace = Trace(
            exchange.trace_id, parent_id, flags, server_id=f"{self._id(64):016x}", client_id=f"{self._id(64):016x}"
        )
        if trace.sampled:
            trace.state = joined(headers, b"tracestate") if parent_id else b""
            trace.scheme = scheme
            trace.host = first(headers, b"host") or b""
            trace.user_agent = first(headers, b"user-agent") or b""

    def _id(self, size: int) -> int:
        while not (number := self._bits(size)):
            pass  # all zeros is not a valid id
        return number


class SpanExport:
    """Creates and exports the spans of ended exchanges; `observe` is an observer of the ledger.

    Raises StreamproxyError if a required package is missing.
    """

    def __init__(self, settings: Tracing) -> None:
        if not _installed():
            raise StreamproxyError("tracing needs other packages: pip install 'streamproxy[otel]'")
        self._settings = settings
        self._exporter: OtlpExporter | None = None
        self._sink: SpanSink | None = None

    async def start(self) -> None:
        """Starts the export. The SDK is imported in a thread, because this is slow and streams must continue."""
        self._exporter, self._sink = await asyncio.to_thread(self._build)

    def _build(self) -> tuple[OtlpExporter, SpanSink]:
        from streamproxy.observe.otlp import OtlpExporter
        from streamproxy.observe.spans import SpanSink

        settings = self._settings
        exporter = OtlpExporter(settings.endpoint, settings.headers)
        return exporter, SpanSink(settings.service_name, exporter)

    def observe(self, exchange: Exchange) -> None:
        """Called by the ledger when an exchange has ended."""
        if exchange.trace is not None and exchange.trace.sampled and self._sink is not None:
            self._sink.take(exchange, exchange.ended_at or monotonic())

    async def aclose(self) -> None:
        """Sends the remaining spans for at most `FLUSH` seconds, then drops them."""
        sink, exporter = self._sink, self._exporter
        self._sink = self._exporter = None
        if sink is None or exporter is None:
            return
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            exporter.hurry(FLUSH)
            sink.close()
            with suppress(RuntimeError):  # the loop did not wait
                loop.call_soon_threadsafe(sent.set)

        # Not an executor thread: the end of the process would wait for a name look-up that hangs.
        threading.Thread(target=close, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), FLUSH + 0.5)


def _installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)
    except ModuleNotFoundError:
        return False
