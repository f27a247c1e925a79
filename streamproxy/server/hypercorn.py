"""hypercorn as an engine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config, Sockets
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamproxy.server.engines import FOREVER, EngineSettings, until_ready
from streamproxy.server.sockets import unlink
from streamproxy.wire.headers import first
from streamproxy.wire.media import is_streaming

_PATIENCE = 2.0  # seconds for connections to end by themselves when the engine is stopped


class HypercornEngine:
    """hypercorn's asyncio worker in this process, on sockets of ours.

    hypercorn has no limit on connections and no time-out for a slow head of its own; ``max_connections`` and
    ``head_timeout`` are kept by the uvicorn engine only.
    """

    def __init__(self, app: ASGIApp, sockets: list[socket.socket], settings: EngineSettings) -> None:
        self._farewell = _Farewell(app)
        self._sockets = sockets
        self._exit = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._config = _Config(sockets, settings.tls)
        self._config.include_server_header = False
        self._config.include_date_header = False
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.h11_max_incomplete_size = settings.max_header_size
        self._config.keep_alive_timeout = settings.keepalive_timeout
        self._config.ssl_handshake_timeout = settings.head_timeout
        # Who drains says when it is over, by `stop`; hypercorn must not be the earlier one.
        self._config.graceful_timeout = FOREVER

    async def start(self) -> None:
        app: Any = self._farewell
        serving = serve(app, self._config, shutdown_trigger=self._exit.wait)
        self._task = asyncio.get_running_loop().create_task(serving)
        await until_ready(self._task, self._config.ready)

    def drain(self) -> None:
        self._farewell.draining = True
        for listener in self._sockets:
            unlink(listener)
        self._exit.set()

    async def stop(self) -> None:
        self.drain()
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=_PATIENCE)
        self._task.cancel()  # connections whose client takes nothing; the lifespan ends all the same
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class _Farewell:
    """While it drains, has each response say that its connection will be closed; hypercorn only closes it.

    Not a streaming one: Node's fetch takes a cut stream for a finished one when it reads ``Connection: close``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["http_version"] not in ("1.0", "1.1"):
            await self._app(scope, receive, send)
            return

        async def send_with_farewell(message: Message) -> None:
            if message["type"] == "http.response.start" and self.draining:
                headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
                if not is_streaming(first(headers, b"content-type") or b""):
                    message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_with_farewell)


class _Config(Config):
    """A hypercorn configuration whose sockets and TLS context are given; says when they are about to be served."""

    def __init__(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._given = sockets
        self._tls = tls
        self.ready = asyncio.Event()

    @property
    def ssl_enabled(self) -> bool:
        return self._tls is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        return self._tls

    def create_sockets(self) -> Sockets:
        # Called after the application has started; the sockets listen already, so a connection waits at most.
        self.ready.set()
        return Sockets([], self._given, []) if self._tls is None else Sockets(self._given, [], [])
