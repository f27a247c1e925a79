"""Whose streams they are."""

from __future__ import annotations

from collections.abc import Sequence

from streamproxy.exchange.call import Call
from streamproxy.wire.headers import Headers, first


def owner_of(call: Call, authenticated: bool) -> Sequence[bytes]:
    """The owner of what a request opens: the principal where the route has ``auth``, else the credentials it sends."""
    if authenticated:
        return b"principal", call.exchange.principal.encode()
    headers: Headers = call.downstream.headers
    return b"credentials", first(headers, b"authorization") or b"", first(headers, b"x-api-key") or b""
