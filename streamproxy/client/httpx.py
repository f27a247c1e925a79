"""The client based on httpx. It is the reference implementation, and supports egress proxies.

httpx adds Accept, Accept-Encoding, Connection and User-Agent to requests, stores cookies and sends them with later
requests, and reads proxies and credentials from the environment. A proxy must not do any of this, so requests are built
without the client's defaults and sent unchanged. The same applies to a user's own ``httpx.AsyncClient``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from streamproxy.client.base import Client
from streamproxy.client.foreign import OURS, ForeignClient
from streamproxy.errors import NotImplementedHere
from streamproxy.wire.headers import Headers
from streamproxy.wire.methods import IDEMPOTENT

_CLOSING = "http11.response_closed.started"  # before the connection goes back into the pool
_PHASES = {
    "connection.connect_tcp.started": "connect",
    "connection.connect_unix_socket.started": "connect",
    "http11.send_request_headers.complete": "request",
    "http11.send_request_body.complete": "head",
    "http2.send_request_headers.complete": "request",
    "http2.send_request_body.complete": "head",
}


class HttpxClient(ForeignClient):
    """An ``AsyncClient`` of httpx or httpx2, used without its defaults.

    ``server_name`` is the name that TLS requests and verifies, instead of the URL's host. If ``owned`` is set, `aclose`
    closes the client. Upgrade requests are sent by ``upgrades``, which `aclose` closes too; they are refused if it is
    None.
    """

    def __init__(
        self, client: Any, *, server_name: str | None = None, owned: bool = False, upgrades: Client | None = None
    ) -> None:
        super().__init__(client)
        self._server_name = server_name
        self._owned = owned
        self._upgrades = upgrades
        # httpx and httpx2 accept only their own request class.
        self._request = type(client.build_request("GET", "http://localhost/"))
        self._urls: dict[str, Any] = {}

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        content: AsyncIterator[bytes] | None,
        extensions: Mapping[str, Any],
    ) -> AbstractAsyncContextManager[Any]:
        """See `streamproxy.client.base.Client.stream`. Raises NotImplementedHere for an unsupported upgrade."""
        if extensions.get("upgrade"):
            if self._upgrades is None:
                raise NotImplementedHere("This upstream's client cannot carry WebSocket")
            return self._upgrades.stream(method, url, headers=headers, content=content, extensions=extensions)
        attempt = _Attempt(extensions.get("progress"))
        passed = {name: value for name, value in extensions.items() if name not in OURS} | {"trace": attempt.trace}
        if self._server_name is not None:
            passed["sni_hostname"] = self._server_name
        parsed = self._urls.get(url)
        if parsed is None:
            parsed = self._urls[url] = type(self._client.build_request("GET", url).url)(url)

        def build() -> Any:
            request = self._request(method, parsed, headers=headers, content=content, extensions=passed)
            request.method = method  # in capitals otherwise; methods are case-sensitive (RFC 9110 section 9.1)
            return request

        replayable = content is None and method in IDEMPOTENT
        return self._guard(method, _send(self._client, build, attempt, replayable=replayable))

    async def aclose(self) -> None:
        """Closes the client and its connections if they are owned."""
        if self._owned:
            await self._client.aclose()
        if self._upgrades is not None:
            await self._upgrades.aclose()


class _Attempt:
    """Follows one request through httpcore's trace events."""

    __slots__ = ("connected", "progress", "response")

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.progress = progress
        self.connected = False  # whether a new connection was made for it
        self.response: Any = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == _CLOSING and self.response is not None and _has_rest(self.response):
            await self.response.extensions["network_stream"].aclose()
        phase = _PHASES.get(event)
        if phase is not None:
            if phase == "connect":
                self.connected = True
            if self.progress is not None:
                self.progress(phase)


@asynccontextmanager
async def _send(client: Any, build: Callable[[], Any], attempt: _Attempt, *, replayable: bool) -> AsyncIterator[Any]:
    try:
        response = await client.send(build(), stream=True, auth=None, follow_redirects=False)
    except Exception as error:
        # The peer closed a pooled connection at the same moment. A client may then repeat an idempotent request on
        # another connection (RFC 9112 section 9.3.1).
        dead = type(error).__name__ in ("ReadError", "WriteError") or "disconnected" in str(error)
        if attempt.connected or not replayable or not dead:
            raise
        response = await client.send(build(), stream=True, auth=None, follow_redirects=False)
    attempt.response = response
    try:
        yield response
    finally:
        await response.aclose()


def _has_rest(response: Any) -> bool:
    """Whether further bytes followed the end of a response in the same read.

    httpcore leaves them in the parser of the connection that it returns to its pool, where they would become the head
    of the next response, which may belong to another client. No public interface shows this. The access to the parser
    works with httpcore 1 and httpcore2; with others this returns False.
    """
    part = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state"):
        part = getattr(part, name, None)
    rest: tuple[bytes, bool] = getattr(part, "trailing_data", (b"", False))
    return bool(rest[0])


class _Closer:
    """Makes a pool close all connections that it removed, even if the request that found them is cancelled.

    httpcore first removes dead and surplus connections from its pool and then closes them one by one, within a shield
    that holds back only anyio's cancellations. If its task is cancelled meanwhile, the remaining connections stay open
    and nothing refers to them any more. A pool that lacks this function of httpcore is left as it is.
    """

    def __init__(self, pool: Any) -> None:
        self._close = getattr(pool, "_close_connections", None)
        self._closing: set[asyncio.Task[None]] = set()
        if self._close is not None:
            pool._close_connections = self

    async def __call__(self, connections: list[Any]) -> None:
        if connections and self._close is not None:
            task = asyncio.get_running_loop().create_task(self._close(connections), name="close connections")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            await asyncio.shield(task)


def is_httpx(client: object) -> bool:
    """Whether ``client`` is an AsyncClient of httpx or httpx2, or of a subclass."""
    return any(
        cls.__name__ == "AsyncClient" and cls.__module__.partition(".")[0] in ("httpx", "httpx2")
        for cls in type(client).__mro__
    )


def build_httpx(
    *,
    verify: ssl.SSLContext | None,
    server_name: str | None,
    socket: str | None,
    proxy: str | None,
    limits: tuple[int, int, float],
    upgrades: Client | None = None,
) -> HttpxClient:
    """Returns an owned client for one endpoint.

    ``verify`` is the context for https, or None for http. ``limits`` are the maximum connections, the maximum idle
    connections, and the seconds that one may be idle. ``socket`` is the path of a Unix socket, and ``proxy`` the URL of
    an egress HTTP or SOCKS proxy. The environment is not read.
    """
    import httpx2  # on first use: few upstreams need it, and every command would wait for it

    transport = httpx2.AsyncHTTPTransport(
        verify=verify or False,  # http verifies nothing, so no CA certificates are loaded
        trust_env=False,
        uds=socket,
        proxy=proxy,
        limits=httpx2.Limits(
            max_connections=limits[0], max_keepalive_connections=limits[1], keepalive_expiry=limits[2]
        ),
    )
    _Closer(getattr(transport, "_pool", None))
    client = httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)
    return HttpxClient(client, server_name=server_name, owned=True, upgrades=upgrades)
