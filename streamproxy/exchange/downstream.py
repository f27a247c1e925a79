"""The client's side of one exchange, over plain ASGI: its request body, its leaving, its response.

An ASGI server says that the client has left in one way only: through ``receive()``, to whom it may concern. Somebody
has to listen from the first moment to the last, also while the body is still coming. Two ways:

- Our own HTTP/1.1 protocol offers ``scope["extensions"]["streamproxy.connection"]``, which calls back the moment the
  client leaves. Nothing has to listen, and the body is read when it is wanted.
- On any other server one task reads ``receive()``, a bounded number of bytes ahead of who takes the body, until it
  hears of a disconnect.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from streamproxy.client.base import WholeBody
from streamproxy.errors import BodyTooLarge, ClientDisconnected
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.extension import CONNECTION, Cancellable, DownstreamConnection
from streamproxy.exchange.target import Target
from streamproxy.exchange.timer import Watch
from streamproxy.wire.headers import Headers, RequestFields

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Downstream:
    """The client of one exchange: what it asked for, and how to answer.

    ``gone`` is set when the client has left and the exchange goes on without it (``on_disconnect: continue``);
    otherwise its leaving interrupts the exchange with ClientDisconnected.
    """

    __slots__ = (
        "_connection",
        "_exchange",
        "_reader",
        "_receive",
        "_send",
        "_watch",
        "carry_on",
        "content",
        "dress",
        "fields",
        "gone",
        "headers",
        "method",
        "peer",
        "scheme",
        "started",
        "target",
        "write",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, target: Target, fields: RequestFields, watch: Watch
    ) -> None:
        # What it asked for.
        self.method: str = scope["method"]
        self.scheme: str = scope["scheme"]
        self.headers: Headers = scope["headers"]
        self.fields = fields
        self.target = target
        peer = scope.get("client")
        self.peer: str = peer[0] if peer else ""  # its address; empty over a unix socket
        self.content: AsyncIterator[bytes] | None = None  # the request's body as it comes, None if there is none
        # How to answer.
        self.dress: Callable[[Headers], Headers] | None = None  # the last word on the fields of any response
        self.carry_on = False
        self.gone = False
        self.started = False
        self._receive = receive
        self._exchange = watch.exchange
        self._watch = watch
        extensions = scope.get("extensions")
        self._connection: DownstreamConnection | None = extensions.get(CONNECTION) if extensions else None
        # ``write`` takes a chunk and whether more will come, and gives what to wait for, or None. It spares a chunk a
        # message and a coroutine (2,500 instructions) where the server offers it, and no middleware is around its send.
        self._send: Send | None = send
        self.write: Callable[[bytes, bool], Awaitable[None] | None]
        if self._connection is not None and send == self._connection.send:
            self._send = None
            self.write = self._connection.write
        else:
            self.write = partial(_write, send)
        self._reader: _Reader | None = None

    def task(self) -> Cancellable | None:
        """The task that the exchange runs in, where the server tells it and no middleware may have made another."""
        return self._connection.task if self._connection is not None and self._send is None else None

    def open(self, *, body_limit: int | None, read_ahead: int) -> None:
        """Begin to listen, and say what ``content`` is.

        Raises BodyTooLarge when Content-Length is over ``body_limit`` bytes; the iterator raises it when more than
        that comes unannounced, and ClientDisconnected when the client leaves in the middle.
        """
        has_body = self.fields.has_body
        if not has_body:
            self._exchange.request_read_at = self._exchange.started_at
        elif body_limit is not None and self._announced() > body_limit:
            self._listen(read_ahead, has_body=False)
            raise BodyTooLarge(f"The request body is over the limit of {body_limit} bytes")
        self._listen(read_ahead, has_body=has_body)
        if has_body:
            self.content = self._whole() or _Body(self._receive, self._exchange, self._watch, body_limit)

    def _whole(self) -> WholeBody | None:
        """The body, if it has come with its head, within the limit that Content-Length was held to.

        It goes out with the head then, without a task: a POST costs 344,000 instructions, not 374,000.
        """
        connection = self._connection
        if connection is None or self._receive != connection.receive or b"content-length" not in self.fields.noted:
            return None
        data = connection.take_body()
        if data is None:
            return None
        self._exchange.request_bytes = len(data)
        self._exchange.request_read_at = self._exchange.started_at
        return WholeBody(data)

    def _announced(self) -> int:
        length = self.fields.noted.get(b"content-length", b"")
        return int(length) if length.isdigit() else 0

    def _listen(self, read_ahead: int, *, has_body: bool) -> None:
        connection = self._connection
        if connection is None:
            self._reader = _Reader(self._receive, read_ahead, self._left, has_body=has_body)
            self._receive = self._reader.take
        elif connection.disconnected:
            self._left()
        else:
            connection.on_disconnect = self._left

    def _left(self) -> None:
        if self.carry_on and self.started:
            self.gone = True
        else:
            fault = self._connection.fault if self._connection is not None else None
            self._exchange.interrupt(fault or ClientDisconnected())

    def hold(self, size: int) -> None:
        """Let the server hold at most about ``size`` bytes that the client has not taken, where it can be told."""
        if self._connection is not None:
            self._connection.set_write_limit(size)

    def begin(self, status: int, headers: Headers, whole: bool) -> Awaitable[None] | None:
        """Send the response head; gives what to wait for, or None. ``whole``: the body follows without a wait."""
        if self.dress is not None:
            headers = self.dress(headers)
        self.started = True
        self._exchange.status = status
        if self._send is not None:
            return self._send({"type": "http.response.start", "status": status, "headers": headers})
        assert self._connection is not None
        self._connection.begin(status, headers, whole)
        return None

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
        if self._connection is not None:
            self._connection.on_disconnect = None
        elif self._reader is not None:
            self._reader.close()


def _write(send: Send, body: bytes, more: bool) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": body, "more_body": more})


class _Body:
    """The request's body. An iterator and not a generator: one whose read is cancelled, because the attempt that it
    was for has ended, still has all the rest for the next."""

    __slots__ = ("_exchange", "_limit", "_more", "_receive", "_watch")

    def __init__(self, receive: Receive, exchange: Exchange, watch: Watch, limit: int | None) -> None:
        self._receive = receive
        self._exchange = exchange
        self._watch = watch
        self._limit = limit
        self._more = True

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        exchange, watch = self._exchange, self._watch
        while self._more:
            watch.body_since = time.monotonic()
            try:
                message = await self._receive()
            finally:
                watch.body_since = 0.0
                now = watch.since = time.monotonic()
            if message["type"] != "http.request":
                raise ClientDisconnected()
            self._more = message.get("more_body", False)
            if not self._more:
                exchange.request_read_at = now
            chunk: bytes = message.get("body", b"")
            if chunk:
                exchange.request_bytes += len(chunk)
                if self._limit is not None and exchange.request_bytes > self._limit:
                    raise BodyTooLarge(f"The request body is over the limit of {self._limit} bytes")
                return chunk
        raise StopAsyncIteration


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
