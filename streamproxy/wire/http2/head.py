"""The heads of HTTP/2 messages: conversion between pseudo-header fields and the proxy's own representation.

The session has already checked the rules of RFC 9113 section 8 for a single message: which pseudo-headers are present,
once each and first; lower-case names; no connection-specific fields. This module refuses heads that two parsers could
interpret differently, by the same rules as for HTTP/1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

from streamproxy.errors import BadRequest, BadResponse, HeadTooLarge, MethodRefused
from streamproxy.wire.headers import LONGEST_NAME, MOST_NAMES, TOKEN, Headers, breaks_lines
from streamproxy.wire.http1 import AmbiguousHead, is_host, origin_form
from streamproxy.wire.http2.session import unindexed
from streamproxy.wire.remembered import remember

_FIELD_OVERHEAD: Final = 32  # bytes added to a field's size (RFC 9113 section 6.5.2)
_CONNECTION_FIELDS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_SPECIAL: Final = _CONNECTION_FIELDS | {b"content-length"}
# Fields with another value in each message: in HPACK's table they would take the place of those that repeat, and each
# would be compared with all its predecessors there.
_UNIQUE: Final = frozenset({b"traceparent", b"x-request-id"})
_NOTED: Final = frozenset({b"content-length", b"cookie", b"expect", b"host"})  # of a request
_METHODS: Final = {word.encode(): word for word in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")}
_COLON: Final = ord(":")
_STATUSES: Final = {code: (b":status", b"%d" % code) for code in range(100, 1000)}

_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_MOST_TARGETS: Final = 256
_LONGEST_TARGET: Final = 512
# A cache of valid targets, with decoded path, raw path and query, since clients repeat a few.
_targets: Final[dict[bytes, tuple[bytes, str, bytes, bytes]]] = {}

_plain_names: Final[dict[bytes, bytes]] = {}  # valid names, in lower case


class Http2Head:
    """The head of a request, with the attributes of `streamproxy.wire.request.RequestHead` that apply to HTTP/2.

    ``length`` is the value of Content-Length or None; ``expects_continue`` is whether the client waits before it sends
    the body.
    """

    __slots__ = ("expects_continue", "headers", "length", "method", "path", "query", "raw_path", "target")

    def __init__(self, fields: Sequence[tuple[bytes, bytes]], max_size: int, max_fields: int) -> None:
        """Parses the fields of a HEADERS frame. Raises BadRequest, HeadTooLarge or MethodRefused."""
        self.headers: Headers = []
        self.length: int | None = None
        self.expects_continue = False
        method, path = b"", b""
        authority: bytes | None = None
        size = pseudo = 0
        for name, value in fields:  # the session guarantees that pseudo-headers come first
            if name[0] != _COLON:
                break
            pseudo += 1
            size += len(name) + len(value) + _FIELD_OVERHEAD
            if name == b":path":
                path = value
            elif name == b":method":
                method = value
            elif name == b":authority":
                authority = value
        size += self._read_fields(fields[pseudo:], authority)
        if size > max_size:
            raise HeadTooLarge(f"The request head is over {max_size} bytes")
        if len(self.headers) > max_fields:
            raise HeadTooLarge(f"The request has more than {max_fields} fields")
        self.method = _METHODS.get(method) or _checked_method(method)
        self.target, self.path, self.raw_path, self.query = _targets.get(path) or _read_target(method, path)

    def _read_fields(self, fields: Sequence[tuple[bytes, bytes]], authority: bytes | None) -> int:
        """Takes the fields behind the pseudo-headers; returns their size."""
        headers: list[Any] = self.headers
        host = authority
        if authority is not None:
            headers.append((b"host", authority))
        size = 0
        crumbs: list[bytes] = []
        place = 0
        # A variable number of members: mypyc would make a new tuple for each pair otherwise.
        for pair in cast("Sequence[tuple[bytes, ...]]", fields):
            name, value = pair[0], pair[1]
            size += len(name) + len(value) + _FIELD_OVERHEAD
            if name in _NOTED:
                if name == b"cookie":
                    crumbs.append(value)
                    if len(crumbs) > 1:
                        continue
                    place = len(headers)
                elif name == b"host":
                    if authority is not None and value.lower() == authority.lower():
                        continue
                    if host is not None:
                        raise BadRequest("The request is refused: Host and :authority differ, or there are two")
                    host = value
                elif name == b"content-length":
                    self.length = int(value)
                else:
                    self.expects_continue = value.lower() == b"100-continue"
            headers.append(pair)
        if len(crumbs) > 1:
            headers[place] = (b"cookie", b"; ".join(crumbs))  # RFC 9113 section 8.2.3
        if not host or not is_host(host):
            raise BadRequest("The request is refused: Host is missing, or is not a host")
        return size


def fields_size(fields: Iterable[tuple[bytes, bytes]]) -> int:
    """Returns the size of a list of fields in bytes, as RFC 9113 section 6.5.2 counts it."""
    return sum([len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields])


def _checked_method(method: bytes) -> str:
    """Raises BadRequest or MethodRefused."""
    if TOKEN.fullmatch(method) is None:
        raise BadRequest("The method is malformed")
    if method == b"CONNECT":
        raise MethodRefused("CONNECT is not served here")
    return method.decode("ascii")


def _read_target(method: bytes, path: bytes) -> tuple[bytes, str, bytes, bytes]:
    """Parses a ``:path``, and caches it if it is valid for every method. Raises BadRequest."""
    if _TARGET.fullmatch(path) is None:
        raise BadRequest("The request is refused: a control character or a space in the target")
    try:
        target, authority = origin_form(method, path)
    except AmbiguousHead as error:
        raise BadRequest(f"The request is refused: {error}") from None
    if authority is not None:
        raise BadRequest("The request is refused: the target is not a path")
    raw_path, _, query = target.partition(b"?")
    read = (target, unquote_to_bytes(raw_path).decode("utf-8", "replace"), raw_path, query)
    return read if path == b"*" else remember(_targets, path, read, _LONGEST_TARGET, _MOST_TARGETS)


def response_fields(status: int, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Headers, int | None]:
    """Returns the fields of a HEADERS frame for an application's response, and its Content-Length.

    Fields of an HTTP/1.1 connection are dropped, and so is the Content-Length of a 204 (RFC 9110 section 8.6). Raises
    ValueError if the status is not that of a final response, or if a field is invalid.
    """
    if not 200 <= status <= 999:
        raise ValueError(f"{status} is not the status of a final response")
    fields: list[Any] = [_STATUSES[status]]
    length: int | None = None
    values: list[bytes] = []
    for name, value in headers:
        lower = _plain_names.get(name) or _checked(name)
        if lower is None:
            lower = name.lower()
            if lower != b"content-length":
                continue
            if length is not None or not value.isdigit():
                raise ValueError("Content-Length is not one number of bytes")
            length = int(value)
            if status == 204:
                continue
        if lower in _UNIQUE:
            fields.append(unindexed(lower, value))
        else:
            fields.append((lower, value))
        values.append(value)
    _check_values(values)
    return fields, length


def informational_fields(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns the fields of a HEADERS frame for a 1xx response. Raises ValueError for another status or a bad field."""
    if not 100 <= status <= 199 or status == 101:
        raise ValueError(f"{status} is not the status of an informational response")
    return [_STATUSES[status], *trailer_fields(headers)]


def trailer_fields(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Returns the fields of a HEADERS frame for trailers, without fields of framing and connection.

    Raises ValueError for an invalid field.
    """
    fields = [(lower, value) for name, value in headers if (lower := _plain_names.get(name) or _checked(name))]
    _check_values([value for _, value in fields])
    return fields


def request_fields(method: str, scheme: bytes, target: bytes, headers: Headers) -> Headers:
    """Returns the fields of a HEADERS frame for a request; Host becomes ``:authority``.

    Fields of an HTTP/1.1 connection are dropped, and of TE all but ``trailers`` (RFC 9113 section 8.2.2). Raises
    ValueError for an invalid field.
    """
    fields: list[Any] = [(b":method", method.encode("ascii")), (b":scheme", scheme), (b":path", target)]
    values: list[bytes] = [target]
    for name, value in headers:
        lower = _plain_names.get(name) or _checked(name)
        if lower is None:
            lower = name.lower()
            if lower != b"content-length":
                continue
        elif lower == b"host":
            fields.insert(2, (b":authority", value))
            values.append(value)
            continue
        elif lower == b"te" and value.lower() != b"trailers":
            continue
        if lower in _UNIQUE:
            fields.append(unindexed(lower, value))
        else:
            fields.append((lower, value))
        values.append(value)
    _check_values(values)
    return fields


def read_response(fields: Sequence[tuple[bytes, bytes]], max_fields: int) -> tuple[int, Headers]:
    """Returns the status and fields of a response's HEADERS frame. Raises BadResponse.

    The session guarantees that ``:status`` is the only pseudo-header, comes first and has three digits.
    """
    status = int(fields[0][1])
    headers = list(fields[1:])
    if not 100 <= status <= 999 or status == 101:
        raise BadResponse(note=f"status {status} over HTTP/2")
    if len(headers) > max_fields:
        raise BadResponse(note=f"more than {max_fields} fields")
    return status, headers


def _check_values(values: list[bytes]) -> None:
    if breaks_lines(b"".join(values)):
        raise ValueError("a header's value has a line end or a NUL in it")


def _checked(name: bytes) -> bytes | None:
    """Returns a name in lower case, or None for a name to be left out. Raises ValueError for an invalid name."""
    lower = name.lower()
    if lower in _SPECIAL:
        return None
    if TOKEN.fullmatch(lower) is None:
        raise ValueError(f"{name!r} is not a header's name")
    return remember(_plain_names, name, lower, LONGEST_NAME, MOST_NAMES)
