"""The keys that requests are hashed by. A function per source is chosen when the configuration is loaded."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from streamproxy.exchange.exchange import Exchange
from streamproxy.wire.headers import Headers, first

Key = Callable[[Headers, Exchange], bytes | None]


def key_source(source: str) -> Key:
    """Returns a function that returns the key of a request, or None if the request has none.

    ``source`` is ``header:NAME``, ``cookie:NAME``, ``query:NAME``, ``client_ip`` or ``principal``. An empty value is no
    key.
    """
    kind, _, name = source.partition(":")
    if kind == "client_ip":
        return lambda headers, exchange: exchange.client.encode() or None
    if kind == "principal":
        return lambda headers, exchange: exchange.principal.encode("utf-8", "surrogatepass") or None
    raw = name.encode()
    if kind == "header":
        lower = raw.lower()
        return lambda headers, exchange: first(headers, lower) or None
    if kind == "cookie":
        return lambda headers, exchange: _cookie(headers, raw)
    if kind == "query":
        return lambda headers, exchange: _parameter(exchange.query, raw)
    raise ValueError(f"{source} is not a source of keys")


def _cookie(headers: Headers, name: bytes) -> bytes | None:
    """Returns the first value of a cookie (RFC 6265 section 5.4); HTTP/2 clients may send several Cookie fields."""
    for field, value in headers:
        if field == b"cookie":
            for pair in value.split(b";"):
                key, _, text = pair.strip(b" \t").partition(b"=")
                if key == name:
                    return text or None
    return None


def _parameter(query: bytes, name: bytes) -> bytes | None:
    """Returns the first value of a query parameter, decoded, so that different encodings are the same key."""
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if unquote_to_bytes(key.replace(b"+", b" ")) == name:
            return unquote_to_bytes(value.replace(b"+", b" ")) or None
    return None
