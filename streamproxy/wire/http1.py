"""Rules for HTTP/1.1 heads beyond syntax: which framing a head declares, and whether it is ambiguous.

These rules serve both the downstream protocol (requests) and the native client (responses). httptools has already
checked the syntax (tokens, CRLF, no obs-fold, digits in Content-Length, no Content-Length with Transfer-Encoding); this
module refuses what it accepts too leniently. Names must be lower-case. RFC 9112 sections 2.3, 3.2 and 6.3.
"""

from __future__ import annotations

import re
from typing import Final

from streamproxy.wire.headers import Headers
from streamproxy.wire.remembered import remember

MAX_FIELDS: Final = 100

_FRAMING: Final = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding"})
_HOST: Final = re.compile(rb"[^\x00-\x20\x7f-\xff/?#@\\,]*")
_MOST_HOSTS: Final = 256
_LONGEST_HOST: Final = 256
# A cache of checked Host values, since a server has few.
_hosts: Final[dict[bytes, bool]] = {}
_ABSOLUTE: Final = re.compile(rb"https?://([^\x00-\x20\x7f-\xff/?#@\\,]+)((?:[/?].*)?)", re.IGNORECASE)

_WEBSOCKET_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")


class AmbiguousHead(ValueError):
    """A head that two parsers could interpret differently; the text says why."""


class Framing:
    """How a body ends: after ``length`` bytes, after the last chunk, or, if neither is set, with the connection."""

    __slots__ = ("chunked", "keep_alive", "length")

    def __init__(self, length: int | None, chunked: bool, keep_alive: bool) -> None:
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Framing):
            return NotImplemented
        parts = self.length, self.chunked, self.keep_alive
        return parts == (other.length, other.chunked, other.keep_alive)

    def __hash__(self) -> int:
        return hash((self.length, self.chunked, self.keep_alive))


NO_BODY: Final = Framing(0, False, True)  # the usual case; compare with ``is``
_NO_BODY_LAST: Final = Framing(0, False, False)
# The largest body that is given to a parser in place of one that it has not seen.
ANY_BODY: Final = memoryview(bytes(65536))
_BODILESS: Final = frozenset({204, 205, 304})  # statuses whose responses have no content


def _number(value: bytes) -> int:
    """Parses a Content-Length (RFC 9112 section 6.3). Raises AmbiguousHead if it is not digits only."""
    if not value.isdigit() or len(value) > 18:
        raise AmbiguousHead("Content-Length is not a number of bytes")
    return int(value)


def is_chunked(headers: Headers) -> bool:
    """Whether the body is chunked.

    Raises AmbiguousHead for another transfer coding or several (RFC 9112 section 6.1).
    """
    found = False
    for name, value in headers:
        if name == b"transfer-encoding":
            if found or value.strip(b" \t").lower() != b"chunked":
                raise AmbiguousHead("a transfer coding other than chunked")
            found = True
    return found


def connection_options(headers: Headers) -> list[bytes]:
    """Returns the options of all Connection fields in lower case."""
    options: list[bytes] = []
    for name, value in headers:
        if name == b"connection":
            options += [option.strip(b" \t").lower() for option in value.split(b",")]
    return options


def is_websocket_key(value: bytes) -> bool:
    """Whether a Sec-WebSocket-Key is 16 bytes in base64 (RFC 6455 section 4.1)."""
    return _WEBSOCKET_KEY.fullmatch(value) is not None


def takes_trailers(headers: Headers) -> bool:
    """Whether a TE field contains ``trailers``, which has no weight (RFC 9110 section 10.1.4)."""
    return any(
        name == b"te" and b"trailers" in [coding.strip(b" \t").lower() for coding in value.split(b",")]
        for name, value in headers
    )


def _keep_alive(version: str, headers: Headers) -> bool:
    options = connection_options(headers)
    if b"close" in options:
        return False
    return version == "1.1" or b"keep-alive" in options


def is_host(value: bytes) -> bool:
    """Whether a Host value is exactly one valid authority of a URL (RFC 9112 section 3.2)."""
    return value in _hosts or _checked_host(value)


def _checked_host(value: bytes) -> bool:
    if _HOST.fullmatch(value) is None:
        return False
    return remember(_hosts, value, True, _LONGEST_HOST, _MOST_HOSTS)


def request_framing(version: str, headers: Headers) -> Framing:
    """Returns how a request's body ends, and whether its connection is kept.

    ``version`` is "1.0" or "1.1". A request without Content-Length and Transfer-Encoding has no body: its length is 0.
    Raises AmbiguousHead for a head to be refused with 400.
    """
    if version not in ("1.0", "1.1"):
        raise AmbiguousHead("an HTTP version other than 1.0 and 1.1")
    host: bytes | None = None
    length: int | None = None
    options = coding = False
    for name, value in headers:  # a single pass, as this runs for every request
        if name not in _FRAMING:
            continue
        if name == b"host":
            if host is not None:
                raise AmbiguousHead("more than one Host")
            host = value
        elif name == b"connection":
            options = options or value.lower() != b"keep-alive" or version == "1.0"
        elif name == b"content-length":
            if length is not None:
                raise AmbiguousHead("more than one Content-Length")
            length = _number(value)
        else:
            coding = True
    if host is None:
        if version == "1.1":
            raise AmbiguousHead("no Host")
    elif not is_host(host):
        raise AmbiguousHead("Host is not a host")
    keep_alive = _keep_alive(version, headers) if options else version == "1.1"
    if not coding:
        if length:
            return Framing(length, False, keep_alive)
        return NO_BODY if keep_alive else _NO_BODY_LAST
    if length is not None:
        raise AmbiguousHead("Content-Length with Transfer-Encoding")
    if version == "1.0":
        raise AmbiguousHead("Transfer-Encoding in HTTP/1.0")
    return Framing(None, is_chunked(headers), keep_alive)


def origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Returns a request target in origin form, and the authority that replaces Host if it was in absolute form.

    RFC 9112 section 3.2: a path with its query is unchanged, ``*`` is allowed only with OPTIONS, and of a URL only the
    part after the authority is kept (section 3.2.2). CONNECT's authority form is not handled here. Raises AmbiguousHead
    for anything else, such as fragments, which are never sent, and user information, which is not part of an http URL.
    """
    if target.find(b"#") >= 0:  # faster than ``in`` on CPython 3.11
        raise AmbiguousHead("a fragment in the request target")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, None
    url = _ABSOLUTE.fullmatch(target)
    if url is None:
        raise AmbiguousHead("the request target is neither a path nor an http URL")
    authority, rest = url[1], url[2]
    if not rest and method == b"OPTIONS":
        return b"*", authority  # RFC 9112 section 3.2.4
    return rest if rest.startswith(b"/") else b"/" + rest, authority


def response_framing(method: str, status: int, version: str, headers: Headers) -> Framing:
    """Returns how the response to a request with ``method`` ends (RFC 9112 section 6.3), and if its connection is kept.

    A connection is not kept if the upstream might send a body that the response cannot have: after a response to HEAD
    without a length, and after a 204, 205 or 304 that announces a body. (A 304 may have the length of the response it
    stands for, RFC 9110 section 8.6.) Such a late body would be parsed as the next response. Raises AmbiguousHead for a
    malformed or ambiguous head.
    """
    if version not in ("1.0", "1.1"):
        raise AmbiguousHead("an HTTP version other than 1.0 and 1.1")
    if not 100 <= status <= 999:
        raise AmbiguousHead("a status code outside 100 to 999")
    length: int | None = None
    options = coding = False
    for name, value in headers:  # a single pass, as this runs for every response
        if name not in _FRAMING:
            continue
        if name == b"content-length":
            if length is not None:
                raise AmbiguousHead("more than one Content-Length")
            length = _number(value)
        elif name == b"connection":
            options = True
        elif name == b"transfer-encoding":
            coding = True
    if coding:
        if length is not None:
            raise AmbiguousHead("Content-Length with Transfer-Encoding")
        if version == "1.0":
            raise AmbiguousHead("Transfer-Encoding in HTTP/1.0")
        coding = is_chunked(headers)
    keep_alive = _keep_alive(version, headers) if options else version == "1.1"
    if status in _BODILESS:
        keep_alive = keep_alive and not coding and (not length or status == 304)
    if status in (204, 304) or status < 200:
        return NO_BODY if keep_alive else _NO_BODY_LAST
    if method == "HEAD":
        return NO_BODY if keep_alive and length is not None else _NO_BODY_LAST
    if coding or length is not None:
        return Framing(length, coding, keep_alive)
    return Framing(None, False, False)
