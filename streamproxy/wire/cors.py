"""CORS, the protocol for cross-origin requests of browsers: Fetch standard, section 3.2.

The proxy handles CORS for its upstreams. It answers preflights itself before authentication, since browsers send them
without credentials, and it replaces the CORS fields of the upstream. A request from an origin that is not allowed is
served without CORS fields: the protocol makes browsers withhold the response from the page, it does not make servers
refuse it.
"""

from __future__ import annotations

from collections.abc import Collection

from streamproxy.wire.headers import TOKEN, Headers, first

MAX_AGE = 600  # seconds for which a browser may cache a preflight; Chromium accepts at most 7200

_PREFIX = b"access-control-"
# Fields that a page may read without permission (Fetch section 2.2.2), fields it may never read, and fields that the
# proxy removes from the upstream's response.
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
    """Whether a request is a preflight: it asks whether another cross-origin request is allowed."""
    return (
        method == "OPTIONS"
        and first(headers, b"origin") is not None
        and first(headers, b"access-control-request-method") is not None
    )


class Cors:
    """The CORS policy of a route.

    ``origins`` are compared byte for byte; ``*`` allows every origin. ``methods`` are those of the route; empty means
    all.
    """

    def __init__(self, origins: Collection[str], *, credentials: bool, methods: Collection[str] = ()) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._credentials = credentials
        self._methods = frozenset(method.encode() for method in methods)

    def preflight(self, headers: Headers) -> Headers:
        """Returns the fields of the 204 response to a preflight, which allow what was requested, or nothing."""
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
        """Returns the response fields for a request with this Origin, with CORS fields in place of the upstream's."""
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
        """Returns the fields that a page may read: ``*``, which means all of them only if no credentials are sent."""
        if not self._credentials:
            return b"*"
        return b", ".join(dict.fromkeys(name for name, _ in headers if name not in _UNEXPOSED))
