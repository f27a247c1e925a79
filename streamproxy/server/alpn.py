"""Determines the protocol of a connection: by ALPN over TLS, and by the first bytes in clear text.

Over TLS the handshake chooses the protocol before the first byte (RFC 9113 section 3.2). In clear text a client with
prior knowledge begins with HTTP/2's preface (section 3.3), and anything else is HTTP/1.1. ``Upgrade: h2c`` is not
supported. If HTTP/2 is not served, it is not offered and its preface is a malformed request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.utils import is_ssl

from streamproxy.wire.http2.frames import PREFACE
from streamproxy.wire.proxy_protocol import Announced

H2: Final = "h2"
HTTP11: Final = "http/1.1"

# Creates the protocol of a connection from uvicorn's keyword arguments: config, server_state, app_state.
ProtocolFactory = Callable[..., Any]


def offered(http2: bool) -> list[str]:
    """Returns what a listener offers by ALPN, in order of preference."""
    return [H2, HTTP11] if http2 else [HTTP11]


def chose_http2(transport: asyncio.BaseTransport) -> bool:
    """Whether the TLS handshake of a connection chose HTTP/2."""
    if not is_ssl(transport):  # type: ignore[arg-type]  # uvicorn's type is narrower than what it asks for
        return False
    connection = transport.get_extra_info("ssl_object")
    return connection is not None and connection.selected_alpn_protocol() == H2


def hand_over(transport: asyncio.Transport, protocol: Any, announced: Announced | None) -> None:
    """Gives a connection that has begun in HTTP/2 to its protocol, with what a PROXY header said of it."""
    protocol.announced = announced
    transport.set_protocol(protocol)
    protocol.connection_made(transport)


def is_preface(data: bytes) -> bool | None:
    """Whether a connection's first bytes are HTTP/2's preface; None if more bytes are needed to tell."""
    if data.startswith(PREFACE):
        return True
    return None if PREFACE.startswith(data) else False
