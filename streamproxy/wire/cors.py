"""Cross-origin requests of browsers: the CORS protocol of the Fetch standard, section 3.2.

The proxy speaks for its upstreams: it answers preflights itself, before any credential is asked for, since browsers
send none with them, and it replaces whatever the upstream says of CORS. An origin that is not allowed is told nothing
and served like any other client: the protocol has browsers keep the response from the page, not servers from sending
it.
"""

from __future__ import annotations

from collections.abc import Collection

from streamproxy.wire.headers import TOKEN, Headers, first

MAX_AGE = 600  # seconds for which a browser may remember a preflight; Chromium takes no more than 7200

_PREFIX = b"access-control-"
# What a page may read without being told so (Fetch section 2.2.2), what it may never read, and what is no field of the
# upstream's.
_UNEXPOSED = frozenset(
    {
        b"cache-control",
        b"content-language",
        b"content-length",
        b"content-type",
        b"expires",
        b"last-modified",
        b"pragma",
        b"set-cookie",
        b"set-cookie2",
        b"vary",
    }
)
_PREFLIGHT_VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a request is a preflight: it asks what another request from another origin may do."""
    return (
        method == "OPTIONS"
        and first(headers, b"origin") is not None
        and first(headers, b"access-control-request-method") is not None
    )


class Cors:
    """What a route's responses say to browsers.

    ``origins`` are compared byte for byte; ``*`` is every one. ``methods`` are those of the route, empty for all.
    """

    def __init__(self, origins: Collection[str], *, credentials: bool, methods: Collection[str] = ()) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._credentials = credentials
        self._methods = frozenset(method.encode() for method in methods)

    def preflight(self, headers: Headers) -> Headers:
        """The fields of the 204 that answers a preflight; they allow what was asked for, or nothing."""
        method = first(headers, b"access-control-request-method") or b""
        out = self._allow(first(headers, b"origin"))
        if not out or not TOKEN.fullmatch(method) or not self._takes(method):
            return [_PREFLIGHT_VARY]
        out.append((b"access-control-allow-methods", method))
        names = [
            name.strip(b" \t")
            for field, value in headers
            if field == b"access-control-request-headers"
            for name in value.split(b",")
        ]
        if names and all(TOKEN.fullmatch(name) for name in names):
            out.append((b"access-control-allow-headers", b", ".join(names)))
        out.append((b"access-control-max-age", b"%d" % MAX_AGE))
        out.append(_PREFLIGHT_VARY)
        return out

    def transform_response_headers(self, origin: bytes | None, headers: Headers) -> Headers:
        """The fields of a response to a request with that Origin, instead of those that it came with."""
        kept = [pair for pair in headers if not pair[0].startswith(_PREFIX)]
        allowed = self._allow(origin)
        if allowed:
            exposed = self._exposed(kept)
            if exposed:
                allowed.append((b"access-control-expose-headers", exposed))
        if not self._any:
            allowed.append((b"vary", b"origin"))
        return kept + allowed

    def _takes(self, method: bytes) -> bool:
        return not self._methods or method in self._methods or (method == b"HEAD" and b"GET" in self._methods)

    def _allow(self, origin: bytes | None) -> Headers:
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        if origin is None or origin not in self._origins:
            return []
        out: Headers = [(b"access-control-allow-origin", origin)]
        if self._credentials:
            out.append((b"access-control-allow-credentials", b"true"))
        return out

    def _exposed(self, headers: Headers) -> bytes:
        """The fields that a page may read: ``*``, which stands for all of them only while no credentials are sent."""
        if not self._credentials:
            return b"*"
        return b", ".join(dict.fromkeys(name for name, _ in headers if name not in _UNEXPOSED))
