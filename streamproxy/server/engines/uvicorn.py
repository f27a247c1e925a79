"""The uvicorn engine, with our own HTTP/1.1 and HTTP/2 protocols."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from streamproxy.server.alpn import chose_http2
from streamproxy.server.engines.base import EngineSettings
from streamproxy.server.http1.limits import NEWCOMER, Http11Limits
from streamproxy.server.http1.protocol import http11_protocol
from streamproxy.server.proxy_protocol import Acceptor, read_announcement
from streamproxy.server.sockets import BACKLOG, close
from streamproxy.wire.proxy_protocol import Announced, BadProxyHeader

logger = logging.getLogger("streamproxy.server")

_QUIET = 60.0  # seconds without another line of the log about connections without a PROXY header
# From CPython 3.13 on, loops remove the file of a Unix socket with its server; ours closes while others still listen.
_KEEP_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
TLS_GOODBYE = 1.0  # seconds for a client to respond to the end of its TLS connection


class UvicornEngine:
    """uvicorn with our HTTP/1.1 protocol."""

    def __init__(
        self, app: ASGIApp, sockets: list[socket.socket], settings: EngineSettings, *, lifespan: bool = True
    ) -> None:
        limits = Http11Limits(
            max_header_size=settings.max_header_size,
            head_timeout=settings.head_timeout,
            on_rejected=settings.on_rejected,
        )
        config = uvicorn.Config(
            app,
            interface="asgi3",  # uvicorn would check for a coroutine function
            http=http11_protocol(limits, settings.http2),
            ws="none",  # a handshake is an ordinary request, followed by a tunnel of ours
            lifespan="on" if lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.keepalive_timeout,  # type: ignore[arg-type]  # a loop takes fractions too
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config, sockets, settings)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._server.serve())
        ready = asyncio.get_running_loop().create_task(self._server.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            self._task.result()
            raise RuntimeError("the server ended while it started")

    def drain(self, patience: float = NEWCOMER) -> None:
        def shut_down(connection: Any) -> None:
            if not connection.stopping:
                connection.shutdown(patience)

        self._server.stop_accepting(shut_down)

    @property
    def connections(self) -> int:
        return self._server.open_connections

    async def stop(self) -> None:
        self._server.exit()
        if self._task is not None:
            await self._task


class _Connections(set[Any]):
    """The server's open connections; reports when the limit is reached and when there is room again.

    Connections in their TLS handshake count, but are not members.
    """

    def __init__(self, most: int, full: Callable[[], None], room: Callable[[], None]) -> None:
        super().__init__()
        self._most = most
        self._full = full
        self._room = room
        self._shaking: set[weakref.ref[_Newcomer]] = set()
        self._emptied: asyncio.Future[None] | None = None
        self._shut_down: Callable[[Any], None] | None = None

    def add(self, connection: Any) -> None:
        super().add(connection)
        self._look()
        if self._shut_down is not None:
            # It is not ready yet, and no response begins earlier.
            asyncio.get_running_loop().call_soon(self._shut_down, connection)

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self._look()
        if self._emptied is not None and not self and not self._emptied.done():
            self._emptied.set_result(None)

    async def wait_empty(self) -> None:
        """Waits until there is no connection, apart from those in their handshake. One caller at a time."""
        while self:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    @property
    def count(self) -> int:
        return len(self) + len(self._shaking)

    def leave(self, shut_down: Callable[[Any], None]) -> None:
        """Calls a function with each open connection.

        It is also called with connections that were already accepted, when they are added in a later iteration of the
        loop or after their handshake."""
        self._shut_down = shut_down
        for connection in list(self):
            shut_down(connection)

    def expect(self, newcomer: _Newcomer) -> None:
        """Counts a connection in its handshake, as long as the object exists or until it has `arrived`."""
        self._shaking.add(weakref.ref(newcomer, self._left))
        # Not at once: a server cannot be closed during its accept.
        asyncio.get_running_loop().call_soon(self._look)

    def arrived(self, newcomer: _Newcomer) -> None:
        """A handshake has succeeded; the connection is added in the same step."""
        self._shaking.discard(weakref.ref(newcomer))

    def _left(self, reference: weakref.ref[_Newcomer]) -> None:
        if reference in self._shaking:
            self._shaking.discard(reference)
            self._look()

    def _look(self) -> None:
        if self.count >= self._most:
            self._full()
        else:
            self._room()


class _Newcomer(asyncio.Protocol):
    """A connection during its TLS handshake. Afterwards the protocol returned by ``make`` replaces it.

    ``make`` is called with whether the handshake chose HTTP/2. The loops do not report a failed handshake to the
    protocol, they only drop it, so the end of this object is the end of the connection.
    """

    def __init__(self, make: Callable[[bool], asyncio.Protocol], connections: _Connections) -> None:
        self._make = make
        self._connections = connections
        self.announced: Announced | None = None  # by a header of the PROXY protocol
        connections.expect(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol: Any = self._make(chose_http2(transport))
        protocol.announced = self.announced
        self._connections.arrived(self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Server(uvicorn.Server):
    """A uvicorn server that ignores signals, and stops accepting at the limit on connections.

    uvicorn checks ten times a second whether it should exit, and again whether its connections have ended. This one is
    told, so that an idle proxy does nothing and a stop takes no longer than it must.

    A loop cannot pause a server, but can close one. So each server gets a duplicate of the listening socket. The
    original stays open, and connections wait in its queue until the next server accepts them.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], settings: EngineSettings) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._exiting = asyncio.Event()
        self._sockets = sockets
        self._http2 = settings.http2
        self._announcing = settings.proxy_protocol  # networks whose connections begin with a PROXY header
        self._patience = settings.head_timeout
        self._tls: dict[str, Any] = {}
        if settings.tls is not None:
            self._tls = {
                "ssl": settings.tls,
                "ssl_handshake_timeout": settings.head_timeout,
                "ssl_shutdown_timeout": TLS_GOODBYE,
            }
        self._accepting = False
        self._draining = False
        self._quiet_until = 0.0
        self._reopening: asyncio.Task[None] | None = None
        self._connections = _Connections(settings.max_connections, self._close_servers, self._reopen)
        self.server_state.connections = self._connections
        self.servers: list[asyncio.base_events.Server] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def open_connections(self) -> int:
        """The number of connections, including those in their TLS handshake."""
        return self._connections.count

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start")
        await self._open_servers()
        self.started = True
        self.ready.set()

    def exit(self) -> None:
        """Ends the server, also one that is starting."""
        self.should_exit = True
        self._exiting.set()

    async def main_loop(self) -> None:
        await self._exiting.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining = True
        self._close_servers()
        for connection in list(self._connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._connections.wait_empty()
                while self.server_state.tasks:
                    await asyncio.wait(self.server_state.tasks)
        except TimeoutError:
            logger.error("cancelling %d requests, which have not ended in time", len(self.server_state.tasks))
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()

    def _accepted(self) -> asyncio.Protocol:
        return _Newcomer(self._protocol, self._connections) if self._tls else self._protocol(False)

    def _protocol(self, http2: bool) -> asyncio.Protocol:
        make: Any = self._http2 if http2 and self._http2 is not None else self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def _open_servers(self) -> None:
        loop = asyncio.get_running_loop()
        self._accepting = True
        for listener in self._sockets:
            server: Any
            if self._announcing and listener.family != socket.AF_UNIX:
                server = Acceptor(listener.dup(), self._welcome)
            else:
                unix = listener.family == socket.AF_UNIX
                create: Any = loop.create_unix_server if unix else loop.create_server
                options = self._tls | (_KEEP_FILE if unix else {})
                server = await create(self._accepted, sock=listener.dup(), backlog=BACKLOG, **options)
            if self._accepting:
                self.servers.append(server)
            else:
                server.close()

    async def _welcome(self, connection: socket.socket) -> None:
        """Starts a connection that may begin with a PROXY header."""
        newcomer = _Newcomer(self._protocol, self._connections)
        try:
            newcomer.announced = await read_announcement(connection, self._announcing, self._patience)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: newcomer, connection, **self._tls)
        except BadProxyHeader as error:
            self._tell_no_header(connection, error)
            connection.close()
        except OSError:  # TimeoutError and SSLError too
            connection.close()
        except BaseException:
            connection.close()
            raise

    def _tell_no_header(self, connection: socket.socket, error: BadProxyHeader) -> None:
        """Says in the log, now and then, why connections end that nothing else tells of."""
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            with contextlib.suppress(OSError):
                peer = connection.getpeername()[0]
                logger.warning("closed a connection from %s, which is in server.proxy_protocol: %s", peer, error)

    def _close_servers(self) -> None:
        self._accepting = False
        for server in self.servers:
            server.close()
        self.servers.clear()

    def _reopen(self) -> None:
        if not self._accepting and not self._draining and (self._reopening is None or self._reopening.done()):
            self._accepting = True
            self._reopening = asyncio.get_running_loop().create_task(self._open_servers())

    def stop_accepting(self, shut_down: Callable[[Any], None]) -> None:
        """Closes the listening sockets for good, and shuts down every connection, also those that are added later."""
        self._draining = True
        self._close_servers()
        for listener in self._sockets:
            close(listener)
        self._connections.leave(shut_down)
