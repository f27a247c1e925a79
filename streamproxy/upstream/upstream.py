"""An upstream and its endpoints.

`Upstream.open` is the way of every request to an endpoint: pick one, send the request through its client, and hold
the endpoint's place until the response has been relayed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from streamproxy.client.base import Client, Response
from streamproxy.exchange import Exchange
from streamproxy.wire.headers import Headers


class Endpoint:
    """One address of an upstream: its URL, the client that reaches it, and how many exchanges it has now."""

    __slots__ = ("authority", "client", "streams", "up", "url")

    def __init__(self, url: str, client: Client, *, authority: bytes) -> None:
        self.url = url
        self.client = client
        self.authority = authority  # what Host says to it
        self.streams = 0
        self.up = True

    @property
    def idle(self) -> int:
        """Connections that wait for a request; 0 where the client does not tell."""
        return int(getattr(self.client, "idle", 0))

    @property
    def active(self) -> int:
        """Connections with a request on them; the exchanges where the client does not tell."""
        return int(getattr(self.client, "active", self.streams))


class UpstreamRequest:
    """A request on its way to whichever endpoint is picked.

    ``headers`` come without Host where ``host`` is None: the endpoint's own authority is sent then.
    """

    __slots__ = ("content", "extensions", "headers", "method")

    def __init__(
        self, method: str, headers: Headers, content: AsyncIterator[bytes] | None, extensions: Mapping[str, Any]
    ) -> None:
        self.method = method
        self.headers = headers
        self.content = content
        self.extensions = extensions


class Upstream:
    """A named group of endpoints."""

    def __init__(self, name: str, endpoints: Sequence[Endpoint]) -> None:
        self.name = name
        self.endpoints = list(endpoints)

    def pick(self) -> Endpoint:
        """The endpoint for the next request."""
        return self.endpoints[0]

    def open(self, endpoint: Endpoint, request: UpstreamRequest, exchange: Exchange) -> Opened:
        """Send a request; gives an asynchronous context manager of the response. Raises an ExchangeError."""
        return Opened(endpoint, request, exchange)

    async def aclose(self) -> None:
        """Close the clients of all endpoints."""
        for endpoint in self.endpoints:
            await endpoint.client.aclose()


class Opened:
    """A request that was sent to an endpoint, whose place it holds until the end of the ``async with``."""

    __slots__ = ("_endpoint", "_exchange", "_request", "_stream")

    def __init__(self, endpoint: Endpoint, request: UpstreamRequest, exchange: Exchange) -> None:
        self._endpoint = endpoint
        self._request = request
        self._exchange = exchange
        self._stream: AbstractAsyncContextManager[Response] | None = None

    async def __aenter__(self) -> Response:
        endpoint, request = self._endpoint, self._request
        self._exchange.endpoint = endpoint.url
        endpoint.streams += 1
        try:
            self._stream = endpoint.client.stream(
                request.method,
                endpoint.url,
                headers=request.headers,
                content=request.content,
                extensions=request.extensions,
            )
            return await self._stream.__aenter__()
        except BaseException:
            endpoint.streams -= 1
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        try:
            await self._stream.__aexit__(kind, error, trace)
        finally:
            self._endpoint.streams -= 1
