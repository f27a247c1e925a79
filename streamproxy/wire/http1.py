"""The rules of an HTTP/1.1 head beyond its syntax: which framing it declares, and whether it is ambiguous.

Shared by the downstream protocol (requests) and the native client (responses). httptools has already checked the
syntax (tokens, CRLF, no obs-fold, digits only in Content-Length, no Content-Length beside Transfer-Encoding); what
it lets through is refused here. Names are lower-case when they come in. RFC 9112 sections 2.3, 3.2 and 6.3.
"""

from __future__ import annotations

from typing import NamedTuple

from streamproxy.wire.headers import Headers

MAX_FIELDS = 100


class AmbiguousHead(ValueError):
    """A head that two parsers could read in two ways; its text says why."""


class Framing(NamedTuple):
    """How a body ends: after ``length`` bytes, after the last chunk, or, with neither, with the connection."""

    length: int | None
    chunked: bool
    keep_alive: bool


def content_length(headers: Headers) -> int | None:
    """The one Content-Length, or None. Raises AmbiguousHead on two or on anything but digits (RFC 9112 6.3)."""
    found: int | None = None
    for name, value in headers:
        if name == b"content-length":
            if found is not None:
                raise AmbiguousHead("more than one Content-Length")
            if not value.isdigit() or len(value) > 18:
                raise AmbiguousHead("Content-Length is not a number of bytes")
            found = int(value)
    return found


def is_chunked(headers: Headers) -> bool:
    """Whether the body is chunked. Raises AmbiguousHead on any other transfer coding, or on two (RFC 9112 6.1)."""
    found = False
    for name, value in headers:
        if name == b"transfer-encoding":
            if found or value.strip(b" \t").lower() != b"chunked":
                raise AmbiguousHead("a transfer coding other than chunked")
            found = True
    return found


def connection_options(headers: Headers) -> list[bytes]:
    """The lower-case options of every Connection field."""
    options: list[bytes] = []
    for name, value in headers:
        if name == b"connection":
            options += [option.strip(b" \t").lower() for option in value.split(b",")]
    return options


def _keep_alive(version: str, headers: Headers) -> bool:
    options = connection_options(headers)
    if b"close" in options:
        return False
    return version == "1.1" or b"keep-alive" in options


def request_framing(version: str, headers: Headers) -> Framing:
    """How a request's body ends and whether its connection may be used again.

    ``version`` is "1.0" or "1.1". A request without Content-Length or Transfer-Encoding has no body: its length is 0.
    Raises AmbiguousHead for what is refused with 400.
    """
    if version not in ("1.0", "1.1"):
        raise AmbiguousHead("an HTTP version other than 1.0 and 1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise AmbiguousHead("more than one Host")
    if not hosts and version == "1.1":
        raise AmbiguousHead("no Host")
    if hosts and any(byte in b" \t/?#@\\," or byte >= 0x7F for byte in hosts[0]):
        raise AmbiguousHead("Host is not a host")
    length = content_length(headers)
    chunked = is_chunked(headers)
    if chunked and length is not None:
        raise AmbiguousHead("Content-Length with Transfer-Encoding")
    if chunked and version == "1.0":
        raise AmbiguousHead("Transfer-Encoding in HTTP/1.0")
    return Framing(None if chunked else length or 0, chunked, _keep_alive(version, headers))


def response_framing(method: str, status: int, version: str, headers: Headers) -> Framing:
    """How a response's body ends (RFC 9112 section 6.3), given the request's method; whether its connection is kept.

    Raises AmbiguousHead for a malformed or ambiguous head.
    """
    if version not in ("1.0", "1.1"):
        raise AmbiguousHead("an HTTP version other than 1.0 and 1.1")
    if not 100 <= status <= 599:
        raise AmbiguousHead("a status code outside 100 to 599")
    length = content_length(headers)
    chunked = is_chunked(headers)
    if chunked and length is not None:
        raise AmbiguousHead("Content-Length with Transfer-Encoding")
    if chunked and version == "1.0":
        raise AmbiguousHead("Transfer-Encoding in HTTP/1.0")
    keep_alive = _keep_alive(version, headers)
    if method == "HEAD" or status in (204, 304) or status < 200:
        return Framing(0, False, keep_alive)
    if chunked or length is not None:
        return Framing(length, chunked, keep_alive)
    return Framing(None, False, False)
