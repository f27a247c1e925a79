"""A scripted upstream on a real socket: it says exactly the bytes that a test gives it, when the test lets it.

A script is a coroutine function that is run for each connection::

    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        await conn.send(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
        await conn.send_chunk(b"data: 1\\n\\n")
        await upstream.go.wait()
        conn.reset()

    async with Upstream(script) as upstream:
        ... request upstream.url through the proxy ...

When a script returns the connection is closed in good order. A script that reads or sends after its peer has gone gets
`PeerEnded`, which ends it quietly: leaving is the peer's right, and ``conn.ended`` says when and how. Any other
exception of a script is raised in the test, when the upstream is left.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import ClassVar, Self

from tests.doubles.connection import Connection, Head, PeerEnded, guarded
from tests.doubles.http2_upstream import Front
from tests.doubles.ports import hold
from tests.doubles.until import until


class Conn(Connection):
    """The upstream's end of one connection."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self.upstream = upstream
        self.heads: list[Head] = []  # of the requests that came over this connection
        self.go = asyncio.Event()  # for a script that waits for its test: `await conn.stall()`

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.upstream._joined(self)

    async def read_head(self) -> Head:
        """The next request's head; it is recorded in ``upstream.requests`` too."""
        head = await self.read_raw_head()
        self.heads.append(head)
        self.upstream.requests.append(head)
        self.upstream._changed()
        return head

    async def read_request(self) -> tuple[Head, bytes]:
        """A whole request: its head, and the body that it announces."""
        head = await self.read_head()
        return head, await self.read_body(head)

    async def stall(self) -> None:
        """Do nothing until the test sets ``go``."""
        async with guarded("the test to let the upstream go on"):
            await self.go.wait()


Script = Callable[[Conn], Awaitable[None]]


class Upstream:
    """A listener that runs a script for each connection: one for all, or the nth for the nth (the last for the rest).

    It listens on 127.0.0.1 and a free port, which it keeps over `stop` and `start`, on another loopback ``address``, or
    on the unix socket ``path``; with ``tls`` it speaks TLS. ``connections`` and ``requests`` record everything in order
    of arrival.

    While ``http2`` is set, upstreams speak HTTP/2 to clients that do; then a connection of a script is a stream.
    """

    http2: ClassVar[bool] = False

    def __init__(
        self,
        script: Script | Sequence[Script],
        *,
        path: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.scripts = [script] if callable(script) else list(script)
        self.path = None if path is None else os.fspath(path)
        self.host, self.port = address
        self.go = asyncio.Event()  # a barrier that all connections may share
        self.connections: list[Conn] = []
        self.requests: list[Head] = []
        self.failures: list[Exception] = []
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None  # the port, while nobody listens on it
        self._tasks: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()  # a new one for each change
        self._fronts: list[Front] = []

    @property
    def url(self) -> str:
        """The base URL of the endpoint; for a unix socket only the scheme matters."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://unix" if self.path else f"{scheme}://{self.host}:{self.port}"

    @property
    def accepted(self) -> int:
        """How many sockets were accepted."""
        return len(self._fronts) if self.http2 else len(self.connections)

    @property
    def open_connections(self) -> list[Conn]:
        """Those whose peer has not ended yet."""
        return [conn for conn in self.connections if conn.ended is None]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self.failures and kind is None:
            raise self.failures[0]

    async def start(self) -> None:
        """Listen, on the same port as before."""
        loop = asyncio.get_running_loop()
        self._give_up_the_port()
        if self.path is not None:
            self._server = await loop.create_unix_server(self._accepted, self.path, ssl=self._tls)
        else:
            self._server = await loop.create_server(self._accepted, self.host, self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, end every script and drop every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._give_up_the_port()
        if self.path is not None and os.path.exists(self.path):
            os.unlink(self.path)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for conn in self.connections:
            await conn.aclose()
        for front in self._fronts:
            front.transport.abort()

    def stop_listening(self) -> None:
        """Refuse new connections; those that are there go on. Another test's server is not given the port."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self.path is None:
                self._held = hold(self.host, self.port)

    def _give_up_the_port(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    async def connection(self, number: int = 0) -> Conn:
        """The nth connection, waited for."""
        await self._until(lambda: len(self.connections) > number, f"connection {number}")
        return self.connections[number]

    async def request(self, number: int = 0) -> Head:
        """The nth request's head, waited for."""
        await self._until(lambda: len(self.requests) > number, f"request {number}")
        return self.requests[number]

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async with guarded(f"{what} at the upstream"):
            while not condition():
                await self._change.wait()

    def _accepted(self) -> asyncio.Protocol:
        if not self.http2:
            return Conn(self)
        self._fronts.append(Front(lambda: Conn(self)))
        return self._fronts[-1]

    # What connections report.

    def _joined(self, conn: Conn) -> None:
        script = self.scripts[min(len(self.connections), len(self.scripts) - 1)]
        self.connections.append(conn)
        task = asyncio.get_running_loop().create_task(self._run(script, conn), name=f"script of {conn!r}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._changed()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _run(self, script: Script, conn: Conn) -> None:
        try:
            await script(conn)
        except PeerEnded:
            pass
        except Exception as error:
            self.failures.append(error)
            conn.reset()  # so that a test does not wait for what will never come
        finally:
            conn.close()


def response(
    body: bytes = b"", *, status: str = "200 OK", headers: Sequence[tuple[str, str]] = (), length: bool = True
) -> bytes:
    """The bytes of a whole response, with ``Content-Length`` unless told otherwise."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


def stream_head(content_type: str = "text/event-stream", *headers: tuple[str, str]) -> bytes:
    """The head of a chunked response."""
    fields = [("Content-Type", content_type), *headers, ("Transfer-Encoding", "chunked")]
    return response(headers=fields, length=False)


async def silent(conn: Conn) -> None:
    """Takes a request and never answers it."""
    await conn.read_request()
    await conn.wait_ended()


def answering(*responses: bytes) -> Script:
    """A script that answers the requests of a kept-alive connection one after the other, the last one repeated."""

    async def script(conn: Conn) -> None:
        number = 0
        while True:
            await conn.read_request()
            await conn.send(responses[min(number, len(responses) - 1)])
            number += 1

    return script


def streaming(*chunks: bytes, content_type: str = "text/event-stream") -> Script:
    """A script that answers each request with a chunked response of these chunks, each in a write of its own."""

    async def script(conn: Conn) -> None:
        while True:
            await conn.read_request()
            await conn.send(stream_head(content_type))
            for chunk in (*chunks, b""):
                await conn.send_chunk(chunk)

    return script


class FullBacklog:
    """An address where a connection attempt gets no answer: its accept queue is full and nobody accepts."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._fillers: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        waiting, most = self._queue()
        while waiting <= most:  # the kernel takes one more than the backlog
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            await loop.sock_connect(filler, ("127.0.0.1", self.port))
            await until(self._queue, "it to be queued", holds=lambda now: now[0] >= len(self._fillers))
            waiting, most = self._queue()
        return self

    def _queue(self) -> tuple[int, int]:
        """How many connections wait to be accepted, and the backlog: two fields of Linux's tcp_info of a listener."""
        info = self.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        waiting, most = struct.unpack_from("=II", info, 24)
        return waiting, most

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for filler in (*self._fillers, self.listener):
            filler.close()
