"""How a response's fields are changed on their way through the proxy: RFC 9110 section 7.6.

Also the rules of what may stand in a trailer section.
"""

from __future__ import annotations

import re
from typing import Final, Self

from streamproxy.wire.headers import (
    FORWARDED_BEGINS,
    HOP_BY_HOP,
    PLAIN_CONNECTION,
    SET_BY_PROXIES,
    VIA,
    Headers,
    joined,
    named_by_connection,
    via,
)
from streamproxy.wire.remembered import remember

_DROP: Final = 0
_CONNECTION: Final = 1
_NOTE: Final = 4
_NO_CACHE: Final = (b"cache-control", b"no-cache, no-transform")
_NO_BUFFER: Final = (b"x-accel-buffering", b"no")
_MOST: Final = 256  # values of Cache-Control whose change is remembered; upstreams send few different ones
_LONGEST: Final = 256  # bytes of such a value
_cache_controls: Final[dict[bytes, bytes]] = {}
_CODING: Final = 6
_CACHING: Final = 7
_BUFFERING: Final = 8
_RESPONSE_FIELDS: Final = dict.fromkeys(HOP_BY_HOP, _DROP) | {
    b"connection": _CONNECTION,
    b"x-request-id": _NOTE,
    b"content-type": _NOTE,
    b"content-length": _NOTE,
    b"date": _NOTE,
    b"content-encoding": _CODING,
    b"cache-control": _CACHING,
    b"x-accel-buffering": _BUFFERING,
}


class ResponseFields:
    """The result of one pass over a response's fields: those to pass on, and those that describe the body.

    Names are in lower case. ``kept`` are the fields without hop-by-hop fields and fields named in Connection. ``plain``
    means that the body has no content coding. ``told_length`` means that the upstream announced the length, so that a
    body which came to its end is certainly whole.
    """

    __slots__ = ("_replaced", "kept", "noted", "plain", "told_length")

    def prepare(self, headers: Headers) -> Self:
        """Reads the fields, in place of an `__init__`, which costs more."""
        self.kept: Headers = []
        self.noted: dict[bytes, bytes] = {}
        self.plain = True
        self._replaced: Headers = []  # replaced by the anti-buffering fields
        kept, noted, named = self.kept, self.noted, False
        for pair in headers:
            what = _RESPONSE_FIELDS.get(pair[0])
            if what is None:
                kept.append(pair)
            elif what == _NOTE:
                kept.append(pair)
                noted[pair[0]] = pair[1]
            elif what >= _CACHING:
                kept.append(pair)
                self._replaced.append(pair)
            elif what == _CODING:
                kept.append(pair)
                self.plain = self.plain and pair[1].lower() == b"identity"
            elif what == _CONNECTION:
                named = named or pair[1].lower() not in PLAIN_CONNECTION
        if named:
            gone = named_by_connection(headers)
            self.kept = [pair for pair in kept if pair[0] not in gone]
            self._replaced = [pair for pair in self._replaced if pair[0] not in gone]
        self.told_length = b"content-length" in noted
        return self

    def copy(self) -> ResponseFields:
        """Returns the same, to be changed without changing this."""
        new = ResponseFields()
        new.kept = self.kept.copy()
        new.noted = self.noted  # never changed in place
        new.plain = self.plain
        new.told_length = self.told_length
        new._replaced = self._replaced  # nor this
        return new

    def drop_length(self) -> None:
        """Removes Content-Length, for a body that may become longer or shorter."""
        if b"content-length" in self.noted:
            self.noted = {name: value for name, value in self.noted.items() if name != b"content-length"}
            self.kept = [pair for pair in self.kept if pair[0] != b"content-length"]

    def pass_on(self, request_id: bytes, date: bytes, version: str = "1.1") -> None:
        """Adds the proxy's own fields of a response: Via, and X-Request-Id and Date unless the upstream sent them.

        ``version`` is the HTTP version of the upstream's message.
        """
        kept, noted = self.kept, self.noted
        if b"date" not in noted:
            kept.append((b"date", date))  # RFC 9110 section 6.6.1
        kept.append(VIA if version == "1.1" else via(version))
        if b"x-request-id" not in noted:
            kept.append((b"x-request-id", request_id))

    def unbuffer(self) -> None:
        """Adds the anti-buffering fields.

        These are ``X-Accel-Buffering: no`` for nginx and proxies that follow it, and a Cache-Control for streams.
        """
        replaced, kept = self._replaced, self.kept
        if not replaced:
            kept.append(_NO_CACHE)
        elif len(replaced) == 1 and replaced[0][0] == b"cache-control":  # the usual case of streams
            kept.remove(replaced[0])
            kept.append((b"cache-control", streaming_cache_control(replaced[0][1])))
        else:
            self.kept = kept = [pair for pair in kept if pair not in replaced]
            kept.append((b"cache-control", streaming_cache_control(joined(replaced, b"cache-control"))))
        kept.append(_NO_BUFFER)


def streaming_cache_control(value: bytes) -> bytes:
    """Returns a Cache-Control list with the directives that streams need.

    ``no-transform`` keeps intermediaries from compressing, and so buffering, the body. ``no-cache`` is added unless the
    upstream sent ``no-store``. Other directives are kept.
    """
    known = _cache_controls.get(value)
    if known is not None:
        return known
    return remember(_cache_controls, value, _for_a_stream(value), _LONGEST, _MOST)


def _for_a_stream(value: bytes) -> bytes:
    directives = [directive.strip(b" \t") for directive in _split_list(value) if directive.strip(b" \t")]
    names = {directive.partition(b"=")[0].strip().lower() for directive in directives}
    plain = {directive.lower() for directive in directives}
    if b"no-cache" not in plain and b"no-store" not in names:
        directives.append(b"no-cache")
    if b"no-transform" not in names:
        directives.append(b"no-transform")
    return b", ".join(directives)


def _split_list(value: bytes) -> list[bytes]:
    """Splits a field's list at commas outside of quoted strings (RFC 9110 section 5.6.1)."""
    if b'"' not in value:
        return value.split(b",")
    return re.findall(rb'(?:[^,"]|"(?:\\.|[^"\\])*"?)+', value)


_OF_PROXIES: Final = SET_BY_PROXIES | {b"traceparent", b"tracestate", b"x-request-id"}
# RFC 9110 section 6.5.1: fields that frame, route or authorise a message, or describe the encoding of its content, must
# not be accepted in a trailer section.
_NOT_IN_TRAILERS: Final = HOP_BY_HOP | {
    b"age",
    b"authorization",
    b"cache-control",
    b"content-length",
    b"cookie",
    b"date",
    b"expect",
    b"expires",
    b"host",
    b"location",
    b"max-forwards",
    b"pragma",
    b"proxy-authentication-info",
    b"proxy-status",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"te",
    b"vary",
    b"via",
    b"warning",
    b"www-authenticate",
}


def passable_trailers(trailers: Headers) -> Headers:
    """Returns the trailer fields that may be forwarded: not those of framing, routing, authentication and Content-*."""
    return [pair for pair in trailers if pair[0] not in _NOT_IN_TRAILERS and not pair[0].startswith(b"content-")]


def passable_request_trailers(trailers: Headers, not_behind: frozenset[bytes]) -> Headers:
    """Returns the trailer fields of a request that may be forwarded: none of ``not_behind``, nor what proxies set.

    An upstream may merge trailers into the head, where a client has no say about these.
    """
    return [
        pair
        for pair in passable_trailers(trailers)
        if pair[0] not in not_behind and pair[0] not in _OF_PROXIES and pair[0][:12] not in FORWARDED_BEGINS
    ]
