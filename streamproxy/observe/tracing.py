"""Tracing: which exchanges are recorded as spans, and where the spans go.

Theory of operation. Every exchange that is traced makes two spans: a SERVER span for what the client asked, and below
it a CLIENT span for what the upstream was asked. Nothing is recorded while the exchange runs, since it keeps its own
facts; only the ids have to be there before the request goes upstream. So a `Trace` with the ids is made by `Tracer` at
the beginning, its client span's id travels in ``traceparent``, and at the end `SpanExport` makes both spans at once
from the exchange, with the times that it has.

Who decides: the caller, if it sent a valid ``traceparent``; else ``sample_ratio``. An exchange whose caller does not
record its trace has no `Trace`, and its fields are passed on as they came. A trace that begins here and is not
recorded is announced to the upstream as such, so that it does not begin another.

`Tracer` needs no package and belongs to the routes of one configuration. `SpanExport` has the SDK of OpenTelemetry,
which is imported by `SpanExport.start` and nowhere else; its thread sends the spans in batches, and drops them when it
has too many. After a reload an exchange's spans go where the new configuration says.
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

FLUSH = 3.0  # seconds for the last spans to be sent
_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.common.trace_encoder")
_HALF = 1 << 64


class Tracer:
    """Decides whether an exchange is recorded, and makes the ids of its spans.

    ``sample_ratio`` is that of the traces that begin here; ``bits`` returns that many random bits.
    """

    def __init__(self, sample_ratio: float, *, bits: Callable[[int], int] = random.getrandbits) -> None:
        self._bound = round(sample_ratio * _HALF)
        self._bits = bits

    def begin(self, exchange: Exchange, headers: Headers, scheme: str) -> None:
        """Give an exchange its ``trace_id``, and its ``trace`` unless its caller does not record the trace.

        ``headers`` are the client's.
        """
        parent = parse_traceparent(joined(headers, b"traceparent"))
        if parent is None:
            number = self._id(128)
            exchange.trace_id = f"{number:032x}"
            # The same half of the id decides in the samplers of OpenTelemetry (TraceIdRatioBased).
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
            pass  # all zeros is not an id
        return number


class SpanExport:
    """Makes the spans of exchanges that have ended, and sends them; `observe` is an observer of the ledger.

    Raises StreamproxyError when the packages for it are missing.
    """

    def __init__(self, settings: Tracing) -> None:
        if not _installed():
            raise StreamproxyError("tracing needs other packages: pip install 'streamproxy[otel]'")
        self._settings = settings
        self._exporter: OtlpExporter | None = None
        self._sink: SpanSink | None = None

    async def start(self) -> None:
        """Begin to send. The SDK is imported in a thread: it takes a good part of a second, and streams go on."""
        self._exporter, self._sink = await asyncio.to_thread(self._build)

    def _build(self) -> tuple[OtlpExporter, SpanSink]:
        from streamproxy.observe.otlp import OtlpExporter
        from streamproxy.observe.spans import SpanSink

        settings = self._settings
        exporter = OtlpExporter(settings.endpoint, settings.headers)
        return exporter, SpanSink(settings.service_name, exporter)

    def observe(self, exchange: Exchange) -> None:
        """From the ledger: an exchange has ended."""
        if exchange.trace is not None and exchange.trace.sampled and self._sink is not None:
            self._sink.take(exchange, exchange.ended_at or monotonic())

    async def aclose(self) -> None:
        """Send what is left, for at most `FLUSH` seconds, then give up on it."""
        sink, exporter = self._sink, self._exporter
        self._sink = self._exporter = None
        if sink is None or exporter is None:
            return
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            exporter.hurry(FLUSH)
            sink.close()
            with suppress(RuntimeError):  # the loop has not waited
                loop.call_soon_threadsafe(sent.set)

        # Not a thread of the loop's own: the end of the process would wait for a look-up of a name that hangs.
        threading.Thread(target=close, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), FLUSH + 0.5)


def _installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)
    except ModuleNotFoundError:
        return False
