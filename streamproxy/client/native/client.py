"""The client: one endpoint, its pool, and streams in httpx's shape."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from streamproxy.client.native.body import BodySender
from streamproxy.client.native.connect import Connector
from streamproxy.client.native.connection import Connection
from streamproxy.client.native.pool import Pool
from streamproxy.client.native.request import (
    IDEMPOTENT,
    BodyFraming,
    body_framing,
    encode_head,
    refuse_body_fields,
    target_of,
)
from streamproxy.errors import ConnectionTerminated
from streamproxy.wire.headers import Headers


class NativeClient:
    """HTTP/1.1 to one endpoint, over the loop's transports; the `Client` of `streamproxy.client.base`.

    ``url`` is the endpoint's base URL, http or https; ``socket`` the path of a unix socket to connect to instead of
    the URL's host. ``ssl_context`` and ``server_name`` (the URL's host by default) are for https. At most
    ``max_connections`` are open, at most ``max_idle`` of them wait for a request, each for ``idle_timeout`` seconds.
    A stream whose reader is slow holds ``buffer`` bytes and one read. Raises ValueError for another URL.
    """

    def __init__(
        self,
        url: str,
        *,
        socket: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        max_connections: int = 1000,
        max_idle: int = 100,
        idle_timeout: float = 30.0,
        buffer: int = 65536,
    ) -> None:
        self._connector = Connector(url, socket, ssl_context, server_name, buffer)
        self._pool = Pool(max_connections=max_connections, max_idle=max_idle, idle_timeout=idle_timeout)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        content: AsyncIterator[bytes] | bytes | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> Stream:
        """A request, to be entered with ``async with``; nothing is sent before.

        As `streamproxy.client.base.Client.stream`, and beyond it: ``content`` may be the whole body as bytes, which
        goes out in one write with the head and can be sent again; ``extensions["informational"]`` is called with the
        status and the fields of each 1xx response but 100. Raises ValueError for a request that can't be written.
        """
        return Stream(self._pool, self._connector, _Request(method, url, headers, content, extensions or {}))

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return self._pool.idle

    @property
    def active(self) -> int:
        """How many connections have a request, or are being made for one."""
        return self._pool.active

    async def aclose(self) -> None:
        """Close all connections; streams that still run fail as if the upstream had closed."""
        self._connector.close()
        await self._pool.aclose()


class _Request:
    """A request, encoded."""

    __slots__ = ("content", "extensions", "framing", "head", "method", "progress", "replayable")

    def __init__(
        self,
        method: str,
        url: str,
        headers: Headers,
        content: AsyncIterator[bytes] | bytes | None,
        extensions: Mapping[str, Any],
    ) -> None:
        target: bytes = extensions.get("target") or target_of(url)
        self.method = method
        self.extensions = extensions
        self.progress: Callable[[str], None] | None = extensions.get("progress")
        self.framing: BodyFraming | None = None
        self.content: AsyncIterator[bytes] | None = None
        if content is None:
            self.head = encode_head(method, target, headers, chunked=False)
            refuse_body_fields(self.head, headers)
        elif isinstance(content, bytes):
            self.head = _with_body(method, target, headers, content)
        else:
            self.content = content
            self.framing = framing = body_framing(headers)
            self.head = encode_head(method, target, headers, chunked=framing.length is None)
        # Known before anything is sent: what a connection that died while idle may be tried again for.
        self.replayable = method in IDEMPOTENT


def _with_body(method: str, target: bytes, headers: Headers, content: bytes) -> bytes:
    """Head and body in one piece."""
    framing = body_framing(headers)
    if framing.length is None:
        headers = [*headers, (b"content-length", b"%d" % len(content))]
    elif framing.length != len(content):
        raise ValueError("Content-Length is not the length of the body")
    return encode_head(method, target, headers, chunked=False) + content


class Stream:
    """One request with its response, as an asynchronous context manager.

    Between `__aenter__` and `__aexit__` it owns a place in the pool and what stands on it. Whatever goes wrong, and
    wherever it is cancelled, `_finish` gives both back, once and without waiting.
    """

    __slots__ = ("_connection", "_connector", "_pool", "_request", "_response", "_sender", "_task")

    def __init__(self, pool: Pool, connector: Connector, request: _Request) -> None:
        self._pool = pool
        self._connector = connector
        self._request = request
        self._connection: Connection | None = None
        self._response: NativeResponse | None = None
        self._sender: BodySender | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> NativeResponse:
        pool, request = self._pool, self._request
        careful = request.content is not None or not request.replayable
        connection = pool.take(careful=careful)
        if connection is None and not pool.reserve():
            connection = await pool.wait(_timeout(request.extensions, "pool"))
            if connection is not None and (connection.closed or (careful and connection.peer_closed())):
                connection.abort()
                connection = None  # lost between two ticks of the loop; its place is ours
        self._connection = connection
        try:
            if connection is not None:
                try:
                    return await self._exchange(connection)
                except ConnectionTerminated:
                    if not self._untouched(connection):
                        raise
                    self._forget(connection)
            return await self._exchange(await self._connect())
        except BaseException:
            self._finish(reuse=False)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(reuse=kind is None)

    async def _connect(self) -> Connection:
        request = self._request
        if request.progress is not None:
            request.progress("connect")
        self._connection = connection = await self._connector.connect(
            self._pool, _timeout(request.extensions, "connect")
        )
        self._pool.opened(connection)
        return connection

    async def _exchange(self, connection: Connection) -> NativeResponse:
        """Send the request and wait for the head of its response."""
        request, progress = self._request, self._request.progress
        connection.begin(request.method, request.extensions.get("informational"))
        connection.write(request.head)
        if progress is not None:
            progress("request")
        if request.content is None or request.framing is None:
            connection.sent = True
            if progress is not None:
                progress("head")
        else:
            self._sender = sender = BodySender(connection, request.content, request.framing, progress)
            self._task = asyncio.get_running_loop().create_task(sender.run())
        while connection.headers is None:
            if connection.fault is not None:
                raise connection.fault
            await connection.wait()
        self._response = response = NativeResponse(connection, connection.status, connection.headers)
        return response

    def _untouched(self, connection: Connection) -> bool:
        """Whether the upstream can't have done anything with what was sent on a connection that had been idle.

        RFC 9112 section 9.3.1: a client may repeat an idempotent request when its connection closed before any of the
        response came, and any request of which it knows that it was never processed.
        """
        if connection.read:
            return False
        return self._request.replayable and (self._sender is None or not self._sender.pulled)

    def _forget(self, connection: Connection) -> None:
        """Give up a dead connection but not its place."""
        if self._task is not None:
            self._task.cancel()
            self._task = self._sender = None
        connection.abort()
        self._connection = None

    def _finish(self, *, reuse: bool) -> None:
        connection, self._connection = self._connection, None
        if self._response is not None:
            self._response.detach()
        if self._task is not None and not self._task.done():
            self._task.cancel()
        if connection is not None and reuse and connection.reusable:
            self._pool.release(connection)
            return
        if connection is not None:
            connection.abort()
        self._pool.free()


class RawHeaders:
    """The fields of a response as they came: lower-case names, in order, duplicates apart."""

    __slots__ = ("raw",)

    def __init__(self, raw: Headers) -> None:
        self.raw = raw


class NativeResponse:
    """A response whose head has come; its body is read by iterating `aiter_raw()`."""

    __slots__ = ("_connection", "headers", "status_code")

    def __init__(self, connection: Connection, status: int, headers: Headers) -> None:
        self._connection: Connection | None = connection
        self.status_code = status
        self.headers = RawHeaders(headers)

    def aiter_raw(self) -> Self:
        """The body as it comes, one chunk for each read where the reader keeps up.

        Raises ResponseIncomplete when it ends short, and whatever the request's own ``content`` raised. A cancelled
        wait loses nothing. There is one body: a second iterator goes on where the first is.
        """
        return self

    def __aiter__(self) -> Self:
        return self

    # A coroutine: an asynchronous generator costs the same 1.5 µs a chunk, and has to be closed.
    async def __anext__(self) -> bytes:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the response is closed")
        while not connection.chunks:
            if connection.done:
                raise StopAsyncIteration
            if connection.fault is not None:
                raise connection.fault
            await connection.wait()
            if self._connection is None:
                raise RuntimeError("the response was closed while it was read")
        return connection.take()

    def detach(self) -> None:
        """The connection belongs to another request now."""
        self._connection = None


def _timeout(extensions: Mapping[str, Any], name: str) -> float | None:
    timeouts = extensions.get("timeout")
    return timeouts.get(name) if timeouts else None
