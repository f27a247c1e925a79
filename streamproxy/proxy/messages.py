"""WebSocket under a server that hands out messages and not the connection: stock uvicorn, hypercorn, any ASGI server.

Theory of operation. A scope of type ``websocket`` is turned into the handshake that it was, a GET with an Upgrade, and
goes through the router as a request like any other. Its server's side is a `_Handshake`: a response becomes a refusal
(the ``websocket.http.response`` extension, or a plain close, which servers answer with 403), and `upgrade` becomes
``websocket.accept``. From then on a `MessageStream` stands in for the client's connection in the `Tunnel`: it writes
the client's messages as frames, and reads messages out of the upstream's frames, with the sans-io part of the
websockets library. So limits, time-outs, log and metrics are the tunnel's own.

Two tasks carry a socket, one for each direction, since ASGI has no callbacks. The one that receives reads a bounded
number of bytes ahead while the tunnel has paused it, so that a disconnect is noticed early. Each side answers its own
pings: the server those of the client, the websockets library those of the upstream. Compression is the server's own
affair with the client; none is offered to the upstream.

A client that closes is told by ``websocket.disconnect``, with the code that the server has seen. Without a Close frame
the connection was lost. A socket that ends in disorder ends with an exception of the application, and the server then
closes its connection as it does after any failure: uvicorn without a Close frame, hypercorn with code 1011.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import quote

from streamproxy.errors import BadResponse, ClientLeft, ExchangeAborted
from streamproxy.exchange.extension import CONNECTION, DownstreamConnection
from streamproxy.exchange.stream import ByteStream
from streamproxy.proxy.message_stream import MessageStream
from streamproxy.proxy.outbox import Message, Outbox, Send
from streamproxy.wire.websocket import VERSION

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NOT_FOR_ACCEPT: Final = frozenset(
    (b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions")
)


async def relay_messages(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a scope of type ``websocket`` with an application that serves handshakes, as requests of type ``http``.

    Raises what the application raises; the server then ends the socket.
    """
    connection = _Handshake(scope, receive, send)
    aborted: ExchangeAborted | None = None
    try:
        # Nothing waits in a handler of exceptions: compiled code may not.
        try:
            await app(_as_request(scope, connection), connection.receive, connection.send)
        except ExchangeAborted as error:
            aborted = error
        await connection.flush()
    finally:
        connection.close()
    if aborted is not None:
        raise aborted


def _as_request(scope: Scope, connection: DownstreamConnection) -> Scope:
    """The handshake as the request that it was. What a server has taken out of it, as over HTTP/2, is put back."""
    names = {name for name, _ in scope["headers"]}
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name not in (b"sec-websocket-extensions", b"sec-websocket-protocol")
    ]
    if b"upgrade" not in names:
        headers += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    if b"sec-websocket-key" not in names:
        headers.append((b"sec-websocket-key", b64encode(os.urandom(16))))
    if b"sec-websocket-version" not in names:
        headers.append((b"sec-websocket-version", VERSION))
    if subprotocols := scope.get("subprotocols"):
        headers.append((b"sec-websocket-protocol", ", ".join(subprotocols).encode("latin-1")))
    return {
        **scope,
        "type": "http",
        "method": "GET",
        "http_version": "1.1",
        "scheme": "https" if scope.get("scheme") == "wss" else "http",
        "headers": headers,
        "extensions": {CONNECTION: connection},
    }


def _target(scope: Scope) -> bytes:
    """The request target, byte for byte where the server tells it."""
    path: bytes = scope.get("raw_path") or quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode()
    query: bytes = scope.get("query_string") or b""
    return path.partition(b"?")[0] + b"?" + query if query else path


class _Handshake(DownstreamConnection):
    """The server's side of a scope of type ``websocket``, in the shape of our own servers' connections."""

    __slots__ = ("_begun", "_offered", "_out", "_reader", "_receive", "_refusable", "_stream")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.target = _target(scope)
        self.has_body = False
        self.on_disconnect = None
        self.fault = None
        self.disconnected = False
        self.wants_websocket = True
        self.known = None
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self.task = task
        self._receive = receive
        self._offered: list[str] = list(scope.get("subprotocols") or ())
        self._refusable = "websocket.http.response" in (scope.get("extensions") or {})
        self._begun = False
        self._out = Outbox(send, self._left)
        self._stream: MessageStream | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            kind = message["type"]
            if kind == "websocket.disconnect":
                if self._stream is None:
                    self._left()
                else:
                    self._stream.left(message)
                return
            if kind == "websocket.receive" and self._stream is not None:
                await self._stream.received(message)

    def _left(self) -> None:
        """The client is lost."""
        self.disconnected = True
        if self._stream is not None:
            self._stream.lose()
        elif self.on_disconnect is not None:
            self.on_disconnect()

    def _broken(self, fault: BadResponse) -> None:
        """The upstream is at fault: the exchange ends with that."""
        self.fault = fault
        if self.on_disconnect is not None:
            self.on_disconnect()

    async def receive(self) -> Any:
        raise RuntimeError("a handshake has no body")

    def take_body(self) -> bytes | None:
        return None

    async def send(self, message: Any) -> None:
        raise RuntimeError("the response goes through the extension")

    # A refusal.

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        pass

    def begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False, reason: bytes = b""
    ) -> None:
        if self.disconnected:
            raise ClientLeft()
        self._begun = True
        if self._refusable:
            self._out.put({"type": "websocket.http.response.start", "status": status, "headers": list(headers)})
        else:
            self._out.put({"type": "websocket.close"})

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        if self.disconnected:
            raise ClientLeft()
        if self._refusable:
            self._out.put({"type": "websocket.http.response.body", "body": body, "more_body": more}, len(body))
        return self.drained() if self._out.full else None

    def push(self, chunk: bytes, framed: bytes) -> bool:
        self.write(chunk, True)
        return not self._out.full

    async def drained(self) -> None:
        await self._out.drained()
        if self.disconnected:
            raise ClientLeft()

    @property
    def takes_trailers(self) -> bool:
        return False

    def finish(self, trailers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None] | None:
        return self.write(b"", False)

    def set_write_limit(self, high: int) -> None:
        self._out.limit = high

    # The tunnel.

    def upgrade(self, headers: Iterable[tuple[bytes, bytes]]) -> ByteStream:
        if self._begun:
            raise RuntimeError("the response has begun")
        if self.disconnected:
            raise ClientLeft()
        subprotocol: str | None = None
        fields: list[tuple[bytes, bytes]] = []
        for name, value in headers:
            if name == b"sec-websocket-extensions":
                raise BadResponse("The upstream chose a WebSocket extension that was not offered")
            if name == b"sec-websocket-protocol":
                chosen = value.decode("latin-1")
                if subprotocol is not None or chosen not in self._offered:
                    raise BadResponse("The upstream chose a WebSocket subprotocol that was not offered")
                subprotocol = chosen
            if name not in _NOT_FOR_ACCEPT:
                fields.append((name, value))
        self._begun = True
        self._out.put({"type": "websocket.accept", "subprotocol": subprotocol, "headers": fields})
        self._stream = stream = MessageStream(self._out, self._broken)
        return stream

    # Ends.

    async def flush(self) -> None:
        """The application is done: the server has a moment to take what was sent last."""
        await self._out.flush()

    def close(self) -> None:
        """Stop both tasks, and let go of the tunnel."""
        self._reader.cancel()
        self._out.close()
        if self._stream is not None:
            self._stream.stop()
        del self.task
