"""How header fields are changed on their way through the proxy: RFC 9110 section 7.6.

Headers are lists of (name, value) pairs of bytes with lower-case names, in the order of the wire and with duplicates.
They are never converted to a mapping; one pass over the list suffices.
"""

from __future__ import annotations

import re
from typing import Final, Self

from streamproxy.wire.remembered import remember

Headers = list[tuple[bytes, bytes]]

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_SANE_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")

HOP_BY_HOP: Final = frozenset(
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
_PROTECTED: Final = frozenset(
    {b"host", b"content-length", b"authorization", b"via", b"x-request-id", b"content-encoding"}
)
_FORWARDED: Final = b"x-forwarded-"
PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close"})
_ADDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix"})
PSEUDONYM: Final = b"streamproxy"
VIA: Final = (b"via", b"1.1 streamproxy")
# By the version of the received message (RFC 9110 section 7.6.3).
_VIAS: Final = {version: (b"via", version.encode() + b" streamproxy") for version in ("1.0", "1.1", "2")}
_TE: Final[list[tuple[bytes, bytes]]] = [(b"te", b"trailers"), (b"connection", b"te")]
_IDENTITY: Final = (b"accept-encoding", b"identity")
MAX_HOPS: Final = 8


MOST_NAMES: Final = 1024  # of fields, in each table of those that came
LONGEST_NAME: Final = 64  # a peer chooses names, and one may be as large as a head
# Names as they came, and in lower case. Peers send few different ones. A look-up costs less than `lower`, and gives
# the same object each time, which later look-ups neither hash nor compare.
lower_names: Final[dict[bytes, bytes]] = {}


def lower_name(name: bytes) -> bytes:
    """Returns the name of a field in lower case. What runs for each field looks into `lower_names` itself first."""
    known = lower_names.get(name)
    if known is not None:
        return known
    lower = name.lower()
    return remember(lower_names, name, lower_names.get(lower, lower), LONGEST_NAME, MOST_NAMES)


def first(headers: Headers, name: bytes) -> bytes | None:
    """Returns the first value of a field, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def joined(headers: Headers, name: bytes) -> bytes:
    """Returns all values of a field joined as one list (RFC 9110 section 5.3); empty if the field is absent."""
    return b", ".join([value for key, value in headers if key == name])


def named_by_connection(headers: Headers) -> set[bytes]:
    """Returns the names listed in Connection, except those that it must not remove."""
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(option.strip(b" \t").lower() for option in value.split(b","))
    return {name for name in named if name not in _PROTECTED and not name.startswith(_FORWARDED)}


def via(version: str) -> tuple[bytes, bytes]:
    """Returns the Via field for a message received in this HTTP version: "1.0", "1.1" or "2"."""
    return _VIAS.get(version, VIA)


def hops(via: bytes) -> int:
    """Returns how often a request has passed this proxy, according to its Via list (RFC 9110 section 7.6.3)."""
    return sum(1 for member in via.split(b",") if member.split()[1:2] == [PSEUDONYM])


def sane_request_id(value: bytes | None) -> bool:
    """Whether a client's X-Request-Id is acceptable: 1 to 128 visible ASCII characters."""
    return value is not None and _SANE_REQUEST_ID.fullmatch(value) is not None


# The origin of a request for the X-Forwarded-* fields: the address, the scheme, whether the peer is a trusted proxy
# (whose own X-Forwarded-* are kept), and the prefix that the route strips from the path. A plain tuple, because one is
# created for every request.
Forwarded = tuple[bytes, bytes, bool, bytes]


NUL: Final = 0
LF: Final = 10
CR: Final = 13
SPACE: Final = 32


def breaks_lines(data: bytes) -> bool:
    """Whether text for the inside of a head contains CR, LF or NUL (RFC 9110 section 5.5).

    The caller passes all lines joined, since three searches of the whole are cheaper than three for each field.
    Searching for an integer is much cheaper than for a string of one byte.
    """
    return LF in data or CR in data or NUL in data


_HANDSHAKE: Final = (
    b"sec-websocket-version",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-extensions",
)

# Fields in which a client has no say, X-Forwarded-* by their beginnings. CGI, WSGI and PHP can't tell a hyphen from an
# underscore in a name.
SET_BY_PROXIES: Final = frozenset({b"forwarded", b"x-real-ip", b"x_real_ip", b"x-real_ip", b"x_real-ip"})
FORWARDED_BEGINS: Final = frozenset({b"x-forwarded-", b"x_forwarded_", b"x-forwarded_", b"x_forwarded-"})
# How fields are handled that are not simply passed on.
_DROP: Final = 0
_CONNECTION: Final = 1
_FROM_PROXY: Final = 2
_HOST: Final = 3
_NOTE: Final = 4
_NOTE_AND_DROP: Final = 5
_REQUEST_FIELDS: Final = (
    dict.fromkeys(HOP_BY_HOP, _DROP)
    | dict.fromkeys(SET_BY_PROXIES, _FROM_PROXY)
    | {
        b"connection": _CONNECTION,
        b"te": _NOTE_AND_DROP,
        b"host": _HOST,
        b"transfer-encoding": _NOTE_AND_DROP,
        b"x-request-id": _NOTE_AND_DROP,
        b"accept": _NOTE,
        b"accept-encoding": _NOTE,
        b"content-length": _NOTE,
        b"max-forwards": _NOTE,
        b"traceparent": _NOTE,
        b"via": _NOTE,
        b"upgrade": _NOTE_AND_DROP,
        b"sec-websocket-extensions": _NOTE_AND_DROP,
        b"sec-websocket-key": _NOTE_AND_DROP,
        b"sec-websocket-protocol": _NOTE_AND_DROP,
        b"sec-websocket-version": _NOTE_AND_DROP,
    }
)


class RequestFields:
    """The result of one pass over a request's fields: those to pass on, and those that the proxy reads itself.

    It does not change after `prepare`, since requests with equal heads share it.

    ``kept`` are the fields without hop-by-hop fields, fields named in Connection, and fields that only a trusted proxy
    may set (X-Forwarded-*, Forwarded, X-Real-IP), which are in ``forwarded``. ``noted`` holds the values of the few
    fields that the proxy reads; several values of one name are joined by commas.
    """

    __slots__ = ("forwarded", "host", "host_at", "kept", "noted", "two_hosts")

    def prepare(self, headers: Headers) -> Self:
        """Reads the fields, in place of an `__init__`, which costs more."""
        self.host = b""
        self.two_hosts = False  # some servers do not refuse this
        self.host_at = -1  # the index of Host in ``kept``
        self.forwarded: Headers = []
        self.kept: Headers = []
        self.noted: dict[bytes, bytes] = {}
        kept, noted, named = self.kept, self.noted, False
        for pair in headers:
            name = pair[0]
            what = _REQUEST_FIELDS.get(name)
            if what is None:
                if name >= _FORWARDED and name[:12] in FORWARDED_BEGINS:  # most names come before it
                    self.forwarded.append(pair)
                else:
                    kept.append(pair)
            elif what == _HOST:
                if self.host_at >= 0:
                    self.two_hosts = True
                    continue
                self.host, self.host_at = pair[1], len(kept)
                kept.append(pair)
            elif what >= _NOTE:
                noted[name] = noted[name] + b", " + pair[1] if name in noted else pair[1]
                if what == _NOTE:
                    kept.append(pair)
            elif what == _CONNECTION:
                named = named or pair[1].lower() not in PLAIN_CONNECTION
            elif what == _FROM_PROXY:
                self.forwarded.append(pair)
        if named:
            self._drop(named_by_connection(headers))
        return self

    def replaced(self, name: bytes, value: bytes) -> RequestFields:
        """Returns the same with another value of a kept field."""
        new = RequestFields()
        new.host, new.two_hosts, new.host_at = self.host, self.two_hosts, self.host_at
        new.forwarded, new.noted = self.forwarded, self.noted
        new.kept = [(name, value) if pair[0] == name else pair for pair in self.kept]
        return new

    def _drop(self, names: set[bytes]) -> None:
        self.kept = [pair for pair in self.kept if pair[0] not in names]
        self.host_at = next((at for at, pair in enumerate(self.kept) if pair[0] == b"host"), -1)

    @property
    def has_body(self) -> bool:
        """Whether the request announces a body (RFC 9112 section 6)."""
        length = self.noted.get(b"content-length")
        return b"transfer-encoding" in self.noted or (length is not None and length.strip(b"0") != b"")

    @property
    def te_trailers(self) -> bool:
        """Whether the client accepts trailers (RFC 9110 section 10.1.4)."""
        te = self.noted.get(b"te")
        return te is not None and b"trailers" in [part.strip(b" \t").lower() for part in te.split(b",")]

    def handshake(self) -> Headers:
        """The fields of a WebSocket handshake (RFC 6455 section 4.1), which are sent upstream for handshakes only."""
        noted = self.noted
        own = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        return own + [(name, noted[name]) for name in _HANDSHAKE if name in noted]

    def chain(self) -> bytes:
        """The addresses of X-Forwarded-For as one list; empty if there are none."""
        return joined(self.forwarded, b"x-forwarded-for")


class KnownFields:
    """The fields of a head that may come again, read once. Nothing may change ``headers``."""

    __slots__ = ("_fields", "headers")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self._fields: RequestFields | None = None

    def read(self, headers: Headers) -> RequestFields:
        """Returns the result for ``headers``: what is remembered, unless middleware has changed the fields since."""
        if headers != self.headers:
            return RequestFields().prepare(headers)
        if self._fields is None:
            self._fields = RequestFields().prepare(self.headers)
        return self._fields


def request_headers(
    fields: RequestFields,
    host: bytes | None,
    forwarded: Forwarded,
    request_id: bytes,
    identity: bool,
    version: str = "1.1",
    trailers: bool = False,
) -> Headers:
    """Returns the fields to send upstream for fields received from the client in this HTTP version.

    ``host`` replaces the client's Host; None preserves it. ``identity`` requests an uncompressed body from the
    upstream, and ``trailers`` requests trailers. X-Forwarded-*, Via and X-Request-Id are added. Applying the function
    to its own result changes only the fields that record a hop.
    """
    out = fields.kept.copy()
    original_host = fields.host
    if host is not None:
        if fields.host_at >= 0:
            out[fields.host_at] = (b"host", host)
        else:
            out.insert(0, (b"host", host))  # an HTTP/1.0 client may have sent none
    if identity and b"accept-encoding" in fields.noted:
        out = [pair for pair in out if pair[0] != b"accept-encoding"]
    client, proto, trusted, prefix = forwarded
    if trusted and fields.forwarded:
        theirs = fields.forwarded
        chain = fields.chain()
        client = chain + b", " + client if chain else client
        proto = first(theirs, b"x-forwarded-proto") or proto
        original_host = first(theirs, b"x-forwarded-host") or original_host
        prefix = (first(theirs, b"x-forwarded-prefix") or b"").rstrip(b"/") + prefix
        out += [pair for pair in theirs if pair[0] not in _ADDED]
    out.append((b"x-forwarded-for", client))
    out.append((b"x-forwarded-proto", proto))
    if original_host:
        out.append((b"x-forwarded-host", original_host))
    if prefix:
        out.append((b"x-forwarded-prefix", prefix))
    if trailers:
        out += _TE
    out.append(VIA if version == "1.1" else via(version))
    out.append((b"x-request-id", request_id))
    if identity:
        out.append(_IDENTITY)
    return out


def forwards_left(value: bytes) -> int:
    """Returns how often a request may still be forwarded, from Max-Forwards (RFC 9110 section 7.6.2).

    Raises ValueError if the value is not one number.
    """
    if not value.isdigit() or len(value) > 10:
        raise ValueError("Max-Forwards is not a number")
    return int(value)
