"""Exports spans to a collector: OTLP over HTTP with binary protobuf.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The exporter runs in the thread of the SDK's batch processor, with
one request per batch. If the collector is unreachable or asks to retry (429, 502, 503, 504), the request is retried
after a pause, for at most `PATIENCE` seconds per batch; then the batch is dropped. The log reports once that spans are
lost, and once that they are accepted again.

OpenTelemetry's own exporters read ``OTEL_EXPORTER_*``, proxies and .netrc from the environment, even with explicit
settings, so a key for another collector could be sent to this one. This exporter reads nothing from the environment.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from streamproxy.version import __version__

logger = logging.getLogger("streamproxy.tracing")

PATIENCE = 10.0  # seconds for all attempts at one batch
_PAUSE = 0.5  # seconds before the second attempt; doubles each time
_AGAIN = frozenset({429, 502, 503, 504})


class OtlpExporter(SpanExporter):
    """Posts spans to ``endpoint``, a URL to which ``/v1/traces`` is appended, with ``headers`` on each request."""

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path + "/v1/traces"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers: dict[str, str | bytes] = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"streamproxy/{__version__}",
            **{name: value.encode() for name, value in headers.items()},
        }
        self._last = float("inf")  # the end of all attempts, set by `hurry`
        self._hurry = threading.Event()
        self._losing = False

    def hurry(self, seconds: float) -> None:
        """From now on, tries each batch once, and stops after ``seconds``."""
        self._last = monotonic() + seconds
        self._hurry.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends a batch. Never raises; logs when spans begin to be lost."""
        problem = self._send(encode_spans(spans).SerializeToString())
        if problem is None:
            if self._losing:
                logger.info("spans are taken again")
            self._losing = False
            return SpanExportResult.SUCCESS
        if not self._losing:
            logger.warning("spans are lost: %s", problem)
        self._losing = True
        return SpanExportResult.FAILURE

    def _send(self, body: bytes) -> str | None:
        """Sends with retries; returns the last error, or None."""
        end, pause = monotonic() + PATIENCE, _PAUSE
        while True:
            left = min(end, self._last) - monotonic()
            if left <= 0:
                return "the proxy ends, and the collector was too slow"
            problem, again = self._post(body, left)
            if problem is None or not again or monotonic() + pause > end or self._hurry.wait(pause):
                return problem
            pause *= 2

    def _post(self, body: bytes, timeout: float) -> tuple[str | None, bool]:
        """Sends one request; returns the error, and whether a retry may succeed."""
        connection = self._connection(timeout)
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException) as error:
            return f"the collector cannot be reached: {error or type(error).__name__}", True
        finally:
            connection.close()
        if 200 <= response.status < 300:
            return None, False
        return f"the collector answers {response.status}", response.status in _AGAIN

    def _connection(self, timeout: float) -> HTTPConnection:
        if self._tls is not None:
            return HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        return HTTPConnection(self._host, self._port, timeout=timeout)

    def shutdown(self) -> None:
        """Called by the SDK after the last batch."""
        self.hurry(0.0)
