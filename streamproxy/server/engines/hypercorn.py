"""The hypercorn engine, for HTTP/1.1 only.

By default hypercorn also accepts HTTP/2 in clear text, by its preface and by ``Upgrade: h2c``. Its implementation has
faults: an early response to an upload ends the whole connection. So both are disabled, and ALPN offers nothing.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import h11
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamproxy.server.engines.base import EngineSettings
from streamproxy.server.http1.limits import NEWCOMER
from streamproxy.server.sockets import BACKLOG, close
from streamproxy.wire.headers import first
from streamproxy.wire.http1 import AmbiguousHead, origin_form
from streamproxy.wire.media import is_streaming

_PATIENCE = 2.0  # seconds for connections to end when the engine is stopped
_DECODED = frozenset({b"connection", b"sec-websocket-extensions", b"sec-websocket-protocol"})
_METHOD = "streamproxy.method"  # in a connection's state: the method of its request as it was sent


class HypercornEngine:
    """Runs hypercorn's connections and lifespan in this process, on existing sockets.

    hypercorn's `serve` ends idle connections when it stops accepting, even if their first request is on its way. So
    this class accepts the connections itself, and tells them to end a moment later.

    hypercorn has no limit on connections and no time-out for a slow head, so ``max_connections`` and ``head_timeout``
    apply to the uvicorn engine only.
    """

    def __init__(self, app: ASGIApp, sockets: list[socket.socket], settings: EngineSettings) -> None:
        self._farewell = _Farewell(app)
        self._sockets = sockets
        self._tls: dict[str, Any] = {}
        if settings.tls is not None:
            self._tls = {"ssl": settings.tls, "ssl_handshake_timeout": settings.head_timeout}
        self._config = Config()
        self._config.include_server_header = False
        self._config.include_date_header = False
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.h11_max_incomplete_size = settings.max_header_size
        self._config.keep_alive_timeout = settings.keepalive_timeout
        self._config.websocket_max_message_size = sys.maxsize
        self._context = WorkerContext(None)
        self._state: dict[str, Any] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()  # one for each connection, and one that ends them
        self._ending: asyncio.TimerHandle | None = None
        self._lifespan: Lifespan | None = None
        self._living: asyncio.Task[None] | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        app: Any = self._farewell
        self._app = wrap_app(app, self._config.wsgi_max_body_size, "asgi")
        self._lifespan = Lifespan(self._app, self._config, loop, self._state)
        self._living = loop.create_task(self._lifespan.handle_lifespan(), name="lifespan")
        await self._lifespan.wait_for_startup()
        if self._living.done():
            self._living.result()
            raise RuntimeError("the application ended while it started")
        for listener in self._sockets:
            self._servers.append(
                await asyncio.start_server(self._serve, sock=listener.dup(), backlog=BACKLOG, **self._tls)
            )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        self._keep(asyncio.current_task())
        await _Http11Server(self._app, loop, self._config, self._context, self._state, reader, writer)

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def drain(self, patience: float = NEWCOMER) -> None:
        self._farewell.draining = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for listener in self._sockets:
            close(listener)
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(patience, self._end_idle)

    @property
    def connections(self) -> int:
        return len(self._tasks)

    def _end_idle(self) -> None:
        self._keep(asyncio.get_running_loop().create_task(self._context.terminated.set()))

    async def stop(self) -> None:
        self.drain()
        if self._ending is not None:
            self._ending.cancel()
        await self._context.terminated.set()
        # A connection whose client reads nothing would never end; the lifespan ends regardless.
        if self._tasks:
            _, endless = await asyncio.wait(self._tasks, timeout=_PATIENCE)
            for task in endless:
                task.cancel()
            await asyncio.gather(*endless, return_exceptions=True)
        if self._lifespan is not None and self._living is not None:
            await self._lifespan.wait_for_shutdown()
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)


class _Http11Server(TCPServer):
    """A connection of hypercorn that uses our subclass of its HTTP/1.1 protocol."""

    @property
    def protocol(self) -> ProtocolWrapper:
        return self._wrapper

    @protocol.setter
    def protocol(self, made: ProtocolWrapper) -> None:
        made.protocol = _Http11(
            made.app,
            made.config,
            made.context,
            made.task_group,
            made.state,
            made.ssl,
            made.client,
            made.server,
            made.send,
        )
        self._wrapper = made


class _Http11(H11Protocol):
    """hypercorn's HTTP/1.1 protocol without upgrades to HTTP/2, and with targets in origin form.

    It writes methods in capitals, so the method that was sent goes to the application with the connection's state.
    """

    async def _check_protocol(self, event: h11.Request) -> None:
        """Never switches to another protocol."""

    async def _create_stream(self, request: h11.Request) -> None:
        try:
            target, authority = _origin_form(request)
            _check_handshake(request)
        except AmbiguousHead:
            await self._send_error_response(400)
            await self.send(Closed())
            return
        if authority is not None:  # it overrides Host (RFC 9112 section 3.2.2)
            fields = [(name, value) for name, value in request.headers if name != b"host"]
            request = h11.Request(
                method=request.method,
                target=target,
                headers=[(b"host", authority), *fields],
                http_version=request.http_version,
            )
        # A dictionary of its own: hypercorn shares one between all connections.
        self.connection_state = ConnectionState({**self.connection_state, _METHOD: request.method.decode("ascii")})
        await super()._create_stream(request)


def _origin_form(request: h11.Request) -> tuple[bytes, bytes | None]:
    """Returns the target in origin form, and the authority of a target in absolute form. Raises AmbiguousHead."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise AmbiguousHead("an HTTP version other than 1.0 and 1.1")
    if request.method == b"CONNECT":
        raise AmbiguousHead("CONNECT is not served here")
    return origin_form(request.method, request.target)


def _check_handshake(request: h11.Request) -> None:
    """Refuses what hypercorn fails to decode in a WebSocket handshake. Raises AmbiguousHead."""
    names = {name for name, _ in request.headers}
    if b"upgrade" in names:
        for name, value in request.headers:
            if name in _DECODED and not value.isascii():
                raise AmbiguousHead("a field of a handshake that is not ASCII")


class _Farewell:
    """Restores the method of a request, and during a drain announces the close of the connection in each response.

    hypercorn only closes it.
    Streaming responses are excluded: with ``Connection: close``, Node's fetch takes a cut stream for a complete one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["http_version"] not in ("1.0", "1.1"):
            await self._app(scope, receive, send)
            return
        scope["method"] = scope["state"].pop(_METHOD)

        async def send_with_farewell(message: Message) -> None:
            if message["type"] == "http.response.start" and self.draining:
                headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
                if not is_streaming(first(headers, b"content-type") or b""):
                    message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_with_farewell)
