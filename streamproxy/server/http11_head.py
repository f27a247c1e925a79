"""The head of an HTTP/1.1 response, to bytes."""

from __future__ import annotations

import http
from collections.abc import Iterable

from streamproxy.wire.headers import TOKEN, Headers

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}\r\n".encode() for code in range(200, 600)}
_SPECIAL = frozenset({b"connection", b"content-length", b"content-type", b"keep-alive", b"transfer-encoding"})

_MOST_NAMES = 1024
_plain_names: dict[bytes, bytes] = {}  # names that were found good, and how their lines begin


def head_fields(status: int, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None, bytes, bool]:
    """The status line with an application's fields, and what was learnt from them.

    Gives the bytes, without the empty line; Content-Length; Content-Type; and whether the application wants the
    connection closed. The fields of the framing and the connection are the server's to add, so the application's are
    left out, and so is the Content-Length of a 204 (RFC 9110 section 8.6). Raises ValueError when the status is not
    that of a final response, and when a field would break the head.
    """
    if status not in _STATUS_LINES:
        raise ValueError(f"{status} is not the status of a final response")
    out = [_STATUS_LINES[status]]
    length: int | None = None
    content_type = b""
    closes = False
    for name, value in headers:
        begin = _plain_names.get(name) or _checked(name)
        if begin is None:
            name = name.lower()
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                if length is not None or not value.isdigit():
                    raise ValueError("Content-Length is not one number of bytes")
                length = int(value)
                if status == 204:
                    continue
            else:
                closes = closes or (name == b"connection" and b"close" in value.lower())
                continue
            begin = name + b": "
        out += (begin, value, b"\r\n")
    data = b"".join(out)
    lines = 1 + len(out) // 3
    if data.count(b"\r") != lines or data.count(b"\n") != lines or b"\0" in data:
        raise ValueError("a header's value has a line end or a NUL in it")
    return data, length, content_type, closes


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
