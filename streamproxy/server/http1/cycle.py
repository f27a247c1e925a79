"""One request and its response on an HTTP/1.1 connection, as ASGI sees them.

Theory of operation. The connection feeds a cycle with the request's body and tells it when the client leaves; the
application takes the one and hears of the other through ``receive()`` and ``on_disconnect``. The response goes from
``send()`` straight to the transport. It moves through::

    no head sent ──▶ head sent, in one of four framings ──▶ complete
                     NO_BODY | SIZED | CHUNKED | TO_CLOSE

and stops in any of them when the client leaves (``disconnected``) or the application fails. A response is complete
when its last byte was written and the transport holds no more than it may; only then may the connection turn to the
next request, so a client that takes nothing can't make the server hold more than one response. A response that never
completes is given to `Connection.unfinished`, which sees to it that it does not look finished.

The head is corked: it is written at the end of the event loop's turn, together with what the application has sent of
the body until then, so that a short response is one write (the write is most of what it costs). It never waits for
anything to happen. After that every chunk is written when it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Protocol

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from streamproxy.dialects.http import error_response
from streamproxy.errors import BadRequest, ClientLeft, ExchangeAborted, ExchangeError, InternalError, StoppedByShutdown
from streamproxy.exchange.exchange import new_request_id
from streamproxy.server.flow import Flow
from streamproxy.server.http1.head import connection_field, expects_continue, head_fields, with_defaults
from streamproxy.wire.chunked import SIZE_LINES
from streamproxy.wire.http1 import NO_BODY
from streamproxy.wire.request import RequestHead

logger = logging.getLogger("streamproxy.error")

Message = MutableMapping[str, Any]

_UNSTARTED: Final = 0
_NO_BODY: Final = 1
_SIZED: Final = 2
_CHUNKED: Final = 3
_TO_CLOSE: Final = 4
_HEAD_END: Final = b"\r\n"
_CHUNKED_END: Final = b"transfer-encoding: chunked\r\n" + _HEAD_END
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Above this a chunk is not copied between its size and its CRLF: three buffers in one writev are cheaper.
_COPY_UP_TO: Final = 48 * 1024
_CORK_UP_TO: Final = 16 * 1024  # bytes of a chunk that may wait with the head
_MOST_CORKED: Final = 40  # parts that may wait with the head, three a chunk
_SMALL: Final = len(SIZE_LINES)


class Connection(Protocol):
    """What a cycle needs of its connection."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: Flow
    stopping: bool
    plain_tasks: bool  # whether its loop has no task factory

    def update_reading(self) -> None:
        """The application has taken some of the body while the transport was not being read."""

    def responded(self, cycle: RequestCycle) -> None:
        """The response is complete."""

    def unfinished(self, cycle: RequestCycle) -> None:
        """The response will never be complete."""


class RequestCycle:
    """One request with its response; for the application it is a `streamproxy.exchange.extension.DownstreamConnection`.

    ``body_complete`` says whether the request's body was received to its end.
    """

    __slots__ = (
        "_connection",
        "_cork",
        "_expects_continue",
        "_flow",
        "_framing",
        "_left",
        "_loop",
        "_method",
        "_open",
        "_pieces",
        "_state",
        "_streams",
        "_told_end",
        "_transport",
        "_version",
        "_waiters",
        "body_complete",
        "complete",
        "disconnected",
        "fault",
        "held",
        "keep_alive",
        "on_disconnect",
        "target",
        "task",
    )

    __deletable__ = ("task",)

    task: asyncio.Task[None]

    def __init__(self, connection: Connection, head: RequestHead, state: ServerState) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._flow = connection.flow
        self._loop = connection.loop
        self._state = state
        # The request.
        self._method = head.method
        self._version = head.version
        self.target = head.target
        # The body.
        self._expects_continue = False
        self._pieces: deque[bytes] | None = None
        self.held = 0  # bytes that the application has not taken
        self._told_end = False
        self._waiters: list[asyncio.Future[None]] | None = None
        framing = head.framing
        if framing is NO_BODY:
            self.keep_alive = self.body_complete = True
        else:
            self.keep_alive = framing.keep_alive
            self.body_complete = framing.length == 0
            if not self.body_complete:
                self._pieces = deque()
                self._expects_continue = head.version == "1.1" and expects_continue(head.headers)
        # The response.
        self._open = False  # its head was sent, and its body is wanted
        self._framing = _UNSTARTED
        self._left = 0  # bytes that Content-Length still promises
        self._cork: list[bytes] | None = None  # what is sent but not written, in the turn of the head
        self._streams = False  # chunked, and nothing is corked any more
        self.complete = False
        self.disconnected = False
        self.fault: BadRequest | None = None
        self.on_disconnect: Callable[[], None] | None = None

    # For the application, beyond ASGI.

    def set_write_limit(self, high: int) -> None:
        """Let the transport hold about ``high`` bytes of this response before ``send()`` waits."""
        if not self.complete and not self.disconnected:
            self._connection.flow.limit(high)

    def take_body(self) -> bytes | None:
        """What is left of the body, if all of it has come; then ``receive`` gives no more of it."""
        if not self.body_complete or self._told_end or not self._pieces:
            return None
        body = b"".join(self._pieces)
        self._pieces.clear()
        self.held, self._told_end = 0, True
        if not self._flow.reading:
            self._connection.update_reading()
        return body

    # For the connection.

    @property
    def started(self) -> bool:
        """Whether the response's head was sent."""
        return self._framing != _UNSTARTED

    @property
    def ends_with_close(self) -> bool:
        """Whether the client takes the connection's end for the end of the body."""
        return self._framing == _TO_CLOSE

    def feed(self, piece: bytes, *, last: bool) -> None:
        """Some of the body came."""
        self._expects_continue = False
        if piece and self._pieces is not None:
            self._pieces.append(piece)
            self.held += len(piece)
        self.body_complete = last
        self._wake()

    def disconnect(self) -> None:
        """The client left. Does nothing when that was known, or when the response is complete."""
        if self.disconnected or self.complete:
            return
        self.disconnected = True
        self._open = False
        self._cork = None
        self._pieces = None
        self._wake()
        if self.on_disconnect is not None:
            call, self.on_disconnect = self.on_disconnect, None
            call()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def start(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        """Run the application in a task of its own, which is among the server's until it ends."""
        loop, work = self._loop, self.run(app, scope)
        if self._connection.plain_tasks:
            # As the loop would, but without making up a name for each: an eighth less of what a task costs.
            self.task = asyncio.Task(work, loop=loop, name="request")
        else:
            self.task = loop.create_task(work)
        self._state.tasks.add(self.task)

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        """Call the application, and see to it that its response has an end, good or bad."""
        fault: type[ExchangeError] | None = InternalError
        try:
            await app(scope, self.receive, self.send)
            if not self.complete and not self.disconnected:
                logger.error("the application returned without completing its response")
        except asyncio.CancelledError:
            fault = StoppedByShutdown  # a server that stops cancels what still runs
            raise
        except ExchangeAborted:
            fault = None
        except ClientLeft:
            pass
        except Exception as error:
            logger.error("the application failed", exc_info=error)
        finally:
            if not self.complete and not self.disconnected:
                self._give_up(fault() if fault is not None else None)
            self._state.tasks.discard(self.task)
            del self.task

    def _give_up(self, error: ExchangeError | None) -> None:
        """Answer with an error in the application's place, or leave what it began unfinished."""
        if self.started or error is None:
            self._uncork()
            self._connection.unfinished(self)
            return
        headers, body = error_response(error, new_request_id())
        self.keep_alive = False
        self._send_head(error.status, headers)
        self._send_body(body, more=False)
        self._complete()

    async def receive(self) -> Message:
        """ASGI's receive: the body piece by piece, then ``http.disconnect`` once there is something to tell."""
        if self._expects_continue and not self.started and not self.disconnected:
            self._expects_continue = False
            self._transport.write(_CONTINUE)
        while not self.disconnected and not self.complete:
            if self._pieces:
                piece = self._pieces.popleft()
                self.held -= len(piece)
                if not self._connection.flow.reading:
                    self._connection.update_reading()
                self._told_end = self.body_complete and not self._pieces
                return {"type": "http.request", "body": piece, "more_body": not self._told_end}
            if self.body_complete and not self._told_end:
                self._told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            waiter = self._loop.create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's send. Waits only while the transport holds more than it may.

        Raises ClientLeft after the client left, RuntimeError for a message that is out of turn and for a body that is
        not as long as its Content-Length, and ValueError for a head that is not valid.
        """
        kind = message["type"]
        if kind == "http.response.body":
            waiting = self.write(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start":
            self.begin(message["status"], message.get("headers", ()))
            waiting = self._drain(True) if self._flow.paused else None
        else:
            raise RuntimeError(f"{kind} out of turn")
        if waiting is not None:
            await waiting

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False) -> None:
        """Send the head of the response. Raises as `send`.

        ``whole`` says that the body follows at once, with no wait: to come back for the head costs 3,500 instructions.
        """
        if self.disconnected:
            raise ClientLeft("the client has left")
        if self._framing != _UNSTARTED:
            raise RuntimeError("http.response.start out of turn")
        self._send_head(status, headers)
        if not whole:
            self._loop.call_soon(self._uncork)

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Send some of the body, the last of it when there is no ``more``; gives what to wait for, None for nothing.

        Raises as `send`, and so may the wait.
        """
        if not self._open:
            if self.disconnected:
                raise ClientLeft("the client has left")
            raise RuntimeError("http.response.body out of turn")
        if more and self._streams and 0 < len(body) < _SMALL:
            # Most chunks of most streams; the general way costs them 800 instructions more.
            self._transport.write(SIZE_LINES[len(body)] + body + b"\r\n")
        else:
            self._send_body(body, more)
        if self._flow.paused:
            return self._drain(more)
        if not more:
            self._complete()
        return None

    async def _drain(self, more: bool) -> None:
        self._uncork()
        while self._flow.paused:
            await self._flow.drained()
            if self.disconnected:
                raise ClientLeft("the client has left")
        if not more:
            self._complete()

    def _complete(self) -> None:
        self._open = False
        self.complete = True
        self.on_disconnect = None
        self._pieces = None
        if self._waiters is not None:
            self._wake()
        self._connection.responded(self)

    def _send_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self._state.default_headers:
            headers = with_defaults(self._state.default_headers, headers)
        fields, length, closes = head_fields(status, headers)
        # A client that waits for a 100 may send its body, or the next request in its place: nobody can tell.
        if closes or self._connection.stopping or self._expects_continue:
            self.keep_alive = False
        # How the body will end (RFC 9112 section 6.3), and with it whether the connection can go on.
        framing = _CHUNKED
        if self._method == "HEAD" or status == 204 or status == 304:
            framing = _NO_BODY
        elif length is not None:
            framing = _SIZED
            self._left = length
        elif self._version == "1.0":
            framing = _TO_CLOSE
            self.keep_alive = False
        self._framing = framing
        self._open = True
        end = _CHUNKED_END if framing == _CHUNKED else _HEAD_END
        if not self.keep_alive or self._version == "1.0":
            end = connection_field(fields, keep_alive=self.keep_alive) + end
        self._cork = [fields, end]

    def _uncork(self) -> None:
        """Write the head, with what was sent since."""
        cork, self._cork = self._cork, None
        if cork is not None:
            self._streams = self._framing == _CHUNKED
            self._transport.write(b"".join(cork))

    def _send_body(self, body: bytes, more: bool) -> None:
        """Send some of the body, or cork it; what is corked goes with the last of it."""
        size = len(body)
        parts: tuple[bytes, ...]
        if self._framing == _CHUNKED:
            if size:
                line = SIZE_LINES[size] if size < _SMALL else b"%x\r\n" % size
                parts = (line, body, b"\r\n" if more else b"\r\n0\r\n\r\n")
            else:
                parts = () if more else (b"0\r\n\r\n",)
        elif self._framing == _SIZED:
            self._left -= size
            if self._left < 0:
                raise RuntimeError("the body is longer than its Content-Length")
            parts = (body,)
        else:
            parts = (body,) if self._framing == _TO_CLOSE else ()
        cork = self._cork
        if cork is not None:
            if more and size <= _CORK_UP_TO and len(cork) < _MOST_CORKED:
                cork += parts
                return
            self._cork = None
            parts = (*cork, *parts)
        if size > _COPY_UP_TO:
            self._transport.writelines(parts)
        elif parts:
            self._transport.write(b"".join(parts))
        if self._left and not more:
            raise RuntimeError("the body is shorter than its Content-Length")
