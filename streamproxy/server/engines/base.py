"""The interface to the ASGI servers that run the proxy.

An engine serves an application on listening sockets from `start` on, accepts no more connections after `drain`, and has
ended after `stop`. It installs no signal handlers, because several engines run in one loop and the program has its own
handlers. All its sockets use TLS if the settings contain a context, otherwise none.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from streamproxy.server.alpn import ProtocolFactory
from streamproxy.server.http1.limits import NEWCOMER
from streamproxy.wire.forwarded import Network


class EngineSettings(NamedTuple):
    """The settings for connections, in bytes and seconds; ``tls`` applies to one listener.

    ``http2`` creates the protocol of HTTP/2 connections; None disables them. ``tls`` must offer the same protocols.
    Connections from the networks of ``proxy_protocol`` begin with a PROXY header.
    """

    max_header_size: int
    head_timeout: float
    keepalive_timeout: float
    max_connections: int
    on_rejected: Callable[[int, str], None]
    tls: ssl.SSLContext | None = None
    http2: ProtocolFactory | None = None
    proxy_protocol: Sequence[Network] = ()


class Engine(Protocol):
    """An ASGI server that runs the proxy."""

    async def start(self) -> None:
        """Starts to serve; returns once connections are accepted."""
        ...

    def drain(self, patience: float = NEWCOMER) -> None:
        """Accepts no new connections, and closes existing ones when they become idle; responses announce it.

        A new connection has ``patience`` seconds for its first request. If this is more than the default, idle
        connections have as long for another request.
        """
        ...

    @property
    def connections(self) -> int:
        """The number of open connections."""
        ...

    async def stop(self) -> None:
        """Ends what still runs, and the application's lifespan."""
        ...
