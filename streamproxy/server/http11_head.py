"""The head of an HTTP/1.1 response, to bytes."""

from __future__ import annotations

import http
from collections.abc import Iterable

from streamproxy.wire.headers import TOKEN, Headers

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode() for code in range(200, 600)}
_SPECIAL = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding"})
_NUL = 0  # bytes are searched for a number at a tenth of the cost

_MOST_NAMES = 1024
_plain_names: dict[bytes, bytes] = {}  # names that were found good, and how their lines begin


def head_fields(status: int, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None, bool]:
    """The status line with an application's fields, and what was learnt from them.

    Gives the bytes, without the empty line; Content-Length; and whether the application wants the connection closed.
    The fields of the framing and the connection are the server's to add, so the application's are left out, and so is
    the Content-Length of a 204 (RFC 9110 section 8.6). Raises ValueError when the status is not that of a final
    response, and when a field would break the head.
    """
    line = _STATUS_LINES.get(status)
    if line is None:
        raise ValueError(f"{status} is not the status of a final response")
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
    lines.append(b"")
    data = b"\r\n".join(lines)
    # Any CR or LF in a value makes one line more; to split costs half of counting both.
    if len(data.splitlines()) != len(lines) - 1 or _NUL in data:
        raise ValueError("a header's value has a line end or a NUL in it")
    return data, length, closes


def field(fields: bytes, name: bytes) -> bytes:
    """The value of one field of what `head_fields` gave; empty if it has none."""
    return fields.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


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
