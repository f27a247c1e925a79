"""What carries the proxy: an ASGI server behind one small interface.

An engine serves an application on listening sockets from `start` on, accepts no more connections after `drain`, and
is gone after `stop`. It installs no signal handlers: several run in one loop, and the program has its own. All its
sockets speak TLS when the settings have a context for it, none of them otherwise.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from streamproxy.server.alpn import ProtocolFactory
from streamproxy.server.http1.protocol import NEWCOMER
from streamproxy.wire.forwarded import Network

FOREVER = 31_536_000.0  # seconds: a year, since a loop's timers take no infinity


class EngineSettings(NamedTuple):
    """What the configuration says of connections: bytes, seconds, and how many at once; ``tls`` for one listener.

    ``http2`` makes the protocol of HTTP/2 connections; without it there are none. ``tls`` has to offer what is there.
    Connections from the networks of ``proxy_protocol`` begin with a PROXY header.
    """

    max_header_size: int
    head_timeout: float
    keepalive_timeout: float
    drain_timeout: float
    max_connections: int
    on_rejected: Callable[[int, str], None]
    tls: ssl.SSLContext | None = None
    http2: ProtocolFactory | None = None
    proxy_protocol: Sequence[Network] = ()


class Engine(Protocol):
    """An ASGI server under the proxy."""

    async def start(self) -> None:
        """Serve; returns once connections are accepted."""
        ...

    def drain(self, patience: float = NEWCOMER) -> None:
        """Accept no new connection, and close each that there is when it becomes idle; responses say so.

        One that was accepted last has ``patience`` seconds for its first request, and idle ones have so many for
        another when that is more than the default.
        """
        ...

    @property
    def connections(self) -> int:
        """How many are open."""
        ...

    async def stop(self) -> None:
        """End what still runs, and the application's lifespan."""
        ...
