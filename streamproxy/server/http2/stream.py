"""One request and its response over HTTP/2.

Theory of operation. What a response sends is queued in the session, a stream apart, and taken from there as the
client's windows and the transport allow. A stream holds at most about its write limit: beyond it ``push`` returns
False and ``write`` waits, so that a client that does not read one stream holds that one's upstream and nothing else.
The half that all protocols share is `streamproxy.server.cycle`.

A stream is in the connection's table until the session says that it is closed, which may be long after its response is
complete: what is queued of it still has to go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Final

from uvicorn.server import ServerState

from streamproxy.errors import ClientLeft
from streamproxy.server.cycle import RequestCycle
from streamproxy.server.http1.head import with_defaults
from streamproxy.wire.headers import Headers
from streamproxy.wire.http2.head import Http2Head, informational_fields, response_fields, trailer_fields
from streamproxy.wire.http2.session import MAX_FRAME, STREAM_WINDOW, Session

WRITE_LIMIT: Final = 64 * 1024  # bytes of a response that wait for the client
_UNSIZED: Final = -1


class StreamOwner:
    """What a stream needs of its connection."""

    __slots__ = ("blocked", "loop", "session")

    loop: asyncio.AbstractEventLoop
    session: Session
    blocked: dict[int, Http2Stream]  # those that wait until less is queued

    def flush(self) -> None:
        """Write what can be sent now."""
        raise NotImplementedError

    def flush_soon(self) -> None:
        """Write what can be sent, at the end of the loop's turn."""
        raise NotImplementedError

    def queued(self, size: int) -> None:
        """A stream has queued so many bytes: write them, at the end of the loop's turn at the latest."""
        raise NotImplementedError

    def responded(self, stream: Http2Stream) -> None:
        """The last byte of the response is queued: completes the stream."""
        raise NotImplementedError

    def unfinished(self, stream: Http2Stream) -> None:
        """The response will never be complete."""
        raise NotImplementedError


class Http2Stream(RequestCycle):
    """One request with its response.

    ``behind_body`` are the fields that came behind the request's body. ``ended`` says that the last of the
    response is queued, ``end_alone`` that its end has a frame for itself.
    """

    __slots__ = (
        "_bodyless",
        "_connection",
        "_drainers",
        "_given",
        "_head",
        "_high",
        "_left",
        "_low",
        "_method",
        "_plain",
        "_queued",
        "_session",
        "behind_body",
        "end_alone",
        "ended",
        "id",
        "live",
    )

    def __init__(
        self, connection: StreamOwner, number: int, head: Http2Head, has_body: bool, state: ServerState
    ) -> None:
        self._prepare(connection.loop, state, head.target, has_body)
        self._connection = connection
        self._session = connection.session
        self.id = number
        self.live = True  # counts as one that the connection is busy with
        self._method = head.method
        self._expects_continue = has_body and head.expects_continue
        self.behind_body: Headers = []
        self._given = 0  # bytes of the window given back and perhaps not yet told
        self._high = WRITE_LIMIT
        self._low = WRITE_LIMIT // 4
        self._head: Headers | None = None  # waits for the body, which comes in the same step
        self._bodyless = False  # the response has no body: what is sent of one is dropped
        self._queued = 0  # at most so many bytes wait in the session
        self._left = _UNSIZED  # bytes that Content-Length still promises
        self._plain = False  # every chunk is sent as it is
        self._drainers: list[asyncio.Future[None]] = []  # a body and a keepalive may wait side by side
        self.ended = False
        self.end_alone = False

    # For the application, beyond ASGI.

    @property
    def request_trailers(self) -> Headers:
        """The fields that came behind the request's body, once it has ended."""
        return self.behind_body

    @property
    def takes_trailers(self) -> bool:
        """Whether trailer fields would reach the client: always, but in answer to HEAD."""
        return self._method != "HEAD" and not self._bodyless

    def set_write_limit(self, high: int) -> None:
        """Let about ``high`` bytes of this response wait for the client before a send waits."""
        self._high = high
        self._low = high // 4

    # For the connection.

    def disconnect(self) -> None:
        """The client has left this stream."""
        super().disconnect()
        self.wake()

    def wake(self) -> None:
        """Look again whether the client's side takes more."""
        if self._drainers:
            drainers, self._drainers = self._drainers, []
            for waiter in drainers:
                if not waiter.done():
                    waiter.set_result(None)

    @property
    def below(self) -> bool:
        """Whether so little is queued that a wait can end."""
        return self._session.queued(self.id) <= self._low

    def drop_body(self) -> None:
        """Nobody wants what is held of the request's body: give its window back."""
        held, self.held = self.held, 0
        self._session.consumed(self.id, held)

    # The response.

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send a 1xx response before the head."""
        if self.disconnected:
            raise ClientLeft("the client has left")
        if not 102 <= status <= 199:
            raise ValueError(f"{status} is not the status of an informational response")
        if not self.started:
            self._session.inform(self.id, informational_fields(status, headers))
            self._connection.flush()

    def begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False, reason: bytes = b""
    ) -> None:
        """Send the head. Without ``whole`` it is written at the end of the loop's turn; HTTP/2 has no reason phrase."""
        if self.disconnected or self.started:
            self._refuse_turn("the head")
        if self._state.default_headers:
            headers = with_defaults(self._state.default_headers, headers)
        fields, length = response_fields(status, headers)
        bodyless = self._method == "HEAD" or status == 204 or status == 304
        self.started = self._open = True
        self._bodyless = bodyless
        if length is not None and not bodyless:
            self._left = length
        if whole and not bodyless:  # one without a body ends with its head: gRPC's errors have to
            self._head = fields
            return
        self._plain = length is None and not bodyless
        self._session.respond(self.id, fields, bodyless, bodyless)
        if not whole or bodyless:
            self._connection.flush_soon()

    def push(self, chunk: bytes, framed: bytes) -> bool:
        """Send one chunk of a body that goes on, in the same step; whether the client's side may take more."""
        if not self._open:
            self._refuse_turn("the body")
        if self._plain:
            self._session.send(self.id, chunk, False)
        else:
            self._put(chunk, True)
        return self._fits(len(chunk))

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Send some of the body, the last of it when there is no ``more``; returns what to wait for."""
        if not self._open:
            self._refuse_turn("the body")
        self._put(body, more)
        return self._sent(len(body), more)

    def finish(self, trailers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None] | None:
        """End the body with trailer fields (RFC 9113 section 8.1)."""
        fields = trailer_fields(trailers)
        if not fields or not self._open or self._bodyless:
            return self.write(b"", False)
        self._check_left(0, False)
        head, self._head = self._head, None
        if head is not None:
            self._session.respond(self.id, head, False, True)
        self.ended = self.end_alone = True
        self._session.trailers(self.id, fields)
        return self._sent(0, False)

    def uncork(self) -> None:
        """Have a head that waits for its body written at the end of the loop's turn, as all of a connection is."""
        head, self._head = self._head, None
        if head is not None:
            self._session.respond(self.id, head, False, False)
            self._plain = self._left < 0
            self._connection.flush_soon()

    async def drained(self) -> None:
        """Wait until less is queued. Raises ClientLeft when the client leaves meanwhile."""
        if self._session.queued(self.id) > self._high:
            await self._drain(True)

    def _put(self, body: bytes, more: bool) -> None:
        head = self._head
        if head is not None:
            self._head = None
            end = not body and not more and self._left <= 0
            self._session.respond(self.id, head, end, not more and len(body) <= MAX_FRAME)
            self._plain = more and self._left < 0
            if end:
                self.ended = True
                return
        if self._bodyless:
            self.ended = not more
            return
        if self._left >= 0:
            self._check_left(len(body), more)
        if not more:
            self.ended = True
            self.end_alone = not body
        if body or not more:
            self._session.send(self.id, body, not more)

    def _check_left(self, size: int, more: bool) -> None:
        if self._left < 0:
            return
        self._left -= size
        if self._left < 0:
            raise RuntimeError("the body is longer than its Content-Length")
        if self._left and not more:
            raise RuntimeError("the body is shorter than its Content-Length")

    def _fits(self, size: int) -> bool:
        """So many bytes were queued: have them written. Returns whether the limit allows more."""
        self._queued += size
        if self._queued <= self._high:
            self._connection.queued(size)
            return True
        # The session knows how much has gone of what was queued before, but to ask it costs as much as a short event.
        self._connection.flush()
        self._queued = self._session.queued(self.id)
        return self._queued <= self._high

    def _sent(self, size: int, more: bool) -> Awaitable[None] | None:
        if not self._fits(size):
            return self._drain(more)
        if not more and not self.disconnected:
            self._connection.responded(self)
        return None

    async def _drain(self, more: bool) -> None:
        while not self.disconnected and not self.below:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._drainers.append(waiter)
            self._connection.blocked[self.id] = self
            await waiter
        if self.disconnected:
            raise ClientLeft("the client has left")
        if not more:
            self._connection.responded(self)

    # What the other half asks for.

    def _taken(self, size: int) -> None:
        self._session.consumed(self.id, size)
        self._given += size
        if self._given >= STREAM_WINDOW // 2:  # the session says so in steps of this
            self._given = 0
            self._connection.flush()

    def _continue(self) -> None:
        self._session.inform(self.id, informational_fields(100, ()))
        self._connection.flush()

    def _answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        self.begin(status, headers, True)
        self._put(body, False)
        self._connection.flush()
        if not self.disconnected:
            self._connection.responded(self)

    def abort(self) -> None:
        if not (self.disconnected or self.complete):
            self._abandon()
            self.disconnect()

    def _abandon(self) -> None:
        self.uncork()
        self._open = False
        self._connection.unfinished(self)
