"""HTTP/1.1 heads to bytes, of requests and of responses. Pure.

Both go through `_join`, which refuses whatever would break a head into other lines than its own. How a body is framed
behind the head is `streamproxy.wire.chunked`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from streamproxy.wire.headers import CR, LF, NUL, TOKEN, Headers
from streamproxy.wire.status import PHRASES

_METHODS: Final = {method: f"{method} ".encode() for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")}
_SPACE: Final = ord(" ")

_STATUS_LINES: Final = {code: b"HTTP/1.1 %d %b" % (code, PHRASES.get(code, b"")) for code in range(100, 1000)}

_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]+")

# Fields of the framing and the connection, which the server writes itself.
_SPECIAL: Final = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding"})
_MOST_NAMES: Final = 1024
_plain_names: Final[dict[bytes, bytes]] = {}  # names that were found good, and how their lines begin


def request_head(method: str, target: bytes, headers: Headers, *, chunked: bool) -> bytes:
    """The head of a request, with its empty line; ``chunked`` adds Transfer-Encoding.

    The fields go out as they are. Raises ValueError for a method, target or field that would break out of its line
    (CR, LF, NUL, a space in the first two).
    """
    lines = [(_METHODS.get(method) or _checked_method(method)) + target + b" HTTP/1.1"]
    lines += map(b": ".join, headers)
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    if _SPACE in target or not target:
        raise ValueError("a target that is empty or holds a space")
    return _join(lines, b"\r\n")


def response_head(
    status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes = b""
) -> tuple[bytes, int | None, bool]:
    """The status line with an application's fields, without the empty line, and what was learnt from the fields.

    Returns the bytes; Content-Length; and whether the application wants the connection closed. Names are written in
    lower case. A ``reason`` that is empty, or no reason phrase, is the usual one. The fields of the framing and the
    connection are left out for the server to add, and so is the Content-Length of a 204 (RFC 9110 section 8.6). Raises
    ValueError when the status is not that of a final response, and for a field that would break the head.
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
        begin = _plain_names.get(name) or _checked_name(name)
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
    """The head of a 1xx response, but for 100 and 101, which are not an application's to send.

    Raises ValueError for another status, and for a field that is not valid.
    """
    if not 102 <= status <= 199:
        raise ValueError(f"{status} is not the status of an informational response")
    return b"%b\r\n%b\r\n" % (_STATUS_LINES[status], field_section(headers))


def upgrade_head(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a 101 with these fields and its Connection. Raises ValueError for a field that is not valid."""
    return b"%b\r\nconnection: upgrade\r\n%b\r\n" % (_STATUS_LINES[101], field_section(headers))


def field_section(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The lines of fields, of a head's rest or of a trailer section, without the empty line; empty for none.

    Fields of framing and connection are left out: they are the server's own in a head, and can't be trailers (RFC 9110
    section 6.5.1). Raises ValueError for a field that is not valid.
    """
    lines = [begin + value for name, value in headers if (begin := _plain_names.get(name) or _checked_name(name))]
    return _join(lines, b"") if lines else b""


def _join(lines: list[bytes], end: bytes) -> bytes:
    """The lines as one string, with ``end`` behind the last line end. Raises ValueError for a line that is not one."""
    # To join the lines for this costs half of looking for what divides them too many times.
    whole = b"".join(lines)  # looked at as `breaks_lines` does, without the call
    if LF in whole or CR in whole or NUL in whole:
        raise ValueError("CR, LF or NUL inside a head")
    lines.append(end)
    return b"\r\n".join(lines)


def _checked_method(method: str) -> bytes:
    if not method or " " in method:
        raise ValueError("a method that is empty or holds a space")
    return method.encode("ascii") + b" "


def _checked_name(name: bytes) -> bytes | None:
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
