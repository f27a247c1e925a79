"""The client's side of one exchange, over plain ASGI: its request body, its leaving, its response.

An ASGI server says that the client has left in one way only: through ``receive()``, to whichever task awaits it. So
something has to listen from the first moment to the last, also while the body is still coming. There are two ways:

- Our own protocols offer ``scope["extensions"]["streamproxy.connection"]``, which calls back the moment the client
  leaves. Nothing has to listen, and the body is read when it is wanted.
- On any other server one task reads ``receive()``, a bounded number of bytes ahead of the body's reader, until it
  hears of a disconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from streamproxy.errors import BodyTooLarge, ClientDisconnected
from streamproxy.exchange.body import Receive, RequestBody
from streamproxy.exchange.extension import CONNECTION, Cancellable, DownstreamConnection
from streamproxy.exchange.stream import ByteStream
from streamproxy.exchange.target import Target
from streamproxy.exchange.timer import Timer
from streamproxy.wire.headers import Headers, RequestFields, passable_trailers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Downstream:
    """The client of one exchange: what it asked for, and how to answer.

    ``gone`` is set when the client has left and the exchange goes on without it (``on_disconnect: continue``);
    otherwise its leaving interrupts the exchange with ClientDisconnected. ``connection`` is our own server's, and
    ``direct`` the same where no middleware stands between it and this. ``wants_websocket`` says whether the request is
    a WebSocket handshake (RFC 6455 section 4.1) that `upgrade` can answer.
    """

    __slots__ = (
        "_exchange",
        "_reader",
        "_receive",
        "_send",
        "_timer",
        "_trailers",
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
        "wants_websocket",
        "websocket_key",
        "write",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, target: Target, fields: RequestFields, timer: Timer
    ) -> None:
        # What it asked for.
        self.scope = scope
        self.method: str = scope["method"]
        self.scheme: str = scope["scheme"]
        self.version: str = scope["http_version"]
        self.headers: Headers = scope["headers"]
        self.fields = fields
        self.target = target
        peer = scope.get("client")
        self.peer: str = peer[0] if peer else ""  # its address; empty over a unix socket
        self.body: RequestBody | None = None  # None if the request has none
        self.websocket_key: bytes | None = None  # of a WebSocket handshake that goes upstream as one
        # How to answer.
        self.transform_response_headers: Callable[[Headers], Headers] | None = None  # the last word on any response
        self.continue_on_disconnect = False
        self.gone = False
        self.on_gone: Callable[[], None] | None = None  # called when `gone` is set
        self.started = False
        self._receive = receive
        self._exchange = timer.exchange
        self._timer = timer
        extensions = scope.get("extensions")
        connection: DownstreamConnection | None = extensions.get(CONNECTION) if extensions else None
        self._trailers = False
        if connection is None and extensions:
            self._trailers = "http.response.trailers" in extensions
        # ``write`` takes a chunk and whether more will come, and returns what to wait for, or None. It spares a chunk a
        # message and a coroutine where the server offers it, and no middleware is around its send.
        self._send: Send | None = send
        self.direct: DownstreamConnection | None = None
        self.write: Callable[[bytes, bool], Awaitable[None] | None]
        if connection is not None and send == connection.send:
            self._send = None
            self.direct = connection
            self.write = connection.write
        else:
            self.write = partial(_write, send)
        self.connection = connection
        self.wants_websocket = self.direct is not None and self.direct.wants_websocket
        self._reader: _Reader | None = None

    def task(self) -> Cancellable | None:
        """The task that the exchange runs in, where the server tells it and no middleware may have made another."""
        return self.direct.task if self.direct is not None else None

    # The request.

    def open(self, *, body_limit: int | None, read_ahead: int) -> None:
        """Begin to listen, and set ``body``.

        Raises BodyTooLarge when Content-Length is over ``body_limit`` bytes; reading the body raises it when more than
        that comes unannounced, and ClientDisconnected when the client leaves in the middle.
        """
        connection = self.connection
        # Over HTTP/2 a body needs no field that announces it.
        has_body = connection.has_body if connection is not None else self.fields.has_body
        if not has_body:
            self._exchange.request_read_at = self._exchange.started_at
        elif body_limit is not None and self._announced() > body_limit:
            self._listen(read_ahead, has_body=False)
            raise BodyTooLarge(f"The request body is over the limit of {body_limit} bytes")
        self._listen(read_ahead, has_body=has_body)
        if has_body:
            self.body = body = RequestBody(self._receive, self._exchange, self._timer, body_limit)
            self._take_whole(body)

    def limit_body(self, limit: int | None) -> None:
        """Hold the body to another limit than `open` did. Raises BodyTooLarge as that and its body do."""
        if limit is not None and self._announced() > limit:
            raise BodyTooLarge(f"The request body is over the limit of {limit} bytes")
        if self.body is not None:
            self.body.restrict(limit)

    def _take_whole(self, body: RequestBody) -> None:
        """Take the body at once, if it has come with its head: it can go out with the head then, without a task.

        Content-Length was held to the limit already.
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

    def request_trailers(self) -> Headers:
        """The fields behind the request's body that may go on, once it has ended."""
        return passable_trailers(self.connection.request_trailers) if self.connection is not None else []

    def cut(self) -> bool:
        """Break the client's connection off, as if it had left; its exchange goes on where it may.

        Returns whether that was possible: only our own servers can.
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
        return self._trailers and self.fields.te_trailers

    def hold(self, size: int) -> None:
        """Let the server hold at most about ``size`` bytes that the client has not taken, where it can be told."""
        if self.connection is not None:
            self.connection.set_write_limit(size)

    def informational(self, status: int, headers: Headers) -> None:
        """Send a 1xx response before the head, where the server can.

        One that the client can't be sent is dropped: this is called in a read of the upstream's connection, which other
        clients may share.
        """
        if self.direct is not None and not self.direct.disconnected:
            with contextlib.suppress(ValueError):  # a field that this client's protocol has no form for
                self.direct.informational(status, headers)

    def begin(self, status: int, headers: Headers, whole: bool, reason: bytes = b"") -> Awaitable[None] | None:
        """Send the response head; returns what to wait for, or None. ``whole``: the body follows without a wait.

        ``reason`` is the upstream's reason phrase, empty for the usual one.
        """
        if self.transform_response_headers is not None:
            headers = self.transform_response_headers(headers)
        self.started = True
        self._exchange.status = status
        if self._send is not None:
            message: Message = {"type": "http.response.start", "status": status, "headers": headers}
            if self._trailers:
                message["trailers"] = self.takes_trailers
            return self._send(message)
        assert self.connection is not None
        self.connection.begin(status, headers, whole, reason)
        return None

    def upgrade(self, headers: Headers) -> ByteStream:
        """Answer a handshake that `wants_websocket` with 101; returns the client's end of the tunnel.

        Raises ClientLeft, an OSError, when the client has left.
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
        """End the body, with trailer fields where they reach the client; returns what to wait for, or None."""
        direct = self.direct
        if direct is not None:
            return direct.finish(trailers) if trailers else self.write(b"", False)
        if self._send is not None and self._trailers and self.takes_trailers:
            return _finish(self._send, trailers)
        return self.write(b"", False)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        waiting = self.begin(status, headers, True)
        if waiting is not None:
            await waiting
        waiting = self.write(body, False)
        if waiting is not None:
            await waiting

    def close(self) -> None:
        """Stop listening."""
        if self.connection is not None:
            self.connection.on_disconnect = None
        elif self._reader is not None:
            self._reader.close()


def _write(send: Send, body: bytes, more: bool) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": body, "more_body": more})


async def _finish(send: Send, trailers: Headers) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    await send({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})


class _Reader:
    """The one reader of ``receive()`` on a server that does not call back; reads ahead at most ``limit`` bytes."""

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
        """The next message, in order."""
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
