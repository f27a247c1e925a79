"""The protocol without a whole server: on a real socket, or on a transport that is a list of bytes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from streamproxy.server.http1.limits import Http11Limits
from streamproxy.server.http1.protocol import Http11Protocol, http11_protocol

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def start_message(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body_message(body: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request; fails when the client leaves before its end."""
    body = bytearray()
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request and answers with its target and its body."""
    body = await read_body(receive)
    await send(start_message(200, (b"content-type", b"text/plain")))
    await send(body_message(scope["raw_path"] + b" " + body))


class Serving:
    """A listening protocol: where it is, its state, and what it refused."""

    def __init__(self, url: str, state: ServerState, rejected: list[tuple[int, str]]) -> None:
        self.url = url
        self.state = state
        self.rejected = rejected

    @property
    def connection(self) -> Http11Protocol:
        """The only connection."""
        only: Any
        (only,) = self.state.connections
        assert isinstance(only, Http11Protocol)
        return only


def bare(app: App, protocol: Any, *, keepalive: float = 20.0, **keys: Any) -> uvicorn.Config:
    """A loaded uvicorn configuration that adds nothing to what ``protocol`` does."""
    config = uvicorn.Config(
        app,
        http=protocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=keepalive,  # type: ignore[arg-type]  # fractions, so that a test need not wait
        interface="asgi3",
        **keys,
    )
    config.load()
    return config


def configure(app: App, *, keepalive: float = 20.0, **options: Any) -> uvicorn.Config:
    """A loaded uvicorn configuration for the protocol, with these limits."""
    keys = {key: options.pop(key) for key in ("ws", "root_path", "log_config") if key in options}
    http2 = options.pop("http2", None)
    return bare(app, http11_protocol(Http11Limits(**options), http2), keepalive=keepalive, **keys)


async def end_tasks(state: ServerState) -> None:
    """Cancels the tasks that connections have left, and waits for them."""
    for task in list(state.tasks):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def serving(
    app: App,
    *,
    path: Path | None = None,
    tls: ssl.SSLContext | None = None,
    app_state: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Serving]:
    """Serve ``app`` on a free port of loopback, or on a unix socket at ``path``."""
    rejected: list[tuple[int, str]] = []
    options.setdefault("on_rejected", lambda status, reason: rejected.append((status, reason)))
    config = configure(app, **options)
    state = ServerState()
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.Protocol:
        made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
            config=config, server_state=state, app_state=app_state or {}, _loop=loop
        )
        return made

    if path is not None:
        server = await loop.create_unix_server(protocol, str(path))
        url = f"unix:{path}"
    else:
        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls)
        url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield Serving(url, state, rejected)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await server.wait_closed()
        await end_tasks(state)
        if path is not None:
            path.unlink(missing_ok=True)


class FakeTransport(asyncio.Transport):
    """A transport that is a list of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reading = True
        self.ended = False  # write_eof was called
        self.closed = False
        self.aborted = False

    @property
    def data(self) -> bytes:
        return b"".join(self.writes)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


def wired(app: App, **options: Any) -> tuple[Http11Protocol, FakeTransport]:
    """A protocol on a fake transport, connected. Its owner calls ``connection_lost``."""
    return connected(configure(app, **options))


def connected(config: uvicorn.Config) -> tuple[Http11Protocol, FakeTransport]:
    """One more protocol of a server, as `wired`."""
    protocol: Any = config.http_protocol_class
    made: Http11Protocol = protocol(config=config, server_state=ServerState(), app_state={})
    transport = FakeTransport()
    made.connection_made(transport)
    return made, transport


async def turns(number: int = 3) -> None:
    """Let the event loop go round; what needs no outside event is done then."""
    for _ in range(number):
        await asyncio.sleep(0)
