"""What happens to header fields on their way through: RFC 9110 section 7.6.

Headers are lists of (name, value) pairs of bytes with lower-case names, in the order of the wire, duplicates apart.
They are never turned into a mapping: one pass over the list does everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_SANE_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authenticate",
        b"proxy-authorization",
    }
)
# Fields that a peer cannot remove by naming them in Connection: they frame, route or authorise the message.
_PROTECTED = frozenset({b"host", b"content-length", b"authorization", b"via", b"x-request-id", b"content-encoding"})
_FORWARDED = b"x-forwarded-"
PSEUDONYM = b"streamproxy"
MAX_HOPS = 8


class Edit(NamedTuple):
    """What a route does to headers by configuration: ``remove`` and ``set`` replace, ``add`` appends."""

    set: Headers
    add: Headers
    remove: frozenset[bytes]

    def apply(self, headers: Headers) -> Headers:
        gone = self.remove | {name for name, _ in self.set}
        return [pair for pair in headers if pair[0] not in gone] + self.set + self.add


NO_EDIT = Edit([], [], frozenset())


def edit(set_: Mapping[str, str], add: Mapping[str, str], remove: Iterable[str]) -> Edit:
    """Compile a route's header rules; NO_EDIT when there are none, so that the hot path can skip them."""
    if not (set_ or add or remove):
        return NO_EDIT
    pairs = [[(name.lower().encode(), value.encode()) for name, value in rules.items()] for rules in (set_, add)]
    return Edit(pairs[0], pairs[1], frozenset(name.lower().encode() for name in remove))


def first(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def joined(headers: Headers, name: bytes) -> bytes:
    """All values of a field, as one list (RFC 9110 section 5.3); empty when it is absent."""
    return b", ".join([value for key, value in headers if key == name])


def named_by_connection(headers: Headers) -> set[bytes]:
    """The fields that Connection names, less those that it must not remove."""
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(option.strip(b" \t").lower() for option in value.split(b","))
    return {name for name in named if name not in _PROTECTED and not name.startswith(_FORWARDED)}


def hops(headers: Headers) -> int:
    """How often a request came through this proxy before, by its Via fields (RFC 9110 section 7.6.3)."""
    return sum(
        1
        for name, value in headers
        if name == b"via"
        for member in value.split(b",")
        if member.split()[1:2] == [PSEUDONYM]
    )


def sane_request_id(value: bytes | None) -> bool:
    """Whether a client's X-Request-Id may be kept: 1 to 128 visible ASCII characters."""
    return value is not None and _SANE_REQUEST_ID.fullmatch(value) is not None


class Forwarded(NamedTuple):
    """Who sent the request, as the X-Forwarded-* fields will say."""

    client: bytes
    proto: bytes
    trusted: bool  # the peer is a trusted proxy: its own X-Forwarded-* are believed


def request_headers(
    headers: Headers,
    *,
    host: bytes | None,
    forwarded: Forwarded,
    request_id: bytes,
    identity: bool,
) -> Headers:
    """The fields to send upstream for those that came from the client.

    ``host`` replaces the client's Host, or None preserves it. ``identity`` asks the upstream for an uncompressed
    body. Hop-by-hop fields and those that Connection names are removed; X-Forwarded-*, Via and X-Request-Id are
    added. Applying the rule to its own result changes only the fields that record a hop.
    """
    out: Headers = []
    named: set[bytes] | None = None
    chain = original_host = proto = b""
    for pair in headers:
        name = pair[0]
        if name in HOP_BY_HOP:
            if name == b"connection" and named is None and pair[1].lower() not in (b"keep-alive", b"close"):
                named = named_by_connection(headers)
            elif name == b"te" and b"trailers" in [p.strip(b" \t").lower() for p in pair[1].split(b",")]:
                out.append((b"te", b"trailers"))
        elif name == b"host":
            original_host = pair[1]
            out.append(pair if host is None else (b"host", host))
        elif name.startswith(_FORWARDED):
            if forwarded.trusted:
                if name == b"x-forwarded-for":
                    chain = chain + b", " + pair[1] if chain else pair[1]
                elif name == b"x-forwarded-host":
                    original_host = pair[1]
                elif name == b"x-forwarded-proto":
                    proto = pair[1]
                else:
                    out.append(pair)
        elif name == b"x-request-id" or (identity and name == b"accept-encoding"):
            pass
        else:
            out.append(pair)
    if named:
        out = [pair for pair in out if pair[0] not in named]
    if not original_host and host is not None:
        out.insert(0, (b"host", host))  # an HTTP/1.0 client may have sent none
    out.append((b"x-forwarded-for", chain + b", " + forwarded.client if chain else forwarded.client))
    out.append((b"x-forwarded-proto", proto or forwarded.proto))
    if original_host:
        out.append((b"x-forwarded-host", original_host))
    out.append((b"via", b"1.1 streamproxy"))
    out.append((b"x-request-id", request_id))
    if identity:
        out.append((b"accept-encoding", b"identity"))
    return out


def response_headers(headers: Headers, *, request_id: bytes) -> Headers:
    """The fields to send downstream for those that came from the upstream, without hop-by-hop ones.

    Adds Via, and X-Request-Id unless the upstream sent one. Names may come in any case and leave in lower case,
    which is what ASGI asks for.
    """
    out: Headers = []
    named: set[bytes] | None = None
    has_id = False
    for name, value in headers:
        name = name.lower()
        if name in HOP_BY_HOP:
            if name == b"connection" and named is None and value.lower() not in (b"keep-alive", b"close"):
                named = named_by_connection([(key.lower(), text) for key, text in headers])
            continue
        if name == b"x-request-id":
            has_id = True
        out.append((name, value))
    if named:
        out = [pair for pair in out if pair[0] not in named]
    out.append((b"via", b"1.1 streamproxy"))
    if not has_id:
        out.append((b"x-request-id", request_id))
    return out


def unbuffered(headers: Headers) -> Headers:
    """The same fields with the anti-buffering ones.

    ``X-Accel-Buffering: no`` for nginx and those who learnt from it; ``no-transform`` so that nothing on the way
    compresses (and so buffers) the body; ``no-cache`` unless the upstream said ``no-store``. The upstream's other
    directives stay.
    """
    directives = [
        directive.strip(b" \t")
        for name, value in headers
        if name == b"cache-control"
        for directive in _split_list(value)
        if directive.strip(b" \t")
    ]
    names = {directive.partition(b"=")[0].strip().lower() for directive in directives}
    plain = {directive.lower() for directive in directives}
    if b"no-cache" not in plain and b"no-store" not in names:
        directives.append(b"no-cache")
    if b"no-transform" not in names:
        directives.append(b"no-transform")
    out = [pair for pair in headers if pair[0] not in (b"cache-control", b"x-accel-buffering")]
    out.append((b"cache-control", b", ".join(directives)))
    out.append((b"x-accel-buffering", b"no"))
    return out


def _split_list(value: bytes) -> list[bytes]:
    """Split a field's list at its commas, but not inside quoted strings (RFC 9110 section 5.6.1)."""
    if b'"' not in value:
        return value.split(b",")
    return re.findall(rb'(?:[^,"]|"(?:\\.|[^"\\])*"?)+', value)
