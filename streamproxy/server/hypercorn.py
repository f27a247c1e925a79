"""hypercorn as an engine."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config, Sockets
from starlette.types import ASGIApp

from streamproxy.server.engines import EngineSettings


class HypercornEngine:
    """hypercorn's asyncio worker in this process, on sockets of ours.

    hypercorn has no limit on connections and no time-out for a slow head of its own; ``max_connections`` and
    ``head_timeout`` are kept by the uvicorn engine only.
    """

    def __init__(self, app: ASGIApp, sockets: list[socket.socket], settings: EngineSettings) -> None:
        self._app: Any = app
        self._exit = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._config = _Config(sockets)
        self._config.include_server_header = False
        self._config.include_date_header = False
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.alpn_protocols = ["http/1.1"]
        self._config.h11_max_incomplete_size = settings.max_header_size
        self._config.keep_alive_timeout = settings.keepalive_timeout
        # The program ends streams at its own drain time-out; hypercorn must only not be the earlier one.
        self._config.graceful_timeout = settings.drain_timeout + 5

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(serve(self._app, self._config, shutdown_trigger=self._exit.wait))
        ready = loop.create_task(self._config.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            self._task.result()
            raise RuntimeError("the server ended while it started")

    def drain(self) -> None:
        self._exit.set()

    async def stop(self) -> None:
        self._exit.set()
        if self._task is not None:
            await self._task


class _Config(Config):
    """A hypercorn configuration whose sockets are given, and which says when they are about to be served."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._given = sockets
        self.ready = asyncio.Event()

    def create_sockets(self) -> Sockets:
        # Called after the application has started; the sockets listen already, so a connection waits at most.
        self.ready.set()
        return Sockets([], self._given, [])
