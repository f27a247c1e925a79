"""One attempt at one endpoint: the request on its way, and its response until the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, cast

from streamproxy.client.base import Response
from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.outlier import FAILED_STATUSES, failed_by
from streamproxy.upstream.roster import Roster
from streamproxy.wire.headers import Headers


class UpstreamRequest:
    """A request on its way to an endpoint, with the headers made for that one (its Host among them)."""

    __slots__ = ("content", "extensions", "headers", "method")

    def __init__(
        self, method: str, headers: Headers, content: AsyncIterator[bytes] | None, extensions: Mapping[str, Any]
    ) -> None:
        self.method = method
        self.headers = headers
        self.content = content
        self.extensions = extensions


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

    # The client's own coroutine, and none around it.
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        assert self._stream is not None
        self._endpoint.streams -= 1
        return cast("Coroutine[Any, Any, None]", self._stream.__aexit__(kind, error, trace))


class Watched(Opened):
    """The same where there are several endpoints: the roster hears how each attempt went."""

    __slots__ = ("_roster",)

    def __init__(self, roster: Roster, endpoint: Endpoint, request: UpstreamRequest, exchange: Exchange) -> None:
        super().__init__(endpoint, request, exchange)
        self._roster = roster

    async def __aenter__(self) -> Response:
        try:
            response = await super().__aenter__()
        except BaseException as error:
            self._judge(error)
            self._roster.ended(self._endpoint)
            raise
        if response.status_code in FAILED_STATUSES:
            self._roster.failed(self._endpoint)
        else:
            self._roster.succeeded(self._endpoint)
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            if error is not None:
                self._judge(error)
            self._roster.ended(self._endpoint)

    def _judge(self, error: BaseException) -> None:
        if failed_by(error, self._exchange):
            self._roster.failed(self._endpoint)
