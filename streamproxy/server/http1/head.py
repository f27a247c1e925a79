"""The head of an HTTP/1.1 response, to bytes."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Final

from streamproxy.wire.headers import TOKEN, Headers, breaks_lines
from streamproxy.wire.media import is_streaming

_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES: Final = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode() for code in range(200, 1000)}
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]+")
_SPECIAL: Final = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding"})

_MOST_NAMES: Final = 1024
_plain_names: Final[dict[bytes, bytes]] = {}  # names that were found good, and how their lines begin


def head_fields(
    status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes = b""
) -> tuple[bytes, int | None, bool]:
    """The status line with an application's fields, and what was learnt from them.

    Returns the bytes, without the empty line; Content-Length; and whether the application wants the connection closed.
    A ``reason`` that is empty, or no reason phrase, is the usual one. The fields of the framing and the connection are
    the server's to add, so the application's are left out, and so is the Content-Length of a 204 (RFC 9110 section
    8.6). Raises ValueError when the status is not that of a final response, and when a field would break the head.
    """
    line = _STATUS_LINES.get(status)
    if line is None:
        raise ValueError(f"{status} is not the status of a final response")
    if reason and _REASON.fullmatch(reason) is not None:
        line = b"HTTP/1.1 %d %b" % (status, reason)
    lines = [line]
    length: int | None = None
    closes = False
    for name, value in headers:
        begin = _plain_names.get(name) or _checked(name)
        if begin is None:
            name = name.lower()
            if name != b"content-length":
                closes = closes or (name == b"connection" and b"close" in value.lower())
                continue
            if length is not None or not value.isdigit():
                raise ValueError("Content-Length is not one number of bytes")
            length = int(value)
            if status == 204:
                continue
            begin = b"content-length: "
        lines.append(begin + value)
    # To join the lines for this costs half of looking for what divides them too many times.
    if breaks_lines(b"".join(lines)):
        raise ValueError("a header's value has a line end or a NUL in it")
    lines.append(b"")
    return b"\r\n".join(lines), length, closes


def _section(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The lines of fields without those of framing and connection. Raises ValueError for one that is not valid."""
    lines = [begin + value for name, value in headers if (begin := _plain_names.get(name) or _checked(name))]
    if breaks_lines(b"".join(lines)):
        raise ValueError("a field's value has a line end or a NUL in it")
    if not lines:
        return b""
    lines.append(b"")
    return b"\r\n".join(lines)


def informational_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a 1xx response, but for 100 and 101, which are not an application's to send.

    Raises ValueError for another status, and for a field that is not valid.
    """
    if not 102 <= status <= 199:
        raise ValueError(f"{status} is not the status of an informational response")
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _PHRASES.get(status, "").encode(), _section(headers))


def upgrade_head(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a 101 with these fields and its Connection. Raises ValueError for a field that is not valid."""
    return b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n%b\r\n" % _section(headers)


def trailer_section(trailers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The lines of trailer fields, empty for none. Raises ValueError for one that is not valid.

    Fields of framing and connection can't be trailers (RFC 9110 section 6.5.1) and are left out.
    """
    return _section(trailers)


def with_defaults(defaults: Headers, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """An application's fields behind the server's defaults for those that it left out (Date, Server)."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return [pair for pair in defaults if pair[0].lower() not in names] + given


def connection_field(fields: bytes, *, keep_alive: bool) -> bytes:
    """The line of Connection behind what `head_fields` gave, for HTTP/1.0 and before the connection's end."""
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
    return head_fields(status, headers)[0] + b"connection: close\r\n\r\n" + body


def _checked(name: bytes) -> bytes | None:
    """How the line of a field begins, None for one that needs a look. Raises ValueError when it isn't a name."""
    lower = name.lower()
    if lower in _SPECIAL:
        return None
    if TOKEN.fullmatch(lower) is None:
        raise ValueError(f"{name!r} is not a header's name")
    begin = lower + b": "
    if len(_plain_names) < _MOST_NAMES:
        _plain_names[name] = begin
    return begin
