"""What a client is told of an error: a response before the head, an event after it.

The name of the error is the same everywhere (RFC 9209): in ``Proxy-Status``, in the log and in the metrics. The body
is ``application/problem+json`` (RFC 9457). No internal address, secret or stack trace is in it.
"""

from __future__ import annotations

import json
import math

from streamproxy.errors import ExchangeError
from streamproxy.wire.headers import Headers


def _problem(error: ExchangeError, request_id: str) -> dict[str, object]:
    return {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
    }


def error_response(error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
    """The headers and the body of the response that tells a client of ``error``."""
    body = json.dumps(_problem(error, request_id)).encode()
    headers: Headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"proxy-status", b"streamproxy; error=" + error.error.encode()),
        (b"via", b"1.1 streamproxy"),
        (b"x-request-id", request_id.encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if error.challenge:
        headers.append((b"www-authenticate", error.challenge.encode()))
    if error.close:
        headers.append((b"connection", b"close"))
    return headers, body


def error_event(error: ExchangeError, request_id: str) -> bytes:
    """The server-sent event that tells a client of ``error`` after the head."""
    problem = _problem(error, request_id) | {"code": error.error}
    return b"event: error\ndata: " + json.dumps(problem).encode() + b"\n\n"
