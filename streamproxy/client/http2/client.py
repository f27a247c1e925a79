"""The client: one endpoint, its pool, and streams in httpx's shape.

An https endpoint chooses HTTP/2 or HTTP/1.1 by ALPN, each time a connection is made; an http endpoint is spoken to in
HTTP/2 from the first byte (RFC 9113 section 3.3).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Final

from streamproxy.client.base import Response, Sink
from streamproxy.client.connect import Connector
from streamproxy.client.connection import ClientConnection
from streamproxy.client.http1.client import NativeClient, Stream
from streamproxy.client.http1.connection import Connection
from streamproxy.client.http1.request import BodyFraming, body_framing, refuse_body_fields, target_of
from streamproxy.client.http2.body import BodySender
from streamproxy.client.http2.connection import Http2Connection
from streamproxy.client.http2.liveness import ANSWER, SILENCE
from streamproxy.client.http2.state import ResponseState
from streamproxy.client.pool import Pool
from streamproxy.client.stream import ResponseStream, timeout_of
from streamproxy.errors import ConnectionTerminated
from streamproxy.exchange.body import BodyReader
from streamproxy.wire.headers import Headers
from streamproxy.wire.http2.head import request_fields
from streamproxy.wire.methods import IDEMPOTENT

# How often a request that was not processed is sent, all in all.
_MOST_SENDS: Final = 4
_NO_BODY: Final = BodyFraming(0, False)

Content = AsyncIterator[bytes] | bytes | None


class Http2Client:
    """HTTP/2 to one endpoint, over the loop's transports; the `Client` of `streamproxy.client.base`.

    The arguments are those of `NativeClient`: ``max_connections`` is how many streams there may be at once. The
    ``ssl_context`` offers h2 and http/1.1 by ALPN, ``http1_context`` the latter alone. After ``silence`` seconds
    without a byte an upstream is asked for a sign of life, and has ``answer`` seconds for it.

    ``http1`` is a client of the same endpoint that speaks HTTP/1.1 only, on connections of its own. It serves requests
    that want to switch protocols.
    """

    def __init__(
        self,
        url: str,
        *,
        socket: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        http1_context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        max_connections: int = 1000,
        max_idle: int = 100,
        idle_timeout: float = 30.0,
        buffer: int = 65536,
        silence: float = SILENCE,
        answer: float = ANSWER,
    ) -> None:
        self._buffer = buffer
        self._liveness = (silence, answer)
        self.secure = url.startswith("https:")
        self.connector = Connector(url, socket, ssl_context, server_name, self._build)
        self.http1_connector = Connector(url, socket, http1_context or ssl_context, server_name, self._build_http1)
        resolvers = [one.resolver for one in (self.connector, self.http1_connector)]
        resolver = resolvers[0] if resolvers[0] is not None and resolvers[0].changes else None
        self.pool = Pool(
            max_streams=max_connections,
            max_idle=max_idle,
            idle_timeout=idle_timeout,
            may_share=True,
            refresh=resolver.refresh if resolver is not None else None,
        )
        if resolver is not None:
            resolver.on_gone = self.pool.retire
        self.http1 = NativeClient(
            url,
            socket=socket,
            ssl_context=http1_context or ssl_context,
            server_name=server_name,
            max_connections=max_connections,
            max_idle=max_idle,
            idle_timeout=idle_timeout,
            buffer=buffer,
        )

    def _build(self, sock: Any, protocol: str | None) -> ClientConnection:
        """The protocol side of a connected socket."""
        if self.secure and protocol != "h2":
            return self._build_http1(sock, protocol)
        return Http2Connection(self.pool, asyncio.get_running_loop(), sock, self._liveness[0], self._liveness[1])

    def _build_http1(self, sock: Any, protocol: str | None) -> ClientConnection:
        return Connection(self.pool, asyncio.get_running_loop(), sock, self._buffer)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        content: Content = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> Http2Stream | Stream:
        """A request, to be entered with ``async with``; nothing is sent before.

        As `NativeClient.stream`; what ``async with`` yields is a response over whichever protocol the upstream chose.
        ``extensions["trailers"]`` is called when the body has ended, and returns the fields to send behind it. Raises
        ValueError for a request that can't be written.
        """
        if extensions is not None and extensions.get("upgrade"):
            return self.http1.stream(method, url, headers=headers, content=content, extensions=extensions)
        return Http2Stream(self, (method, url, headers, content), extensions or {})

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return self.pool.idle + self.http1.idle

    @property
    def active(self) -> int:
        """How many requests have a place, on a connection or on one that is being made."""
        return self.pool.active + self.http1.active

    async def aclose(self) -> None:
        """Close all connections; streams that still run fail as if the upstream had closed."""
        self.connector.close()
        self.http1_connector.close()
        await self.http1.aclose()
        await self.pool.aclose()


class Http2Stream(ResponseStream):
    """One request with its response: an asynchronous context manager of itself, or of an HTTP/1.1 `Stream`.

    Between `__aenter__` and `__aexit__` it owns a place in the pool and the stream on it. Whatever goes wrong, and
    wherever it is cancelled, `_finish` gives both back, once and without waiting.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_content",
        "_extensions",
        "_fields",
        "_framing",
        "_inner",
        "_request",
        "_sender",
        "_state",
    )

    def __init__(
        self, client: Http2Client, request: tuple[str, str, Headers, Content], extensions: Mapping[str, Any]
    ) -> None:
        method, url, headers, content = request
        target: bytes = extensions.get("target") or target_of(url)
        self._framing = _NO_BODY
        if content is None:
            refuse_body_fields(headers)
        else:
            self._framing = body_framing(headers)
            if isinstance(content, BodyReader) and content.body.begun:
                self._framing = BodyFraming(self._framing.length, False)
            if isinstance(content, BodyReader) and self._framing.length is not None:
                trailers = extensions.get("trailers")
                if not self._framing.expects_continue and (trailers is None or not trailers()):
                    data = content.take_whole()
                    content = content if data is None else data
            if isinstance(content, bytes) and self._framing.length not in (None, len(content)):
                raise ValueError("Content-Length is not the length of the body")
        self._fields = request_fields(method, b"https" if client.secure else b"http", target, headers)
        self._client = client
        self._request: tuple[str, str, Headers] = (method, url, headers)
        self._content: Content = content
        self._extensions = extensions
        self._connection: Http2Connection | None = None
        self._state: ResponseState | None = None
        self._sender: BodySender | None = None
        self._inner: Stream | None = None
        self.reason = b""
        self.http_version = "2"

    async def __aenter__(self) -> Response:
        for last in range(1 - _MOST_SENDS, 1):
            connection, idle = await self._acquire()
            if isinstance(connection, Connection):
                return await self._speak_http1(connection, idle)
            assert isinstance(connection, Http2Connection)
            self._connection = connection
            try:
                state = self._send(connection)
                while state.headers is None and state.fault is None:
                    await connection.wait(state)
            except BaseException:
                self._finish()
                raise
            if state.headers is not None:
                self.status_code, self.raw, self.complete = state.status, state.headers, state.done
                self._content, self._fields = None, []  # a stream may last
                return self
            again = last < 0 and self._repeatable(state, idle)
            fault = state.fault
            self._finish()
            if not again:
                assert fault is not None
                raise fault
        raise AssertionError  # the last turn of the loop returns or raises

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.__aexit__(kind, error, trace)
        else:
            self._finish()

    # The response.

    def ready(self) -> bytes | None:
        """The next chunk, None while there is none. Raises as the iterator."""
        state = self._state
        if state is None:
            raise RuntimeError("the response is closed")
        if state.chunks:
            return state.take()
        if state.fault is not None:
            raise state.fault
        return None

    @property
    def ended(self) -> bool:
        """Whether there will be no more, when nothing is `ready`."""
        return self._state is None or self._state.done

    @property
    def trailers(self) -> Headers:
        """The trailer fields that came behind the body, once it has ended: lower-case names, unfiltered."""
        return self._state.trailers if self._state is not None else []

    def change(self) -> asyncio.Future[None]:
        """A future of the moment in which to look again, when nothing is `ready` and the response has not `ended`."""
        assert self._connection is not None
        assert self._state is not None
        return self._connection.wait(self._state)

    def pipe(self, sink: Sink | None) -> bool:
        """Hand chunks to ``sink`` from now on, in the read that brings them; None takes it back."""
        state, connection = self._state, self._connection
        if state is None or connection is None:
            return False
        if sink is not None:
            if state.chunks or state.done or state.fault is not None:
                return False
            connection.passed_on(state)
        state.sink = sink
        return True

    # The request.

    async def _acquire(self) -> tuple[ClientConnection, bool]:
        """A connection with a place on it, and whether it was there before."""
        pool = self._client.pool
        connection = pool.take()
        if connection is None and not pool.reserve():
            connection = await pool.wait(timeout_of(self._extensions, "pool"))
            if connection is not None and (connection.closed or (connection.in_use == 1 and connection.peer_spoke())):
                connection.in_use -= 1  # lost between two ticks of the loop; its place is ours
                if not connection.in_use:
                    connection.abort()
                connection = None
        if connection is not None:
            return connection, True
        return await self._connect(pool), False

    async def _connect(self, pool: Pool) -> ClientConnection:
        progress = self._extensions.get("progress")
        try:
            if progress is not None:
                progress("connect")
            connection = await self._client.connector.connect(timeout_of(self._extensions, "connect"))
        except BaseException:
            pool.not_opened()
            pool.free()
            raise
        pool.opened(connection)
        return connection

    async def _speak_http1(self, connection: Connection, idle: bool) -> Response:
        """The upstream has chosen HTTP/1.1: send the request over its connection."""
        client, (method, url, headers) = self._client, self._request
        inner = Stream()
        try:
            inner.prepare(client.pool, client.http1_connector, method, url, headers, self._content, self._extensions)
        except ValueError:
            connection.abort()
            client.pool.free()
            raise
        response = await inner.enter(connection, idle)
        self._inner = inner
        return response

    def _send(self, connection: Http2Connection) -> ResponseState:
        """Send the head, and have the body sent."""
        extensions, content = self._extensions, self._content
        progress: Callable[[str], None] | None = extensions.get("progress")
        self._state = state = ResponseState(extensions.get("informational"), self._request[0] == "HEAD")
        whole = content if isinstance(content, bytes) else b"" if content is None else None
        if not connection.open(state, self._fields, whole, extensions.get("buffer")):
            state.refused = state.closed = True
            state.fault = ConnectionTerminated(note="the upstream takes no more streams on this connection")
        elif content is None or isinstance(content, bytes):
            if progress is not None:
                progress("head")
        else:
            if progress is not None:
                progress("request")
            self._sender = BodySender(connection, state, content, self._framing, progress)
            self._sender.start(extensions.get("trailers"))
        return state

    def _repeatable(self, state: ResponseState, idle: bool) -> bool:
        """Whether the request can be sent again, and has its body anew then.

        RFC 9113 section 8.7: what was not processed may be sent again, whatever its method. What failed with a
        connection that was there before is as over HTTP/1.1 (RFC 9112 section 9.3.1): only if its method is idempotent.
        """
        if not state.refused and not (
            idle
            and isinstance(state.fault, ConnectionTerminated)
            and self._connection is not None
            and self._connection.broken
            and not state.touched
            and self._request[0] in IDEMPOTENT
        ):
            return False
        if self._sender is None or not self._sender.pulled:
            return True
        content = self._content
        if not isinstance(content, BodyReader) or not content.body.repeatable:
            return False
        self._content = content.body.attempt()
        return True

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        state, self._state = self._state, None
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
        if connection is not None:
            if state is not None:
                connection.leave(state)
            self._client.pool.release(connection)
