"""Responses that the server sends in the application's place."""

from __future__ import annotations

from streamproxy.dialects.http import error_response
from streamproxy.errors import ExchangeError
from streamproxy.exchange.clock import http_date
from streamproxy.exchange.exchange import new_request_id
from streamproxy.wire.headers import Headers


def refusal(error: ExchangeError) -> tuple[Headers, bytes]:
    """Returns the headers and the body of the response for ``error``, with a Date and a new request id."""
    headers, body = error_response(error, new_request_id())
    if not any(name == b"date" for name, _ in headers):
        headers.append((b"date", http_date()))
    return headers, body
