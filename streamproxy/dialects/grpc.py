"""Our own errors as a gRPC client reads them: 200, and the status in the fields that end the response at once.

The form is "Trailers-Only" of the specification "gRPC over HTTP2"; the codes are those that its clients know.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote_from_bytes

from streamproxy.errors import ConnectionRefused, ExchangeError
from streamproxy.wire.headers import VIA, Headers, first

_UNAVAILABLE: Final = 14
_INTERNAL: Final = 13
_CODES: Final = {401: 16, 404: 12, 429: 8, 503: _UNAVAILABLE, 504: 4}
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if code != ord("%"))


def is_grpc(headers: Headers) -> bool:
    """Whether a request with these fields is a gRPC call."""
    media = (first(headers, b"content-type") or b"").lower()
    return media == b"application/grpc" or media.startswith((b"application/grpc+", b"application/grpc;"))


def grpc_error(error: ExchangeError, request_id: str) -> Headers:
    """The fields of the response, of status 200 and without a body, that tells a gRPC client of ``error``."""
    refused = isinstance(error, ConnectionRefused)
    code = _UNAVAILABLE if refused else _CODES.get(error.status, _INTERNAL)
    return [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", quote_from_bytes(error.detail.encode(), safe=_PLAIN).encode()),
        (b"proxy-status", b"streamproxy; error=" + error.error.encode()),
        VIA,
        (b"x-request-id", request_id.encode()),
    ]
