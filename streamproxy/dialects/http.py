"""``protocol: http``: problem+json for errors, and of bodies no more than where their events begin and end.

The name of an error is the same everywhere (RFC 9209): in ``Proxy-Status``, in the log and in the metrics. The body
is ``application/problem+json`` (RFC 9457). No internal address, secret or stack trace is in it.
"""

from __future__ import annotations

import json
import math
from typing import Final

from streamproxy.dialects.base import Dialect
from streamproxy.errors import ExchangeError
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import SseTracker, count_whole
from streamproxy.wire.headers import VIA, Headers
from streamproxy.wire.media import EVENT_STREAM, NDJSON


class HttpDialect(Dialect):
    """Plain HTTP."""

    def error(self, error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
        return error_response(error, request_id)

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        problem = _problem(error, request_id) | {"code": error.error}
        return b"event: error\ndata: " + json.dumps(problem).encode() + b"\n\n"

    def count_events(self, media: bytes, body: bytes) -> int:
        return count_whole(body) if media == EVENT_STREAM else 0

    def inspector(self, status: int, media: bytes, has_length: bool = False) -> Inspector | None:
        if media == EVENT_STREAM:
            return SseTracker()
        return LineCounter() if media in NDJSON else None


HTTP: Final = HttpDialect()


def _problem(error: ExchangeError, request_id: str) -> dict[str, object]:
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
    }
    return problem | {"code": error.code} if error.code else problem


def error_response(error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
    """The fields and the problem+json body of the response that tells a client of ``error``."""
    body = json.dumps(_problem(error, request_id)).encode()
    return error_fields(error, request_id, b"application/problem+json", len(body)), body


def error_fields(error: ExchangeError, request_id: str, media: bytes, length: int) -> Headers:
    """The fields of an error response, whatever the form of its body: ``length`` bytes of the type ``media``."""
    headers: Headers = [
        (b"content-type", media),
        (b"content-length", b"%d" % length),
        (b"cache-control", b"no-store"),
        (b"proxy-status", b"streamproxy; error=" + error.error.encode()),
        VIA,
        (b"x-request-id", request_id.encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if error.challenge:
        headers.append((b"www-authenticate", error.challenge.encode()))
    if error.allow:
        headers.append((b"allow", error.allow.encode()))
    if error.status == 426:
        headers += [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]  # RFC 6455 section 4.4
    headers += error.fields
    if error.close:
        headers.append((b"connection", b"close"))
    return headers
