"""The ASGI scope of a request over HTTP/2."""

from __future__ import annotations

from typing import Any

from streamproxy.exchange.extension import CONNECTION, EARLY_HINT, TRAILERS, DownstreamConnection
from streamproxy.wire.http2.head import Http2Head


def request_scope(
    connection: dict[str, Any], head: Http2Head, state: dict[str, Any], extension: DownstreamConnection
) -> dict[str, Any]:
    """The scope of one request: ``connection`` is that of the connection, ``state`` that of the lifespan."""
    scope = connection.copy()
    path, raw_path, root_path = head.path, head.raw_path, scope["root_path"]
    if root_path:
        path = root_path + path
        raw_path = root_path.encode("ascii") + raw_path
    scope["method"] = head.method
    scope["path"] = path
    scope["raw_path"] = raw_path
    scope["query_string"] = head.query
    scope["headers"] = head.headers
    scope["state"] = state.copy()
    offers: dict[str, Any] = {CONNECTION: extension, EARLY_HINT: {}}
    if extension.takes_trailers:
        offers[TRAILERS] = {}
    scope["extensions"] = offers
    return scope
