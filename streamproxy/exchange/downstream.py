"""The client's side of one exchange, over plain ASGI: the request body, disconnects, the response.

An ASGI server reports a disconnect only through ``receive()``, to the task that awaits it. So something must listen
from beginning to end, even while the body is arriving. There are two ways:

- Our own protocols provide ``scope["extensions"]["streamproxy.connection"]``, which calls back when the client leaves.
  Nothing has to listen, and the body is read on demand.
- On any other server, one task calls ``receive()`` until it reports a disconnect, a bounded number of bytes ahead of
  the body's reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Self

from streamproxy.errors import BodyTooLarge, ClientDisconnected
from streamproxy.exchange.body import Receive, RequestBody
from streamproxy.exchange.extension import CONNECTION, DownstreamConnection
from streamproxy.exchange.stream import ByteStream
from streamproxy.exchange.target import Scope, Target
from streamproxy.exchange.timer import Timer
from streamproxy.wire.headers import Headers, RequestFields
from streamproxy.wire.response_fields import passable_request_trailers

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Downstream:
    """The client of one exchange: its request, and the means to respond.

    ``gone`` is set if the client has left and the exchange continues without it (``on_disconnect: continue``).
    Otherwise a disconnect interrupts the exchange with ClientDisconnected. ``connection`` is the connection of our own
    server; ``direct`` is the same, but only if no middleware is in between.
    """

    __slots__ = (
        "_exchange",
        "_hints",
        "_reader",
        "_receive",
        "_send",
        "_timer",
        "body",
        "connection",
        "continue_on_disconnect",
        "direct",
        "fields",
        "gone",
        "headers",
        "method",
        "on_gone",
        "peer",
        "scheme",
        "scope",
        "started",
        "target",
        "transform_response_headers",
        "version",
        "websocket_key",
    )

    def prepare(
        self, scope: Scope, receive: Receive, send: Send, target: Target, fields: RequestFields, timer: Timer
    ) -> Self:
        """Sets the attributes, in place of an `__init__`, which costs more."""
        # The request.
        self.scope = scope
        self.method: str = scope["method"]
        self.scheme: str = scope["scheme"]
        self.version: str = scope["http_version"]
        self.headers: Headers = scope["headers"]
        self.fields = fields
        self.target = target
        peer = scope.get("client")
        self.peer: str = peer[0] if peer else ""  # its address; empty over a Unix socket
        self.body: RequestBody | None = None  # None if the request has none
        self.websocket_key: bytes | None = None  # of a WebSocket handshake that is forwarded
        # The response.
        self.transform_response_headers: Callable[[Headers], Headers] | None = None  # applied last to every response
        self.continue_on_disconnect = False
        self.gone = False
        self.on_gone: Callable[[], None] | None = None  # called when `gone` is set
        self.started = False
        self._receive = receive
        self._exchange = timer.exchange
        self._timer = timer
        extensions = scope.get("extensions")
        connection: DownstreamConnection | None = extensions.get(CONNECTION) if extensions else None
        self._hints: asyncio.Task[None] | None = None  # sends the early hints, before the head
        self._send: Send | None = send
        self.direct: DownstreamConnection | None = None
        if connection is not None and send == connection.send:
            self._send = None
            self.direct = connection
        self.connection = connection
        self._reader: _Reader | None = None
        return self

    # The request.

    @property
    def wants_websocket(self) -> bool:
        """Whether the request is a WebSocket handshake (RFC 6455 section 4.1) that `upgrade` can answer."""
        return self.direct is not None and self.direct.wants_websocket

    def expect_disconnect(self) -> None:
        """Listens for a disconnect before `open`, if the server reports it through a callback."""
        if self.connection is not None:
            self._listen(0, has_body=False)

    def open(self, body_limit: int | None, read_ahead: int) -> None:
        """Starts to listen, and sets ``body``.

        Raises BodyTooLarge if Content-Length is over ``body_limit`` bytes. Reading the body raises it if more data
        arrives without Content-Length, and ClientDisconnected if the client leaves before the end.
        """
        connection = self.connection
        # In HTTP/2, no field announces a body.
        has_body = connection.has_body if connection is not None else self.fields.has_body
        if not has_body:
            self._exchange.request_read_at = self._exchange.started_at
        elif body_limit is not None and self._announced() > body_limit:
            self._listen(read_ahead, has_body=False)
            raise BodyTooLarge(f"The request body is over the limit of {body_limit} bytes")
        if connection is not None and not connection.disconnected:
            connection.on_disconnect = self._left
        else:
            self._listen(read_ahead, has_body=has_body)
        if has_body:
            self.body = body = RequestBody(self._receive, self._exchange, self._timer, body_limit)
            self._take_whole(body)

    def limit_body(self, limit: int | None) -> None:
        """Changes the limit set by `open`. Raises BodyTooLarge like `open` and the body."""
        if limit is not None and self._announced() > limit:
            raise BodyTooLarge(f"The request body is over the limit of {limit} bytes")
        if self.body is not None:
            self.body.restrict(limit)

    def _take_whole(self, body: RequestBody) -> None:
        """Takes the body at once if it arrived with the head; it can then be sent with the head, without a task.

        Content-Length was already checked against the limit.
        """
        connection = self.connection
        if connection is None or self._receive != connection.receive or b"content-length" not in self.fields.noted:
            return
        data = connection.take_body()
        if data is not None:
            self._exchange.request_bytes = len(data)
            self._exchange.request_read_at = self._exchange.started_at
            body.came_whole(data)

    def _announced(self) -> int:
        length = self.fields.noted.get(b"content-length", b"")
        return int(length) if length.isdigit() else 0

    def _listen(self, read_ahead: int, *, has_body: bool) -> None:
        connection = self.connection
        if connection is None:
            self._reader = _Reader(self._receive, read_ahead, self._left, has_body=has_body)
            self._receive = self._reader.take
        elif connection.disconnected:
            self._left()
        else:
            connection.on_disconnect = self._left

    def _left(self) -> None:
        if self.continue_on_disconnect and self.started:
            self.gone = True
            if self.on_gone is not None:
                self.on_gone()
        else:
            fault = self.connection.fault if self.connection is not None else None
            self._exchange.interrupt(fault or ClientDisconnected())

    def request_trailers(self, not_behind: frozenset[bytes]) -> Headers:
        """Returns the request's trailer fields that may be forwarded, once the body has ended; none of these names."""
        connection = self.connection
        return passable_request_trailers(connection.request_trailers, not_behind) if connection is not None else []

    def cut(self) -> bool:
        """Disconnects the client, as if it had left; the exchange continues if it may.

        Returns whether this was possible: only our own servers can do it.
        """
        direct = self.direct
        if direct is None or not self.started or not self.continue_on_disconnect:
            return False
        direct.abort()
        return True

    # The response.

    @property
    def takes_trailers(self) -> bool:
        """Whether trailer fields would reach the client."""
        if self.direct is not None:
            return self.direct.takes_trailers
        return self._offers("http.response.trailers") and self.fields.te_trailers

    @property
    def takes_informational(self) -> bool:
        """Whether any 1xx response would reach the client."""
        return self.direct is not None or self._offers("http.response.early_hint")

    def _offers(self, extension: str) -> bool:
        """Whether the server has an extension of ASGI. Where ours is wrapped, the messages of none may pass."""
        return self.connection is None and extension in (self.scope.get("extensions") or ())

    def hold(self, size: int) -> None:
        """Limits the bytes that the server holds for the client to about ``size``, if the server supports it."""
        if self.connection is not None:
            self.connection.set_write_limit(size)

    def informational(self, status: int, headers: Headers) -> None:
        """Sends a 1xx response before the head, if the server can; ASGI has a message for early hints only.

        A response that cannot be sent is dropped without an error, because the caller is reading from the upstream's
        connection, which other clients may share.
        """
        if self.direct is not None:
            if not self.direct.disconnected:
                with contextlib.suppress(ValueError):  # a field that the client's protocol cannot carry
                    self.direct.informational(status, headers)
        elif status == 103 and self.takes_informational and not self.started and self._send is not None:
            links = [value for name, value in headers if name == b"link"]
            message: Message = {"type": "http.response.early_hint", "links": links}
            self._hints = asyncio.get_running_loop().create_task(_send_behind(self._hints, self._send, message))

    def begin(self, status: int, headers: Headers, whole: bool, reason: bytes = b"") -> Awaitable[None] | None:
        """Sends the response head; returns an awaitable or None. ``whole`` means that the body follows without a wait,
        or `DownstreamConnection.uncork` before one.

        ``reason`` is the upstream's reason phrase; empty for the standard one.
        """
        if self.transform_response_headers is not None:
            headers = self.transform_response_headers(headers)
        self.started = True
        self._exchange.status = status
        if self._send is not None:
            message: Message = {"type": "http.response.start", "status": status, "headers": headers}
            if self._offers("http.response.trailers"):
                message["trailers"] = self.takes_trailers
            return self._send(message) if self._hints is None else _send_behind(self._hints, self._send, message)
        assert self.connection is not None
        self.connection.begin(status, headers, whole, reason)
        return None

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Sends a part of the body, the last one unless ``more`` is set; returns an awaitable or None.

        It saves a message and a coroutine per chunk if the server is our own and no middleware wraps its send.
        """
        direct = self.direct
        if direct is not None:
            return direct.write(body, more)
        assert self._send is not None
        return self._send({"type": "http.response.body", "body": body, "more_body": more})

    def upgrade(self, headers: Headers) -> ByteStream:
        """Answers a handshake (see `wants_websocket`) with 101; returns the client's end of the tunnel.

        Raises ClientLeft, an OSError, if the client has left.
        """
        if self.transform_response_headers is not None:
            headers = self.transform_response_headers(headers)
        direct = self.direct
        assert direct is not None
        stream = direct.upgrade(headers)
        self.started = True
        self._exchange.status = 101
        return stream

    def finish(self, trailers: Headers) -> Awaitable[None] | None:
        """Ends the body, with trailer fields if they reach the client; returns an awaitable or None."""
        direct = self.direct
        if direct is not None:
            return direct.finish(trailers) if trailers else self.write(b"", False)
        if self._send is not None and self.takes_trailers:
            return _finish(self._send, trailers)
        return self.write(b"", False)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a complete response."""
        waiting = self.begin(status, headers, True)
        if waiting is not None:
            await waiting
        waiting = self.write(body, False)
        if waiting is not None:
            await waiting

    def close(self) -> None:
        """Stops listening, and sends no more early hints."""
        if self._hints is not None:
            self._hints.cancel()
        if self.connection is not None:
            self.connection.on_disconnect = None
        elif self._reader is not None:
            self._reader.close()


async def _send_behind(hints: asyncio.Task[None] | None, send: Send, message: Message) -> None:
    """Sends a message after the early hints. A failure to send those has no consequence."""
    if hints is not None:
        await asyncio.wait({hints})
        if not hints.cancelled():
            hints.exception()
    await send(message)


async def _finish(send: Send, trailers: Headers) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})


class _Reader:
    """The only reader of ``receive()`` on servers without callbacks; reads ahead at most ``limit`` bytes."""

    __slots__ = ("_held", "_left", "_limit", "_messages", "_receive", "_room", "_task", "_waiter")

    def __init__(self, receive: Receive, limit: int, left: Callable[[], None], *, has_body: bool) -> None:
        self._receive = receive
        self._limit = limit
        self._left = left
        self._messages: deque[Message] = deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._task = asyncio.get_running_loop().create_task(self._read(has_body))

    async def _read(self, has_body: bool) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._hand_over(message)
                self._left()
                return
            if not has_body:
                continue  # the empty body of a request that has none
            self._hand_over(message)
            while self._held > self._limit:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    def _hand_over(self, message: Message) -> None:
        self._messages.append(message)
        self._held += len(message.get("body", b""))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> Message:
        """Returns the next message, in order."""
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        self._held -= len(message.get("body", b""))
        if self._room is not None and not self._room.done() and self._held <= self._limit:
            self._room.set_result(None)
        return message

    def close(self) -> None:
        self._task.cancel()
