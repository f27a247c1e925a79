"""The client: one endpoint, its pool, and streams in httpx's shape."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, Self, cast

from streamproxy.client.base import ChunkSource, Sink
from streamproxy.client.connect import Connector
from streamproxy.client.connection import ClientConnection
from streamproxy.client.http1.body import BodySender
from streamproxy.client.http1.connection import Connection
from streamproxy.client.http1.request import BodyFraming, body_framing, refuse_body_fields, target_of
from streamproxy.client.http1.response import ResponseParser
from streamproxy.client.pool import Pool
from streamproxy.errors import ConnectionTerminated
from streamproxy.exchange.body import BodyReader
from streamproxy.exchange.stream import ByteStream
from streamproxy.wire.encode import request_head
from streamproxy.wire.headers import Headers
from streamproxy.wire.methods import IDEMPOTENT

_NOTHING: Final[Mapping[str, Any]] = {}


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
        self._buffer = buffer
        self._connector = connector = Connector(url, socket, ssl_context, server_name, self._build)
        resolver = connector.resolver if connector.resolver is not None and connector.resolver.changes else None
        self._pool = Pool(
            max_streams=max_connections,
            max_idle=max_idle,
            idle_timeout=idle_timeout,
            refresh=resolver.refresh if resolver is not None else None,
        )
        if resolver is not None:
            resolver.on_gone = self._pool.retire

    def _build(self, sock: Any, protocol: str | None) -> ClientConnection:
        """The protocol side of a connected socket."""
        return Connection(self._pool, asyncio.get_running_loop(), sock, self._buffer)

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
        goes out in one write with the head and can be sent again, as does a body that is all here, unless 100
        (Continue) is to be waited for. Raises ValueError for a request that can't be written.
        """
        return prepare(self._pool, self._connector, method, url, headers, content, extensions)

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


def prepare(  # the arguments of `stream`, and where to send them
    pool: Pool,
    connector: Connector,
    method: str,
    url: str,
    headers: Headers,
    content: AsyncIterator[bytes] | bytes | None,
    extensions: Mapping[str, Any] | None,
) -> Stream:
    """A request over the connections of ``pool`` and of ``connector``, as `NativeClient.stream`."""
    if extensions is None:
        extensions = _NOTHING
    target: bytes = extensions.get("target") or target_of(url)
    if content is None:
        head = request_head(method, target, headers, chunked=False)
        refuse_body_fields(headers)
    elif isinstance(content, bytes):
        head = _with_body(method, target, headers, content)
    else:
        framing = body_framing(headers)
        head = request_head(method, target, headers, chunked=framing.length is None)
        if isinstance(content, BodyReader) and not framing.expects_continue:
            data = content.take_whole() if framing.length is not None else None
            if data is not None:
                if len(data) != framing.length:
                    raise ValueError("Content-Length is not the length of the body")
                return Stream(pool, connector, method, head + data, extensions, None)
        return Stream(pool, connector, method, head, extensions, (content, framing))
    return Stream(pool, connector, method, head, extensions, None)


def _with_body(method: str, target: bytes, headers: Headers, content: bytes) -> bytes:
    """Head and body in one piece."""
    framing = body_framing(headers)
    if framing.length is None:
        headers = [*headers, (b"content-length", b"%d" % len(content))]
    elif framing.length != len(content):
        raise ValueError("Content-Length is not the length of the body")
    return request_head(method, target, headers, chunked=False) + content


class Stream(ChunkSource):
    """One request with its response: an asynchronous context manager of itself.

    Before it is entered there is no response; then there are ``status_code``, ``reason``, ``http_version``,
    ``headers``, whether the body is ``complete`` already, and the body, which is read by iterating `aiter_raw()` or as
    a `ChunkSource`.

    Between `__aenter__` and `__aexit__` it owns a place in the pool and what stands on it. Whatever goes wrong, and
    wherever it is cancelled, `_finish` gives both back, once and without waiting.

    It is everything at once because it is made for each request: an object more costs 0.2 µs, a coroutine more 0.3.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_connector",
        "_extensions",
        "_head",
        "_method",
        "_pool",
        "_sender",
        "complete",
        "http_version",
        "raw",
        "reason",
        "status_code",
    )

    status_code: int
    reason: bytes
    http_version: str
    raw: Headers
    complete: bool

    def __init__(
        self,
        pool: Pool,
        connector: Connector,
        method: str,
        head: bytes,
        extensions: Mapping[str, Any],
        body: tuple[AsyncIterator[bytes], BodyFraming] | None,
    ) -> None:
        self._pool = pool
        self._connector = connector
        self._method = method
        self._head = head
        self._extensions = extensions
        self._body = body
        self._sender: BodySender | None = None
        self._connection: Connection | None = None

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        taken: Any = self._pool.take()
        connection: Connection | None = taken
        return self.enter(connection, True) if connection is not None else self._wait_and_enter()

    async def _wait_and_enter(self) -> Self:
        connection = await self._place()
        return await self.enter(connection, connection is not None)

    async def enter(self, connection: Connection | None, idle: bool) -> Self:
        """Begin, with a place in the pool and perhaps a connection on it, which has been ``idle`` or is new."""
        self._connection = connection
        try:
            while True:
                if connection is None:
                    connection = await self._connect()
                self._send(connection)
                response = connection.response
                while response.headers is None:
                    if connection.fault is not None:
                        break
                    await connection.wait()
                else:
                    if not (idle and response.status == 408 and self._is_unasked()):
                        self._take_head(response)
                        return self
                if not (idle and self._repeatable(connection)):
                    assert connection.fault is not None
                    raise connection.fault
                self._forget(connection)
                connection, idle = None, False
        except BaseException:
            self._finish(False)
            raise

    def _take_head(self, response: ResponseParser) -> None:
        assert response.headers is not None
        self.status_code, self.reason, self.http_version = response.status, response.reason, response.http_version
        self.raw, self.complete = response.headers, response.done
        self._head = b""  # it may have a body behind it, and a stream may last

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(kind is None)

    # The response.

    @property
    def headers(self) -> Self:
        """What has the fields as ``raw``: lower-case names, in the order of the wire, duplicates apart."""
        return self

    @property
    def source(self) -> ChunkSource:
        """The body, to be read without a coroutine a chunk."""
        return self

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
        while True:
            chunk = self.ready()
            if chunk is not None:
                return chunk
            if self.ended:
                raise StopAsyncIteration
            await self.change()

    # The same as a `ChunkSource`, without a coroutine a chunk and an exception at the end.

    def ready(self) -> bytes | None:
        """The next chunk, None while there is none. Raises as the iterator."""
        connection = self._connection
        if connection is None:
            raise RuntimeError("the response is closed")
        if connection.chunks:
            return connection.take()
        if connection.fault is not None and not connection.response.done:
            raise connection.fault
        return None

    @property
    def ended(self) -> bool:
        """Whether there will be no more, when nothing is `ready`."""
        return self._connection is None or self._connection.response.done

    @property
    def trailers(self) -> Headers:
        """The trailer fields that came behind the body, once it has ended: lower-case names, unfiltered."""
        return self._connection.response.trailers if self._connection is not None else []

    def change(self) -> asyncio.Future[None]:
        """A future of the moment in which to look again, when nothing is `ready` and the response has not `ended`."""
        assert self._connection is not None
        return self._connection.wait()

    def pipe(self, sink: Sink | None) -> bool:
        """Hand chunks to ``sink`` from now on, in the read that brings them; None takes it back."""
        return self._connection is not None and self._connection.pipe(sink)

    def release(self) -> bool:
        """Leave the context manager at once, after the response's end in good order."""
        self._finish(True)
        return True

    def detach(self) -> ByteStream:
        """The connection's bytes in both directions, after 101 (Switching Protocols); only once.

        The request must have ``extensions["upgrade"]``. What came behind the head comes first. The stream lives at most
        as long as this context manager, which closes the connection when it is left; the connection is never used
        again. Raises RuntimeError when the response is not a 101.
        """
        if self._connection is None:
            raise RuntimeError("the response is closed")
        return self._connection.detach()

    # The request.

    async def _place(self) -> Connection | None:
        """Get a place in the pool; perhaps with a connection that another stream had."""
        pool = self._pool
        if pool.reserve():
            return None
        connection = cast("Connection | None", await pool.wait(_timeout(self._extensions, "pool")))
        if connection is not None and (connection.closed or connection.peer_spoke()):
            connection.abort()
            return None  # lost between two ticks of the loop; its place is ours
        return connection

    async def _connect(self) -> Connection:
        progress = self._extensions.get("progress")
        if progress is not None:
            progress("connect")
        try:
            connection = await self._connector.connect(_timeout(self._extensions, "connect"))
        except BaseException:
            self._pool.not_opened()
            raise
        self._connection = cast(Connection, connection)
        self._pool.opened(connection)
        return self._connection

    def _send(self, connection: Connection) -> None:
        """Send the head, and have the body sent."""
        extensions, body = self._extensions, self._body
        progress: Callable[[str], None] | None = extensions.get("progress")
        connection.response.begin(self._method, extensions.get("informational"), extensions.get("upgrade") is True)
        connection.ask(self._head, extensions.get("buffer"), body is None)
        if body is None:
            if progress is not None:
                progress("head")
            return
        if progress is not None:
            progress("request")
        self._sender = BodySender(connection, *body, progress)
        self._sender.start()

    def _repeatable(self, connection: Connection) -> bool:
        """Whether the request can be sent again, after a connection that had been idle has failed it.

        RFC 9112 section 9.3.1: a client may repeat an idempotent request when its connection closed before any of the
        response came, and any request of which it knows that it was never processed: one that a 408 has crossed.
        """
        if connection.response.headers is not None:
            return True
        return (
            isinstance(connection.fault, ConnectionTerminated)
            and not connection.response.read
            and self._method in IDEMPOTENT
            and self._is_unasked()
        )

    def _is_unasked(self) -> bool:
        """Whether all of the request is still here: nothing was asked of its body."""
        return self._sender is None or not self._sender.pulled

    def _forget(self, connection: Connection) -> None:
        """Give up a dead connection but not its place."""
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        connection.abort()
        self._connection = None

    def _finish(self, reuse: bool) -> None:
        connection, self._connection = self._connection, None
        if self._sender is not None:
            self._sender.cancel()
        if connection is not None:
            if reuse and connection.reusable():
                self._pool.release(connection)
                return
            connection.abort()
        self._pool.free()


def _timeout(extensions: Mapping[str, Any], name: str) -> float | None:
    timeouts = extensions.get("timeout")
    return timeouts.get(name) if timeouts else None
