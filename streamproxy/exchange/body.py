"""A request's body: streamed, whole, held for another attempt, peeked at.

Theory of operation. There is one source, ASGI's ``receive``, or nothing, when the whole body came with the head. What
is read of it is *held* while something may need it again:

- `peek` reads ahead to look at a body before it is sent; what it has read is sent first.
- `hold` keeps what is read, up to a limit, so that another `attempt` can begin anew. Beyond the limit everything that
  an attempt has passed is let go, and no further one is possible.

Each attempt has an iterator of its own: first over what is held, then over the source. One that is cancelled in the
middle of a read loses nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any, Final

from streamproxy.errors import BodyTooLarge, ClientDisconnected
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import Timer

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_PIECE: Final = 16 << 10  # bytes; smaller pieces that are read ahead are joined


class RequestBody:
    """The body of one request. ``limit`` is the most bytes that it may have, None for no limit."""

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
        self._whole: bytes | None = None  # all of it, when it came at once
        self._chunks: list[bytes] = []  # what was read and may be needed again
        self._held = 0  # bytes in it
        self._keep = 0  # bytes that may be held for another attempt
        self._ended = False  # the source has given all
        self._lost = False  # the beginning was let go
        self._tee: Callable[[bytes, bool], None] | None = None  # sees every piece that comes

    def came_whole(self, data: bytes) -> None:
        """All of the body is here already."""
        self._whole = data
        self._ended = True
        self._held = len(data)

    def whole(self) -> bytes | None:
        """The body, if all of it is here; else None. It can be sent along with the head then."""
        if self._whole is None and self._ended and not self._lost:
            self._whole = b"".join(self._chunks)
            self._chunks = []
        return self._whole

    @property
    def held(self) -> int:
        """How many bytes are held now."""
        return self._held

    def copy_to(self, tee: Callable[[bytes, bool], None]) -> None:
        """Call ``tee`` with what has come, of which nothing may have been let go, and with each piece as it comes; and
        whether that is the last."""
        self._tee = tee
        tee(self._whole if self._whole is not None else b"".join(self._chunks), self._ended)

    def hold(self, limit: int) -> None:
        """Keep up to ``limit`` bytes of what is read for another attempt."""
        self._keep = limit

    @property
    def repeatable(self) -> bool:
        """Whether another attempt could be given the whole body."""
        return not self._lost and self._held <= self._keep

    @property
    def intact(self) -> bool:
        """Whether nothing of it was let go: a request of which nothing was sent may begin anew."""
        return not self._lost

    def release(self) -> None:
        """There will be no other attempt: hold nothing that has been passed on, and keep nothing more."""
        self._keep = 0
        self._lost = True
        self._whole = None
        self._chunks = []
        self._held = 0

    async def peek(self, limit: int) -> bytes | None:
        """Read ahead until the body is complete; returns it, or None when it is longer than ``limit`` bytes.

        Raises as an attempt's iterator does.
        """
        while not self._ended and self._held <= limit:
            await self._read()
        return self.whole() if self._ended and self._held <= limit else None

    async def read_ahead(self) -> bytes | None:
        """Read one more piece, which is sent first later; None at the end. Raises as an attempt's iterator does."""
        chunks = self._chunks
        before = len(chunks)
        if not self._ended:
            await self._read()
        if len(chunks) == before:
            return None
        chunk = chunks[-1]
        if before and len(chunks[-2]) + len(chunk) <= _PIECE:
            chunks[-2:] = [chunks[-2] + chunk]  # many small pieces would cost far more memory than their bytes
        return chunk

    @property
    def ended(self) -> bool:
        """Whether all of it has been read."""
        return self._ended

    def replace(self, data: bytes) -> None:
        """Send ``data`` in place of the body, all of which is held."""
        self._whole = data
        self._chunks = []
        self._held = len(data)

    def restrict(self, limit: int | None) -> None:
        """Set another limit. Raises BodyTooLarge if more than that has come already."""
        self._limit = limit
        if limit is not None and self._exchange.request_bytes > limit:
            raise _too_large(limit)

    def attempt(self) -> BodyReader:
        """The body from its beginning, for one attempt at a time."""
        return BodyReader(self)

    async def _read(self) -> None:
        """Take the next piece from the source into ``_chunks``."""
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
            self._held += len(chunk)
        if self._tee is not None:
            self._tee(chunk, self._ended)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is over the limit of {limit} bytes")


class BodyReader:
    """One attempt's iterator over a body. ``pulled`` says whether anything was asked of it."""

    __slots__ = ("_at", "_body", "pulled")

    def __init__(self, body: RequestBody) -> None:
        self._body = body
        self._at = 0
        self.pulled = False

    @property
    def body(self) -> RequestBody:
        """Whose iterator it is."""
        return self._body

    def take_whole(self) -> bytes | None:
        """The whole body, if it is here and nothing was read of it yet; nothing is left to iterate then."""
        if self.pulled:
            return None
        body = self._body
        data = body.whole()
        if data is not None:
            self.pulled = True
            self._at = 1
            if not body.repeatable:
                body.release()  # it must not be held for as long as its response lasts
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
        else:
            self._at += 1
        return chunk

    def _let_go(self, chunk: bytes) -> None:
        """More than may be held: what was passed on is forgotten, and what is still to come is only passed on."""
        body = self._body
        body._lost = True
        del body._chunks[: self._at + 1]
        body._held = sum(map(len, body._chunks))
        self._at = 0
