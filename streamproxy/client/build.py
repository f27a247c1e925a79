"""Builds the clients of an upstream's endpoints from its configuration."""

from __future__ import annotations

import ssl

from streamproxy.client.base import Client
from streamproxy.client.foreign import ForeignClient
from streamproxy.client.http1 import NativeClient, client_context
from streamproxy.client.http2 import Http2Client
from streamproxy.client.httpx import HttpxClient, build_httpx, is_httpx
from streamproxy.config.model import Upstream
from streamproxy.errors import StreamproxyError
from streamproxy.wire.times import FOREVER


def adapt(client: object) -> Client:
    """Adapts a user's own client to the proxy."""
    return HttpxClient(client) if is_httpx(client) else ForeignClient(client)


class ClientFactory:
    """Creates the clients of one upstream's endpoints, or returns ``shared`` for all of them.

    The TLS context is created once, because loading CA certificates is slow.
    """

    def __init__(self, upstream: Upstream, shared: Client | None) -> None:
        self._upstream = upstream
        self._shared = shared
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}

    def __call__(self, url: str, socket: str | None, *, server_name: str | None = None) -> Client:
        """Returns the client of the endpoint at ``url``. Raises StreamproxyError for unusable files."""
        if self._shared is not None:
            return self._shared
        upstream, connections = self._upstream, self._upstream.connections
        secure = url.startswith("https:")
        context = self._tls("http/1.1") if secure else None
        idle_timeout = FOREVER if connections.idle_timeout is None else connections.idle_timeout
        server_name = upstream.tls.server_name or server_name
        native = None
        if upstream.proxy is None:
            native = NativeClient(
                url,
                socket=socket,
                ssl_context=context,
                server_name=server_name,
                max_connections=connections.max,
                max_idle=connections.max_idle,
                idle_timeout=idle_timeout,
            )
        if native is None or upstream.client == "httpx":
            return build_httpx(
                verify=context,
                server_name=server_name,
                socket=socket,
                proxy=upstream.proxy,
                limits=(connections.max, connections.max_idle, idle_timeout),
                upgrades=native,
            )
        if upstream.http2:
            return Http2Client(
                url,
                socket=socket,
                ssl_context=self._tls("h2", "http/1.1") if secure else None,
                http1_context=context,
                server_name=server_name,
                max_connections=connections.max,
                max_idle=connections.max_idle,
                idle_timeout=idle_timeout,
            )
        return native

    def _tls(self, *protocols: str) -> ssl.SSLContext:
        context = self._contexts.get(protocols)
        if context is None:
            tls = self._upstream.tls
            try:
                context = client_context(ca=tls.ca, cert=tls.cert, key=tls.key, verify=tls.verify, protocols=protocols)
            except OSError as error:  # SSLError is a subclass
                raise StreamproxyError(f"the files of an upstream's tls cannot be used: {error}") from None
            self._contexts[protocols] = context
        return context
