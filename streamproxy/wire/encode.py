"""Encodes HTTP/1.1 heads of requests and responses. Pure.

Both use `_join`, which refuses anything that would add lines to a head. `streamproxy.wire.chunked` frames the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from streamproxy.wire.headers import (
    CR,
    LF,
    LONGEST_NAME,
    MOST_NAMES,
    NUL,
    SPACE,
    TOKEN,
    Headers,
    lower_name,
)
from streamproxy.wire.remembered import remember
from streamproxy.wire.status import PHRASES

_METHODS: Final = {method: f"{method} ".encode() for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")}

_STATUS_LINES: Final = {code: b"HTTP/1.1 %d %b" % (code, PHRASES.get(code, b"")) for code in range(100, 1000)}

_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]+")

# Fields of the framing and the connection, which only the server writes.
_SPECIAL: Final = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding"})
_plain_names: Final[dict[bytes, bytes]] = {}  # valid names, and the beginning of their lines
_begins: Final[dict[bytes, bytes]] = {}  # the same for requests, whose fields are written unchanged
ANNOUNCING: Final = frozenset({b"content-length", b"transfer-encoding"})  # fields that announce a body


def request_head(method: str, target: bytes, headers: Headers, body: bool, chunked: bool) -> bytes:
    """Returns the head of a request with its empty line; ``body`` follows it, and ``chunked`` adds Transfer-Encoding.

    The fields are written unchanged. Raises ValueError for a method, target or field that would break out of its line
    (CR, LF, NUL, and a space in method or target), and for a field that announces a body where none follows: the
    upstream would wait for it.
    """
    start = _METHODS.get(method)
    if start is None:
        start = _checked_method(method)
    lines = [start + target + b" HTTP/1.1"]
    for name, value in headers:
        begin = _begins.get(name)
        if begin is None:
            begin = _begin(name, value, body)
        lines.append(begin + value)
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    if SPACE in target or not target:
        raise ValueError("a target that is empty or holds a space")
    return _join(lines, b"\r\n")


def response_head(
    status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes = b""
) -> tuple[bytes, int | None, bool]:
    """Returns the status line with an application's fields, without the empty line, and two facts about the fields.

    The result is the bytes, Content-Length, and whether the application wants the connection closed. Names are written
    in lower case. If ``reason`` is empty or not a valid reason phrase, the standard one is used. Fields of the framing
    and the connection are left for the server to add, and the Content-Length of a 204 is dropped (RFC 9110 section
    8.6). Raises ValueError if the status is not that of a final response, or if a field would break the head.
    """
    if not 200 <= status <= 999:
        raise ValueError(f"{status} is not the status of a final response")
    if reason and _REASON.fullmatch(reason) is not None:
        lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    else:
        lines = [_STATUS_LINES[status]]
    length: int | None = None
    closes = False
    for name, value in headers:
        begin = _plain_names.get(name)
        if begin is None:
            begin = _checked_name(name)
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
    return _join(lines, b""), length, closes


def informational_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the head of a 1xx response other than 100 and 101, which applications cannot send.

    Raises ValueError for another status or an invalid field.
    """
    if not 102 <= status <= 199:
        raise ValueError(f"{status} is not the status of an informational response")
    return b"%b\r\n%b\r\n" % (_STATUS_LINES[status], field_section(headers))


def upgrade_head(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the head of a 101 response with these fields and Connection. Raises ValueError for an invalid field."""
    return b"%b\r\nconnection: upgrade\r\n%b\r\n" % (_STATUS_LINES[101], field_section(headers))


def field_section(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns the lines of fields without the empty line, for the rest of a head or a trailer section.

    Fields of framing and connection are left out: in a head only the server writes them, and they are not allowed in
    trailers (RFC 9110 section 6.5.1). Raises ValueError for an invalid field.
    """
    lines = [begin + value for name, value in headers if (begin := _plain_names.get(name) or _checked_name(name))]
    return _join(lines, b"") if lines else b""


def _join(lines: list[bytes], end: bytes) -> bytes:
    """Returns the joined lines with ``end`` after the last line end.

    Raises ValueError if a line contains a line break.
    """
    # One check of the joined lines is cheaper than one check for each line.
    whole = b"".join(lines)  # checked as in `breaks_lines`, inlined
    if LF in whole or CR in whole or NUL in whole:
        raise ValueError("CR, LF or NUL inside a head")
    lines.append(end)
    return b"\r\n".join(lines)


def _checked_method(method: str) -> bytes:
    if not method or " " in method:
        raise ValueError("a method that is empty or holds a space")
    return method.encode("ascii") + b" "


def _begin(name: bytes, value: bytes, body: bool) -> bytes:
    """Returns the beginning of a request field's line. Raises ValueError if it announces a body, and there is none."""
    lower, begin = lower_name(name), name + b": "
    if lower not in ANNOUNCING:
        return remember(_begins, name, begin, LONGEST_NAME, MOST_NAMES)
    if not body:
        refuse_body(lower, value)
    return begin


def refuse_body(name: bytes, value: bytes) -> None:
    """Raises ValueError unless a Content-Length or Transfer-Encoding, in lower case, says that no body follows."""
    if name == b"transfer-encoding":
        raise ValueError("Transfer-Encoding without a body")
    if value.strip(b"0"):
        raise ValueError("Content-Length without a body")


def _checked_name(name: bytes) -> bytes | None:
    """Returns the beginning of a field's line, or None for a name to be left out.

    Raises ValueError for an invalid name.
    """
    lower = name.lower()
    if lower in _SPECIAL:
        return None
    if TOKEN.fullmatch(lower) is None:
        raise ValueError(f"{name!r} is not a header's name")
    return remember(_plain_names, name, lower + b": ", LONGEST_NAME, MOST_NAMES)
