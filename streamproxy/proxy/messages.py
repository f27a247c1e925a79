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
import logging
import os
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import quote

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from streamproxy.errors import BadResponse, ClientLeft, ExchangeAborted
from streamproxy.exchange.extension import CONNECTION, DownstreamConnection
from streamproxy.exchange.stream import ByteStream
from streamproxy.wire.websocket import VERSION

logger = logging.getLogger("streamproxy.proxy")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_GRACE: Final = 1.0  # seconds for the upstream to answer the client's Close, and for the server to take what is left
_READ_AHEAD: Final = 65_536  # bytes of messages that are received while the tunnel has paused
_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006
_NORMAL: Final = 1000
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


class _Outbox:
    """What goes to the server, in order, with one task that awaits its ``send``."""

    __slots__ = ("_ended", "_held", "_messages", "_on_lost", "_room", "_send", "_task", "_wake", "limit")

    def __init__(self, send: Send, on_lost: Callable[[], None]) -> None:
        self._send = send
        self._on_lost = on_lost
        self._messages: deque[tuple[Message, int]] = deque()
        self._held = 0
        self._ended = False
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.limit = _READ_AHEAD
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, message: Message, size: int = 0) -> bool:
        """Queue a message of so many bytes; returns whether there is room for more."""
        if not self._ended:
            self._messages.append((message, size))
            self._held += size
            _settle(self._wake)
        return self._held <= self.limit

    @property
    def full(self) -> bool:
        """Whether more is held than may be."""
        return self._held > self.limit

    async def drained(self) -> None:
        """Wait until there is room, or nothing is taken any more."""
        while self._held > self.limit and not self._ended:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    async def _run(self) -> None:
        while True:
            while not self._messages:
                if self._ended:
                    return
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            message, size = self._messages[0]
            try:
                await self._send(message)
            except Exception as error:  # servers have types of their own for a client that has left
                logger.debug("the server takes no more of a socket: %r", error)
                self.end()
                self._messages.clear()
                self._on_lost()
                return
            self._messages.popleft()
            self._held -= size
            if self._held <= self.limit:
                _settle(self._room)

    def end(self) -> None:
        """Take no more."""
        self._ended = True
        _settle(self._wake)
        _settle(self._room)

    async def flush(self) -> None:
        """Take no more, and wait a moment for the server to take what there is."""
        self.end()
        await asyncio.wait((self._task,), timeout=_GRACE)

    def close(self) -> None:
        """Stop at once."""
        self.end()
        self._task.cancel()


class MessageStream(ByteStream):
    """The client's end of a tunnel, made of messages: it reads as the bytes of a client, and takes a server's."""

    __slots__ = (
        "_ended",
        "_eof_sent",
        "_fragments",
        "_held",
        "_lost",
        "_on_data",
        "_on_fault",
        "_on_lost",
        "_out",
        "_parting",
        "_paused",
        "_pending",
        "_protocol",
        "_room",
        "_text",
    )

    def __init__(self, out: _Outbox, on_fault: Callable[[BadResponse], None]) -> None:
        self._out = out
        self._on_fault = on_fault  # called when the upstream's frames are not valid
        self._protocol = Protocol(Side.CLIENT, max_size=None)
        self._pending: deque[bytes] = deque()  # frames that the tunnel has not taken
        self._held = 0
        self._paused = True
        self._fragments: list[bytes] = []
        self._text = False
        self._ended = False  # the client sends no more
        self._eof_sent = False
        self._lost = False
        self._parting: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[], None] | None = None

    # For the tunnel.

    @property
    def pingable(self) -> bool:
        return False

    def start(self, on_data: Callable[[bytes], None], on_eof: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_data, self._on_lost = on_data, on_lost
        self._paused = False
        asyncio.get_running_loop().call_soon(self._deliver)

    def write(self, data: bytes) -> bool:
        protocol = self._protocol
        if self._lost or self._eof_sent:
            return True
        protocol.receive_data(data)
        self._take_events()
        self._hand_on()
        if protocol.parser_exc is not None:
            self._fail()
        return not self._out.full

    async def drained(self) -> None:
        await self._out.drained()

    def set_write_limit(self, high: int) -> None:
        self._out.limit = high

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            asyncio.get_running_loop().call_soon(self._deliver)

    def write_eof(self) -> None:
        # ASGI has no half-close, and what the client has left to say is not worth keeping a socket for.
        self._eof_sent = True
        asyncio.get_running_loop().call_soon(self.lose)

    def close(self) -> None:
        self._eof_sent = True
        self.stop()

    def abort(self) -> None:
        self.close()

    def stop(self) -> None:
        """Call back no more."""
        self._on_data = self._on_lost = None
        if self._parting is not None:
            self._parting.cancel()

    # What the upstream says.

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.CLOSE:
                self._closed_by_upstream()
            elif event.opcode is Opcode.TEXT or event.opcode is Opcode.BINARY or event.opcode is Opcode.CONT:
                self._take_data(event)

    def _take_data(self, frame: Frame) -> None:
        """Collect the fragments of a message: ASGI has whole ones only."""
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return
        data = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
        self._fragments.clear()
        message: Message = {"type": "websocket.send"}
        if self._text:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(1007, "not valid UTF-8")
                self._fail()
                return
        else:
            message["bytes"] = data
        if not self._ended:
            self._out.put(message, len(data))

    def _closed_by_upstream(self) -> None:
        close = self._protocol.close_rcvd
        assert close is not None
        if self._ended:  # the answer to the client's own
            asyncio.get_running_loop().call_soon(self.lose)
            return
        self._ended = True
        code = _NORMAL if close.code == _NO_STATUS else close.code  # a server can't be asked for an empty one
        self._out.put({"type": "websocket.close", "code": code, "reason": close.reason})

    def _fail(self) -> None:
        self._eof_sent = True
        self._hand_on()
        self._on_fault(BadResponse("The upstream's WebSocket frames are not valid"))

    # What the client says.

    async def received(self, message: Message) -> None:
        """A message of the client; returns when another may be received."""
        if self._ended:
            return
        text = message.get("text")
        if text is not None:
            self._protocol.send_text(text.encode())
        else:
            self._protocol.send_binary(message.get("bytes") or b"")
        self._hand_on()
        while self._held > _READ_AHEAD and not self._lost:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def left(self, message: Message) -> None:
        """The client has closed the socket, or is lost."""
        code = message.get("code", _NO_STATUS)
        # uvicorn says 1005 of a lost connection, and of a Close frame without a code with a reason beside it.
        lost = code == _ABNORMAL or (code == _NO_STATUS and "reason" not in message)
        if not self._ended:
            self._ended = True
            try:
                if not lost and code == _NO_STATUS:
                    self._protocol.send_close()
                elif not lost:
                    self._protocol.send_close(code, message.get("reason") or "")
            except ProtocolError:
                lost = True  # a code that no frame can carry
        self._hand_on()
        if lost or self._protocol.close_rcvd is not None:
            self.lose()
        else:
            self._parting = asyncio.get_running_loop().call_later(_GRACE, self.lose)

    def lose(self) -> None:
        """Nothing passes any more."""
        if self._lost:
            return
        self._paused = False
        self._deliver()
        self._lost = True
        _settle(self._room)
        on_lost = self._on_lost
        self.stop()
        if on_lost is not None:
            on_lost()

    def _hand_on(self) -> None:
        """Take the frames that are due, and have them delivered in a turn of their own."""
        idle = not self._pending
        for data in self._protocol.data_to_send():
            if data:
                self._pending.append(data)
                self._held += len(data)
        if idle and self._pending and not self._paused:
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._pending and not self._paused and self._on_data is not None:
            data = self._pending.popleft()
            self._held -= len(data)
            self._on_data(data)
        if self._held <= _READ_AHEAD:
            _settle(self._room)


class _Handshake(DownstreamConnection):
    """The server's side of a scope of type ``websocket``, in the shape of our own servers' connections."""

    __slots__ = ("_begun", "_out", "_reader", "_receive", "_refusable", "_stream")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.target = _target(scope)
        self.has_body = False
        self.on_disconnect = None
        self.fault = None
        self.disconnected = False
        self.wants_websocket = True
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self.task = task
        self._receive = receive
        self._refusable = "websocket.http.response" in (scope.get("extensions") or {})
        self._begun = False
        self._out = _Outbox(send, self._left)
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
                subprotocol = value.decode("latin-1")
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


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
