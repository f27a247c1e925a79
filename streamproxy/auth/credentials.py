"""Finds the credentials of a request, and removes them.

A credential may be in one of three places: in an Authorization field with the scheme Bearer (RFC 6750 section 2.1), in
a query parameter, or in a cookie. The last two are for the browser's EventSource, which cannot set header fields. Each
place is a pure function of the headers and the query. Removing a credential leaves all other bytes unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from streamproxy.wire.headers import Headers


class InvalidCredential(Exception):
    """A credential that is not valid. The message is for the operator; it names the fault and not the credential."""


class NoKeys(InvalidCredential):
    """A credential that may be valid: the keys to check it with have never been read."""


class Request(NamedTuple):
    """The parts of a request that may carry a credential. ``query`` is None if the target has no question mark."""

    headers: Headers
    query: bytes | None


class Source(Protocol):
    """A place that may carry credentials."""

    def find(self, request: Request) -> list[bytes]:
        """Returns every credential in this place, in order."""
        ...

    def strip(self, request: Request) -> Request:
        """Returns the request without the credentials in this place."""
        ...


class FromHeader:
    """``Authorization: Bearer TOKEN``.

    A field with another scheme is not a credential here. It is passed on, because the upstream may use Basic, for
    example. Any white space ends the scheme, as in lenient servers.
    """

    def find(self, request: Request) -> list[bytes]:
        return [
            token
            for name, value in request.headers
            if name == b"authorization"
            if (token := _bearer(value)) is not None
        ]

    def strip(self, request: Request) -> Request:
        kept = [(name, value) for name, value in request.headers if name != b"authorization" or _bearer(value) is None]
        return request._replace(headers=kept)


def _bearer(value: bytes) -> bytes | None:
    """Returns the token of an Authorization field. Schemes are case-insensitive (RFC 9110 section 11.1)."""
    words = value.split(None, 1)
    if not words or words[0].lower() != b"bearer":
        return None
    return words[1].rstrip() if len(words) == 2 else b""


class FromQuery:
    """The query parameter ``name``."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def find(self, request: Request) -> list[bytes]:
        return [
            unquote_to_bytes(value)
            for name, _, value in (part.partition(b"=") for part in (request.query or b"").split(b"&"))
            if self._is(name)
        ]

    def strip(self, request: Request) -> Request:
        if request.query is None:
            return request
        parts = request.query.split(b"&")
        kept = [part for part in parts if not self._is(part.partition(b"=")[0])]
        if len(kept) == len(parts):
            return request
        return request._replace(query=b"&".join(kept) if kept else None)

    def _is(self, name: bytes) -> bool:
        return name == self._name or (b"%" in name and unquote_to_bytes(name) == self._name)


class FromCookie:
    """The cookie ``name`` (RFC 6265 section 5.4). Double quotes around its value are removed."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def find(self, request: Request) -> list[bytes]:
        return [
            value.strip(b" \t").removeprefix(b'"').removesuffix(b'"')
            for field, cookies in request.headers
            if field == b"cookie"
            for name, equals, value in (part.partition(b"=") for part in cookies.split(b";"))
            if equals and name.strip(b" \t") == self._name
        ]

    def strip(self, request: Request) -> Request:
        return request._replace(headers=list(self._without(request.headers)))

    def _without(self, headers: Headers) -> Iterator[tuple[bytes, bytes]]:
        for pair in headers:
            field, cookies = pair
            if field != b"cookie" or self._name not in cookies:
                yield pair
                continue
            parts = cookies.split(b";")
            kept = [part for part in parts if part.partition(b"=")[0].strip(b" \t") != self._name]
            if len(kept) == len(parts):
                yield pair
            elif kept:
                yield field, b";".join(kept).lstrip(b" \t")
