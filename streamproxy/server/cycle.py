"""One request and its response as seen by an ASGI application, for every protocol.

Theory of operation. The connection feeds a cycle with the request's body, and tells it when the client leaves. The
application receives both through ``receive()`` and ``on_disconnect``. The response moves through these states::

    not started ──begin()──▶ open ──last write() or finish()──▶ complete

It stays in its state if the client leaves (``disconnected``) or the application fails. A response is complete when its
last byte was written and the write buffer is below its limit. The subclass ensures that a response that never completes
does not look complete.

`RequestCycle` is the part that is the same for every protocol: ASGI's receive and send, the queue of the body, the
client's disconnect, the application's task, and the error response if the application fails. A subclass for one
protocol implements the response (``begin``, ``write``, ``push``, ``drained``, ``finish``, ``takes_trailers``,
``informational``, ``set_write_limit``, and ``upgrade`` if the protocol has it) and these hooks:

- ``_taken(size)``: the application has taken so many bytes of the body, which are no longer ``held``.
- ``_continue()``: tells a waiting client to send the body. Called at most once.
- ``_answer(status, headers, body)``: sends a whole response in the application's place; nothing was sent before.
- ``_abandon()``: the response will never be complete, whether it has begun or not.

The subclass sets ``started`` and ``_open`` in ``begin``, refuses calls that are out of turn with `_refuse_turn`, and
tells its connection after the last byte, which calls `completed`. After an upgrade it sets ``_stream``, which is closed
when the application ends; the response then counts as complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from streamproxy.errors import ClientLeft, ExchangeAborted, ExchangeError, InternalError, StoppedByShutdown
from streamproxy.exchange.extension import DownstreamConnection
from streamproxy.exchange.stream import ByteStream
from streamproxy.server.refusal import refusal
from streamproxy.wire.headers import Headers

logger = logging.getLogger("streamproxy.error")

Message = MutableMapping[str, Any]

_MOST_PIECES: Final = 64  # of a body that wait apart; beyond it they are joined, since each costs more than its bytes


class RequestCycle(DownstreamConnection):
    """The part of a request that does not depend on its protocol.

    ``body_complete`` is whether the whole request body was received, and ``held`` is the number of its bytes that the
    application has not taken. ``started`` is whether the response head was sent, and ``complete`` is whether the
    response is complete.
    """

    __slots__ = (
        "_expects_continue",
        "_loop",
        "_open",
        "_pieces",
        "_state",
        "_stream",
        "_told_end",
        "_trailers",
        "_waiters",
        "body_complete",
        "complete",
        "held",
        "started",
    )

    def _prepare(self, loop: asyncio.AbstractEventLoop, state: ServerState, target: bytes, has_body: bool) -> None:
        """Sets the attributes, in place of an `__init__`, which costs more."""
        self._loop = loop
        self._state = state
        self.target = target
        self.known = None
        self.wants_websocket = False
        # The body.
        self._pieces: deque[bytes] | None = deque() if has_body else None
        self.has_body = has_body
        self.body_complete = not has_body
        self.held = 0
        self._expects_continue = False  # whether the client waits for a 100 before it sends the body
        self._told_end = False
        self._waiters: list[asyncio.Future[None]] | None = None
        # The response.
        self.started = False
        self._open = False  # whether its head was sent and it has a body
        self._trailers: Headers | None = None  # whether an application has announced some by plain ASGI
        self._stream: ByteStream | None = None  # the stream after an upgrade
        self.complete = False
        self.disconnected = False
        self.fault = None
        self.on_disconnect = None

    # For the application.

    def take_body(self) -> bytes | None:
        """Returns the rest of the body if all of it was received; ``receive`` then returns no more of it."""
        if not self.body_complete or self._told_end or not self._pieces:
            return None
        body = b"".join(self._pieces)
        self._pieces.clear()
        self.held, self._told_end = 0, True
        self._taken(len(body))
        return body

    async def receive(self) -> Message:
        """ASGI's receive: returns the body piece by piece, then ``http.disconnect`` when the exchange has ended."""
        if self._expects_continue and not self.started and not self.disconnected:
            self._expects_continue = False
            self._continue()
        while not self.disconnected and not self.complete:
            if self._pieces:
                piece = self._pieces.popleft()
                self.held -= len(piece)
                self._taken(len(piece))
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
        """ASGI's send, with trailers and early hints. Waits only while the write buffer is above its limit.

        Raises ClientLeft after the client left, RuntimeError for a message that is out of turn and for a body whose
        length is not its Content-Length, and ValueError for an invalid head.
        """
        kind = message["type"]
        if kind == "http.response.body":
            more = message.get("more_body", False)
            waiting = self.write(message.get("body", b""), more or self._trailers is not None)
        elif kind == "http.response.start":
            self.begin(message["status"], message.get("headers", ()))
            self._trailers = [] if message.get("trailers", False) else None
            waiting = self.drained()
        elif kind == "http.response.trailers" and self._trailers is not None:
            self._trailers += message.get("headers", ())
            waiting = None if message.get("more_trailers", False) else self.finish(self._trailers)
        elif kind == "http.response.early_hint" and not self.started:
            self.informational(103, [(b"link", link) for link in message.get("links", ())])
            waiting = None
        else:
            raise RuntimeError(f"{kind} out of turn")
        if waiting is not None:
            await waiting

    # For the connection.

    def feed(self, piece: bytes, last: bool) -> None:
        """Adds a received part of the body."""
        self._expects_continue = False
        pieces = self._pieces
        if piece and pieces is not None:
            if len(pieces) >= _MOST_PIECES:
                joined = b"".join(pieces)
                pieces.clear()
                pieces.append(joined)
            pieces.append(piece)
            self.held += len(piece)
        self.body_complete = last
        self._wake()

    def disconnect(self) -> None:
        """The client left. Does nothing if that is known, or if the response is complete."""
        if self.disconnected or self.complete:
            return
        self.disconnected = True
        self._open = False
        self._pieces = None
        self._wake()
        if self.on_disconnect is not None:
            call, self.on_disconnect = self.on_disconnect, None
            call()

    def start(self, app: ASGIApp, scope: dict[str, Any], plain_task: bool) -> None:
        """Runs the application in its own task, which is one of the server's tasks until it ends.

        ``plain_task`` means that the loop has no task factory.
        """
        loop, work = self._loop, self.run(app, scope)
        if plain_task:
            # As the loop would, but without generating a name for each task, which is expensive.
            self.task = asyncio.Task(work, loop=loop, name="request")
        else:
            self.task = loop.create_task(work)
        self._state.tasks.add(self.task)

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        """Calls the application, and ensures that its response ends."""
        fault: type[ExchangeError] | None = InternalError
        try:
            await app(scope, self.receive, self.send)
            if not self.complete and not self.disconnected:
                logger.error("the application returned without completing its response")
        except asyncio.CancelledError:
            fault = StoppedByShutdown  # a server that stops cancels running tasks
            raise
        except ExchangeAborted:
            fault = None
        except ClientLeft:
            pass
        except Exception as error:
            logger.error("the application failed", exc_info=error)
        finally:
            stream, self._stream = self._stream, None
            if stream is not None:
                stream.close()
            elif not self.complete and not self.disconnected:
                self._give_up(fault() if fault is not None else None)
            self._state.tasks.discard(self.task)
            del self.task

    def completed(self) -> None:
        """The last byte of the response was written."""
        self._open = False
        self.complete = True
        self.on_disconnect = None
        self._pieces = None
        if self._waiters is not None:
            self._wake()

    # For the subclass.

    def _give_up(self, error: ExchangeError | None) -> None:
        """Sends an error in the application's place, or leaves a started response incomplete."""
        if self.started or error is None:
            self._abandon()
        else:
            headers, body = refusal(error)
            self._answer(error.status, headers, body)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _refuse_turn(self, step: str) -> None:
        """Raises the error of a step of the response that is out of turn: ClientLeft or RuntimeError."""
        if self.disconnected:
            raise ClientLeft("the client has left")
        raise RuntimeError(f"{step} out of turn")

    def _taken(self, size: int) -> None:
        raise NotImplementedError

    def _continue(self) -> None:
        raise NotImplementedError

    def _answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        raise NotImplementedError

    def _abandon(self) -> None:
        raise NotImplementedError
