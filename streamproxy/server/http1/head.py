"""The parts of a response head that the server adds; `streamproxy.wire.encode` encodes the heads."""

from __future__ import annotations

from collections.abc import Iterable

from streamproxy.wire.encode import response_head
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import is_streaming


def with_defaults(defaults: Headers, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns an application's fields, preceded by the server's defaults for missing ones (Date, Server)."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return [pair for pair in defaults if pair[0].lower() not in names] + given


def connection_field(fields: bytes, *, keep_alive: bool) -> bytes:
    """Returns the Connection line after the result of `response_head`, for HTTP/1.0 and for a last response."""
    if keep_alive:
        return b"connection: keep-alive\r\n"
    if is_streaming(fields.partition(b"\r\ncontent-type: ")[2].partition(b"\r\n")[0]):
        return b""  # with "close", Node's fetch takes a cut stream for a complete one
    return b"connection: close\r\n"


def expects_continue(headers: Headers) -> bool:
    """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


def whole_response(status: int, headers: Headers, body: bytes) -> bytes:
    """Returns a response with ``headers`` (including Content-Length) and ``body`` that closes the connection."""
    return response_head(status, headers)[0] + b"connection: close\r\n\r\n" + body
