"""The ASGI scope of a request over HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from streamproxy.exchange.extension import CONNECTION, EARLY_HINT, TRAILERS, DownstreamConnection
from streamproxy.wire.proxy_protocol import Announced
from streamproxy.wire.request import RequestHead


def connection_scope(
    transport: asyncio.Transport, root_path: str, announced: Announced | None = None
) -> dict[str, Any]:
    """Returns the part of the scope that all requests of a connection share, with all other keys present.

    ``announced`` contains the connection's ends from a PROXY protocol header.
    """
    client, server = get_remote_addr(transport), get_local_addr(transport)
    if announced is not None:
        client, server = announced.client or client, announced.server or server
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "",
        "scheme": "https" if is_ssl(transport) else "http",
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "root_path": root_path,
        "headers": (),
        "client": client,
        "server": server,
        "state": None,
        "extensions": None,
    }


def request_scope(
    connection: dict[str, Any], head: RequestHead, state: dict[str, Any], extension: DownstreamConnection
) -> dict[str, Any]:
    """Returns the scope of a request. ``connection`` is from `connection_scope`, ``state`` from the lifespan."""
    scope = connection.copy()  # cheaper than building it anew
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
    if head.version == "1.1":
        scope["extensions"] = offers = {CONNECTION: extension, EARLY_HINT: {}}
        if head.takes_trailers:  # HTTP/1.0 has none
            offers[TRAILERS] = {}
    else:
        scope["http_version"] = head.version
        scope["extensions"] = {CONNECTION: extension}
    return scope
