"""What the server adds to the heads of its responses; the heads themselves are `streamproxy.wire.encode`'s."""

from __future__ import annotations

from collections.abc import Iterable

from streamproxy.wire.encode import response_head
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import is_streaming


def with_defaults(defaults: Headers, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """An application's fields behind the server's defaults for those that it left out (Date, Server)."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return [pair for pair in defaults if pair[0].lower() not in names] + given


def connection_field(fields: bytes, *, keep_alive: bool) -> bytes:
    """The line of Connection behind what `response_head` gave, for HTTP/1.0 and before the connection's end."""
    if keep_alive:
        return b"connection: keep-alive\r\n"
    if is_streaming(fields.partition(b"\r\ncontent-type: ")[2].partition(b"\r\n")[0]):
        return b""  # Node's fetch takes a cut stream for a finished one when it reads "close"
    return b"connection: close\r\n"


def expects_continue(headers: Headers) -> bool:
    """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


def whole_response(status: int, headers: Headers, body: bytes) -> bytes:
    """A response of ``headers`` (with its Content-Length) and ``body``, after which the connection closes."""
    return response_head(status, headers)[0] + b"connection: close\r\n\r\n" + body
