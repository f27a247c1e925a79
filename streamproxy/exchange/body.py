"""A request body: streamed, buffered for a retry, or read ahead.

Theory of operation. The source of a body is ASGI's ``receive``, or nothing if the whole body arrived with the head.
Data read from it is *held* while it may be needed again:

- `peek` reads ahead to inspect a body before it is sent; the data is sent later, first.
- `hold` keeps data up to a limit, so that another `attempt` can start from the beginning. Beyond the limit, all data
  that an attempt has passed is released, and no further attempt is possible.

Each attempt has its own iterator, first over the held data, then over the source. A cancelled read loses nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any, Final

from streamproxy.errors import BodyTooLarge, ClientDisconnected
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import Timer

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_PIECE: Final = 16 << 10  # bytes; smaller pieces are joined where they are held


def join_last(pieces: list[bytes], end: int) -> bool:
    """Joins the last two of the first ``end`` pieces if they are small: many would use far more than their bytes.

    Returns whether it did.
    """
    if end < 2 or len(pieces[end - 2]) + len(pieces[end - 1]) > _PIECE:
        return False
    pieces[end - 2 : end] = [pieces[end - 2] + pieces[end - 1]]
    return True


class RequestBody:
    """The body of one request. ``limit`` is its maximum size in bytes, or None."""

    __slots__ = (
        "_chunks",
        "_ended",
        "_exchange",
        "_held",
        "_keep",
        "_limit",
        "_lost",
        "_receive",
        "_tee",
        "_timer",
        "_whole",
    )

    def __init__(self, receive: Receive, exchange: Exchange, timer: Timer, limit: int | None) -> None:
        self._receive = receive
        self._exchange = exchange
        self._timer = timer
        self._limit = limit
        self._whole: bytes | None = None  # the whole body if it arrived at once
        self._chunks: list[bytes] = []  # data that may be needed again
        self._held = 0  # bytes in ``_chunks``
        self._keep = 0  # the maximum bytes held for another attempt
        self._ended = False  # the source is exhausted
        self._lost = False  # the beginning was released
        self._tee: Callable[[bytes, bool], None] | None = None  # receives every piece

    def came_whole(self, data: bytes) -> None:
        """Sets the whole body, which has already arrived."""
        self._whole = data
        self._ended = True
        self._hold(len(data))

    def whole(self) -> bytes | None:
        """The whole body if it has arrived, else None. It can then be sent together with the head."""
        if self._whole is None and self._ended and not self._lost:
            self._whole = b"".join(self._chunks)
            self._chunks = []
        return self._whole

    def _hold(self, size: int) -> None:
        self._held = self._exchange.held = size

    @property
    def held(self) -> int:
        """The number of bytes held."""
        return self._held

    def copy_to(self, tee: Callable[[bytes, bool], None]) -> None:
        """Calls ``tee`` with the data so far, and then with each piece as it arrives.

        The second argument is whether it is the last. Nothing may have been released before.
        """
        self._tee = tee
        tee(self._whole if self._whole is not None else b"".join(self._chunks), self._ended)

    def hold(self, limit: int) -> None:
        """Keeps up to ``limit`` bytes for another attempt."""
        self._keep = limit

    @property
    def begun(self) -> bool:
        """Whether any data was read from the source; the client then no longer waits for 100 (Continue)."""
        return self._ended or self._lost or self._held > 0

    @property
    def repeatable(self) -> bool:
        """Whether another attempt could receive the whole body."""
        return not self._lost and self._held <= self._keep

    @property
    def intact(self) -> bool:
        """Whether no data was released, so that a request of which nothing was sent can start again."""
        return not self._lost

    def release(self) -> None:
        """Releases the data that was passed on, and keeps none from now on, since no attempt will follow."""
        self._keep = 0
        self._lost = True
        self._whole = None
        self._chunks = []
        self._hold(0)

    async def peek(self, limit: int) -> bytes | None:
        """Reads ahead until the body is complete; returns it, or None if it is longer than ``limit`` bytes.

        Raises as an attempt's iterator does.
        """
        while not self._ended and self._held <= limit:
            await self._read()
            join_last(self._chunks, len(self._chunks))
        return self.whole() if self._ended and self._held <= limit else None

    async def read_ahead(self) -> bytes | None:
        """Reads one more piece, which is sent later, first.

        Returns None at the end. Raises as an attempt's iterator.
        """
        chunks = self._chunks
        before = len(chunks)
        if not self._ended:
            await self._read()
        if len(chunks) == before:
            return None
        chunk = chunks[-1]
        join_last(chunks, before + 1)
        return chunk

    @property
    def ended(self) -> bool:
        """Whether the source is exhausted."""
        return self._ended

    def replace(self, data: bytes) -> None:
        """Replaces the body, all of which must be held, with ``data``."""
        self._whole = data
        self._chunks = []
        self._hold(len(data))

    def restrict(self, limit: int | None) -> None:
        """Sets another limit. Raises BodyTooLarge if more has already arrived."""
        self._limit = limit
        if limit is not None and self._exchange.request_bytes > limit:
            raise _too_large(limit)

    def attempt(self) -> BodyReader:
        """Returns the body from its beginning, for one attempt at a time."""
        return BodyReader(self)

    async def _read(self) -> None:
        """Reads the next piece from the source into ``_chunks``."""
        exchange, timer = self._exchange, self._timer
        timer.awaits_body(monotonic())
        try:
            message = await self._receive()
        finally:
            timer.has_body(monotonic())
        if message["type"] != "http.request":
            self._lost = True
            raise ClientDisconnected()
        if not message.get("more_body", False):
            self._ended = True
            exchange.request_read_at = monotonic()
        chunk: bytes = message.get("body", b"")
        if chunk:
            exchange.request_bytes += len(chunk)
            if self._limit is not None and exchange.request_bytes > self._limit:
                self._lost = True
                raise _too_large(self._limit)
            self._chunks.append(chunk)
            self._hold(self._held + len(chunk))
        if self._tee is not None:
            self._tee(chunk, self._ended)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is over the limit of {limit} bytes")


class BodyReader:
    """The iterator of one attempt over a body. ``pulled`` is whether any data was requested."""

    __slots__ = ("_at", "_body", "pulled")

    def __init__(self, body: RequestBody) -> None:
        self._body = body
        self._at = 0
        self.pulled = False

    @property
    def body(self) -> RequestBody:
        """The body it iterates over."""
        return self._body

    def take_whole(self) -> bytes | None:
        """Returns the whole body if it has arrived and nothing was read; the iterator is then exhausted."""
        if self.pulled:
            return None
        body = self._body
        data = body.whole()
        if data is not None:
            self.pulled = True
            self._at = 1
            if not body.repeatable:
                body.release()  # it must not be held while the response streams
        return data

    def __aiter__(self) -> BodyReader:
        return self

    async def __anext__(self) -> bytes:
        body = self._body
        self.pulled = True
        data = body._whole
        if data is not None:
            if self._at or not data:
                raise StopAsyncIteration
            self._at = 1
            if not body.repeatable:
                body.release()
            return data
        while self._at >= len(body._chunks):
            if body._ended:
                raise StopAsyncIteration
            await body._read()
        chunk = body._chunks[self._at]
        if body._lost or body._held > body._keep:
            self._let_go(chunk)
        elif not join_last(body._chunks, self._at + 1):
            self._at += 1
        return chunk

    def _let_go(self, chunk: bytes) -> None:
        """Releases data beyond the limit: what was passed on is dropped, and the rest is only passed on."""
        body = self._body
        body._lost = True
        del body._chunks[: self._at + 1]
        body._hold(sum(map(len, body._chunks)))
        self._at = 0
