"""Whose streams they are."""

from __future__ import annotations

from collections.abc import Sequence

from streamproxy.exchange.call import Call
from streamproxy.wire.headers import Headers, first


def owner_of(call: Call, authenticated: bool) -> Sequence[bytes]:
    """The owner of what a request opens: the principal where the route has ``auth``, else the credentials it sends."""
    return owner_by(call.exchange.principal if authenticated else None, call.downstream.headers)


def owner_by(principal: str | None, headers: Headers) -> Sequence[bytes]:
    """The owner of that principal; None for the owner of the credentials in ``headers``."""
    if principal is not None:
        return b"principal", principal.encode()
    return b"credentials", first(headers, b"authorization") or b"", first(headers, b"x-api-key") or b""
