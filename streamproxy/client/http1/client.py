"""The HTTP/1.1 client of one endpoint, and its streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, cast

from streamproxy.client.base import Sink
from streamproxy.client.connect import Connector
from streamproxy.client.connection import ClientConnection
from streamproxy.client.http1.body import BodySender
from streamproxy.client.http1.connection import Connection
from streamproxy.client.http1.request import BodyFraming, body_framing, target_of
from streamproxy.client.pool import Pool
from streamproxy.client.stream import ResponseStream, timeout_of
from streamproxy.errors import ConnectionTerminated
from streamproxy.exchange.body import BodyReader
from streamproxy.exchange.stream import ByteStream
from streamproxy.wire.encode import request_head
from streamproxy.wire.headers import Headers
from streamproxy.wire.methods import IDEMPOTENT
from streamproxy.wire.response_fields import ResponseFields


class NativeClient:
    """An HTTP/1.1 client for one endpoint; implements `streamproxy.client.base.Client`.

    ``url`` is the endpoint's base URL, http or https. ``socket`` is the path of a Unix socket to connect to instead of
    the URL's host. ``ssl_context`` and ``server_name`` (by default the URL's host) apply to https. At most
    ``max_connections`` are open, and at most ``max_idle`` of them are idle, each for ``idle_timeout`` seconds. A stream
    with a slow reader holds at most ``buffer`` bytes and one read. Raises ValueError for an invalid URL.
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
        """Creates the protocol of a connected socket."""
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
        """Returns a request, which is sent when it is entered with ``async with``.

        See `streamproxy.client.base.Client.stream`. In addition, ``content`` may be the whole body as bytes. Such a
        body is written together with the head, unless 100 (Continue) must be waited for, and it can be sent again.
        Raises ValueError for an invalid request.
        """
        return Stream().prepare(self._pool, self._connector, method, url, headers, content, extensions)

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return self._pool.idle

    @property
    def active(self) -> int:
        """The number of connections with a request, including those that are being made."""
        return self._pool.active

    async def aclose(self) -> None:
        """Closes all connections; running streams fail as if the upstream had closed."""
        self._connector.close()
        await self._pool.aclose()


def _with_body(method: str, target: bytes, headers: Headers, content: bytes) -> bytes:
    """Returns head and body in one piece."""
    framing = body_framing(headers)
    if framing.length is None:
        headers = [*headers, (b"content-length", b"%d" % len(content))]
    elif framing.length != len(content):
        raise ValueError("Content-Length is not the length of the body")
    return request_head(method, target, headers, True, False) + content


class Stream(ResponseStream):
    """A request with its response: an asynchronous context manager that returns itself.

    `prepare` makes the request. Once it is entered, the response has ``status_code``, ``reason``, ``http_version`` and
    ``headers``. ``complete`` is whether the whole body has arrived. The body is read by iterating `aiter_raw()`, or as
    a `ChunkSource`.

    Between `__aenter__` and `__aexit__` it owns a place in the pool and the connection there. After any error or
    cancellation, `_finish` returns both once, without waiting.

    It combines request, response and body in one object because it is created for each request.
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
    )

    def prepare(  # the arguments of `stream`, and the connections to use
        self,
        pool: Pool,
        connector: Connector,
        method: str,
        url: str,
        headers: Headers,
        content: AsyncIterator[bytes] | bytes | None,
        extensions: Mapping[str, Any] | None,
    ) -> Self:
        """Makes the request over connections of ``pool`` or new ones of ``connector``; see `NativeClient.stream`."""
        # A dictionary, since compiled code reads one faster than any other mapping.
        own: dict[str, Any] = extensions if isinstance(extensions, dict) else dict(extensions or {})
        target: bytes = own.get("target") or target_of(url)
        self._extensions = own
        self._pool = pool
        self._connector = connector
        self._method = method
        self._body: tuple[AsyncIterator[bytes], BodyFraming] | None = None  # that is sent after the head
        self._sender: BodySender | None = None
        self._connection: Connection | None = None
        if content is None:
            self._head = request_head(method, target, headers, False, False)
        elif isinstance(content, bytes):
            self._head = _with_body(method, target, headers, content)
        else:
            framing = body_framing(headers)
            head = request_head(method, target, headers, True, framing.length is None)
            if isinstance(content, BodyReader) and content.body.begun:
                framing = BodyFraming(framing.length, False)
            data = None
            if isinstance(content, BodyReader) and not framing.expects_continue and framing.length is not None:
                data = content.take_whole()
            if data is None:
                self._body = content, framing
            elif len(data) != framing.length:
                raise ValueError("Content-Length is not the length of the body")
            self._head = head + data if data is not None else head
        return self

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        taken: Any = self._pool.take()
        connection: Connection | None = taken
        return self.enter(connection, True) if connection is not None else self._wait_and_enter()

    async def _wait_and_enter(self) -> Self:
        connection = await self._place()
        return await self.enter(connection, connection is not None)

    async def enter(self, connection: Connection | None, idle: bool) -> Self:
        """Starts with a place in the pool, and perhaps a connection there, which was ``idle`` or is new."""
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
                        self.status_code, self.reason = response.status, response.reason
                        self.http_version, self.raw = response.http_version, response.headers
                        self.complete = response.done
                        self._head = b""  # a body may follow, and a stream may take long
                        return self
                if not (idle and self._repeatable(connection)):
                    assert connection.fault is not None
                    raise connection.fault
                self._forget(connection)
                connection, idle = None, False
        except BaseException:
            self._finish(False)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(kind is None)

    # The response.

    def fields(self) -> ResponseFields:
        """Returns the fields to pass on, which the caller may change."""
        known = self._connection.response.known if self._connection is not None else None
        return known.fields() if known is not None else ResponseStream.fields(self)

    def ready(self) -> bytes | None:
        """Returns the next chunk, or None if none is available. Raises as the iterator."""
        connection = self._connection
        if connection is None:
            raise RuntimeError("the response is closed")
        if connection.chunks:
            return connection.take()
        if connection.fault is not None and not connection.response.done:
            raise connection.fault
        return None

    def rest(self) -> bytes:
        """Returns all that is `ready`, as one piece; empty if nothing is. Raises as the iterator."""
        connection = self._connection
        if connection is None or not connection.response.done:
            return ResponseStream.rest(self)
        chunks = connection.chunks
        if not chunks:
            return b""
        body = b"".join(chunks)
        chunks.clear()
        return body

    @property
    def ended(self) -> bool:
        """Whether the body has ended, if nothing is `ready`."""
        return self._connection is None or self._connection.response.done

    @property
    def trailers(self) -> Headers:
        """The trailer fields after the body, once it has ended: lower-case names, unfiltered."""
        return self._connection.response.trailers if self._connection is not None else []

    def change(self) -> asyncio.Future[None]:
        """Returns a future to await before trying again, if nothing is `ready` and the body has not `ended`."""
        assert self._connection is not None
        return self._connection.wait()

    def pipe(self, sink: Sink | None) -> bool:
        """Passes chunks to ``sink`` from now on, in the callback of the read; None stops it."""
        return self._connection is not None and self._connection.pipe(sink)

    def release(self) -> bool:
        """Leave the context manager at once, after the response's end in good order."""
        connection = self._connection
        if self._sender is None and connection is not None and connection.reusable():
            self._connection = None
            self._pool.release(connection)
        else:
            self._finish(True)
        return True

    def detach(self) -> ByteStream:
        """Returns the connection as a stream of bytes, after 101 (Switching Protocols); may be called once.

        The request must have ``extensions["upgrade"]``. Bytes that followed the head come first. Leaving this context
        manager closes the connection, which is never used again. Raises RuntimeError if the response is not a 101.
        """
        if self._connection is None:
            raise RuntimeError("the response is closed")
        return self._connection.detach()

    # The request.

    async def _place(self) -> Connection | None:
        """Acquires a place in the pool, perhaps with an idle connection."""
        pool = self._pool
        if pool.reserve():
            return None
        connection = cast("Connection | None", await pool.wait(timeout_of(self._extensions, "pool")))
        if connection is not None and (connection.closed or connection.peer_spoke()):
            connection.abort()
            return None  # it was lost meanwhile; its place belongs to this stream
        return connection

    async def _connect(self) -> Connection:
        progress = self._extensions.get("progress")
        if progress is not None:
            progress("connect")
        try:
            connection = await self._connector.connect(timeout_of(self._extensions, "connect"))
        except BaseException:
            self._pool.not_opened()
            raise
        self._connection = cast(Connection, connection)
        self._pool.opened(connection)
        return self._connection

    def _send(self, connection: Connection) -> None:
        """Sends the head, and starts to send the body."""
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
        """Whether the request can be sent again after it failed on a connection that had been idle.

        A client may repeat an idempotent request if the connection closed before any byte of the response, and any
        request that certainly was not processed, such as one that crossed a 408 (RFC 9112 section 9.3.1).
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
        """Whether the whole request can be sent again: nothing was requested from its body, or all of that is held."""
        if self._sender is None or not self._sender.pulled:
            return True
        content = self._body[0] if self._body is not None else None
        return isinstance(content, BodyReader) and content.body.repeatable

    def _forget(self, connection: Connection) -> None:
        """Gives up a dead connection, but keeps its place."""
        if self._sender is not None:
            self._sender.cancel()
            if self._sender.pulled and self._body is not None:
                content, framing = self._body
                if isinstance(content, BodyReader):
                    self._body = content.body.attempt(), BodyFraming(framing.length, False)
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
