"""One upstream stream for several clients: what each of them gets of it.

Theory of operation. Each chunk is handed to every client, in the read itself: the same bytes object, framed once.
Every client is in one of these states::

    joins ──▶ follows ──▶ finishes ──▶ skips ──┐
                 ▲  (slow, inside an event)    │
                 └──── has caught up, at the beginning of an event

A client that joins, or that skips, gets no byte before the beginning of an event. One that lags by more than the buffer
is cut, or skips whole events. Nobody waits for it. While *all* clients lag the upstream is not read on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from streamproxy.dialects.base import Dialect
from streamproxy.errors import ClientDisconnected, ExchangeError, LimitReached, ResponseIncomplete
from streamproxy.exchange.exchange import Exchange
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.sse import SseTracker
from streamproxy.origins.base import OriginResponse
from streamproxy.store.base import Recipient
from streamproxy.store.body import QueuedBody
from streamproxy.store.cursor import CURSOR_FIELD
from streamproxy.wire.chunked import chunk_parts
from streamproxy.wire.headers import Headers

_FOLLOWS: Final = 0
_FINISHES: Final = 1
_SKIPS: Final = 2  # or has joined inside an event
_CUT: Final = 3


@dataclass(frozen=True, slots=True)
class SharePlan:
    """What a route says of sharing, bound when the configuration is loaded."""

    route: str
    key: frozenset[str]  # of "path", "query", "principal"
    authenticated: bool
    slow: Literal["disconnect", "skip"]
    max_clients: int | None
    linger: float  # seconds
    buffer: int
    dialect: Dialect
    clients: Counter[str]  # how many read a stream of another, by route: for `streamproxy_shared_clients`


class SharedInspector(Inspector):
    """One client's view of the events that are counted once for all."""

    __slots__ = ("_body", "_tracker")

    def __init__(self, body: SharedBody, tracker: SseTracker) -> None:
        super().__init__()
        self._body = body
        self._tracker = tracker

    @property
    def between_events(self) -> bool:
        return self._body.state == _SKIPS or self._tracker.between_events

    def feed(self, chunk: bytes) -> None:
        body = self._body
        self.events = self._tracker.events - body.missed
        self.saw_id = self._tracker.saw_id
        self.spoke = self.events > 0


class SharedBody(QueuedBody):
    """One client's place in a stream, in push or in pull mode."""

    __slots__ = ("_stream", "abandoned", "cut_client", "missed", "state")

    def __init__(self, stream: SharedStream, state: int, missed: int) -> None:
        super().__init__()
        self.state = state
        self.missed = missed  # events that were not for this client
        self.abandoned = False  # the client has left, and its exchange reads on
        self.cut_client: Callable[[], bool] | None = None  # of the first client, whose exchange has to go on
        self._stream = stream

    @property
    def ended(self) -> bool:
        return self._stream.ended and self._stream.fault is None and not self._chunks

    @property
    def stirred(self) -> bool:
        return bool(self._chunks) or self.state == _CUT or self._stream.ended

    def ready(self) -> bytes | None:
        if self.state == _CUT:
            raise ResponseIncomplete(note="the client lagged behind the others of its stream")
        if self._chunks:
            chunk = self.take()
            self._stream.make_room()
            return chunk
        fault = self._stream.fault
        if fault is not None:
            raise type(fault)(fault.detail, note=fault.note)
        return None

    @property
    def joining(self) -> bool:
        """Whether it is not known yet how many events come before its first byte, and its cursor has to say so."""
        return self.state == _SKIPS and bool(self._stream.cursor) and not self._stream.tracker.counted

    def cut(self) -> bool:
        """End this client's response as one that is not finished. Returns whether it could."""
        if self.cut_client is not None:
            return self.cut_client()
        self.state = _CUT
        self.drop()
        self.wake()
        return True

    def abandon(self) -> None:
        """The client has left; its exchange reads on."""
        if not self.abandoned:
            self.abandoned = True
            self._stream.left()

    def close(self) -> None:
        self._sink = None
        self._stream.leave(self)


class SharedStream(Recipient):
    """One upstream stream and its clients."""

    __slots__ = (
        *("_forget", "_linger", "_waiting", "bodies", "clients", "cursor", "exchange", "fault"),
        *("fields", "on_left", "opened", "plan", "tracker", "version"),
    )

    def __init__(self, plan: SharePlan, exchange: Exchange, forget: Callable[[SharedStream], None]) -> None:
        self.plan = plan
        self.exchange = exchange  # of the first client
        self.opened = False
        self.bodies: dict[SharedBody, None] = {}
        self.clients = 1  # those that are there or wait for the head
        self.tracker = SseTracker()
        self.fields: Headers = []
        self.version = "1.1"
        self.cursor = b""  # the name of the stream, where it is kept
        self.on_left: Callable[[], None] | None = None  # called when all have left and it is read on even so
        self.ended = False
        self.fault: ExchangeError | None = None
        self._forget = forget
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    # From its reader.

    def append(self, chunk: bytes, framed: bytes = b"") -> None:
        tracker = self.tracker
        events = tracker.events
        boundary = tracker.feed_to_boundary(chunk)
        before = tracker.events - events
        if boundary >= 0:
            tracker.feed(chunk[boundary:])
        if not framed and len(self.bodies) > 1:
            framed = b"".join(chunk_parts(chunk))
        for body in tuple(self.bodies):
            if body.held > self.plan.buffer and body.state == _FOLLOWS:
                self._lags(body, boundary == 0)
            if body.state == _FOLLOWS:
                body.put(chunk, framed)
            else:
                self._pass_part(body, (chunk, framed), boundary, (before, tracker.events - events))
        if boundary >= 0:
            self._wake_waiting()

    def end(self, fault: ExchangeError | None) -> None:
        if self.ended:
            return
        self.ended = True
        self.fault = fault
        self._forget(self)
        self._stop_lingering()
        for body in tuple(self.bodies):
            body.finish()
        self._wake_waiting()
        self.make_room()

    def has_room(self, limit: int) -> bool:
        alone = True
        for body in self.bodies:
            if not body.abandoned:
                if body.held < limit:
                    return True
                alone = False
        return alone

    def _lags(self, body: SharedBody, clean: bool) -> None:
        if body.abandoned:
            return
        if self.plan.slow == "disconnect" and body.cut():
            return
        body.state = _SKIPS if clean else _FINISHES

    def _pass_part(self, body: SharedBody, read: tuple[bytes, bytes], boundary: int, events: tuple[int, int]) -> None:
        """Hand a client that does not follow what it is to get of a read: the chunk, and the same framed.

        ``events`` are how many ended in it, up to the boundary and all.
        """
        chunk, framed = read
        before, all_of_them = events
        if body.state == _CUT:
            return
        if body.state == _FINISHES:
            part = chunk if boundary < 0 else chunk[:boundary]
            if part:
                body.put(part, b"")
            if boundary >= 0:
                body.state = _SKIPS
                body.missed += all_of_them - before
            elif body.held > 2 * self.plan.buffer:
                body.cut()  # one event, and it has no end
        elif boundary < 0 or body.held > self.plan.buffer // 2:
            body.missed += all_of_them
        else:
            body.missed += before
            body.state = _FOLLOWS
            if boundary < len(chunk):
                body.put(chunk[boundary:], b"" if boundary else framed)

    # Its clients.

    async def changed(self) -> None:
        """Wait for the head, or after it for the beginning of an event, or for the end."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def begin(self, response: OriginResponse) -> SharedBody:
        """The head has come, and can be shared. Returns the body of the first client."""
        self.opened = True
        self.fields = list(response.fields.kept)
        self.version = response.version
        self.on_left = response.on_client_left
        self.cursor = next((value.partition(b"/")[0] for name, value in self.fields if name == CURSOR_FIELD), b"")
        body = SharedBody(self, _FOLLOWS, 0)
        self.bodies[body] = None
        self._wake_waiting()
        return body

    def give_up(self) -> None:
        """There is nothing to share: those who wait go on without it."""
        self.ended = True
        self._forget(self)
        self._wake_waiting()

    def enter(self) -> None:
        """Another client comes. Raises LimitReached."""
        most = self.plan.max_clients
        if most is not None and self.clients >= most:
            raise LimitReached("Too many clients read this stream", retry_after=5.0)
        self.clients += 1
        self._stop_lingering()

    def join(self) -> SharedBody:
        """The body of another client, from the next event on."""
        clean = self.tracker.between_events
        body = SharedBody(self, _FOLLOWS if clean else _SKIPS, self.tracker.events)
        self.bodies[body] = None
        return body

    def leave(self, body: SharedBody) -> None:
        """A client reads no more."""
        self.bodies.pop(body, None)
        self.make_room()

    def left(self) -> None:
        """A client has left."""
        self.clients -= 1
        if self.clients or self.ended or not self.opened:
            return
        if self.plan.linger:
            self._linger = asyncio.get_running_loop().call_later(self.plan.linger, self._stop)
        else:
            self._stop()

    def _stop(self) -> None:
        self._forget(self)
        if self.on_left is not None:
            self.on_left()
        else:
            self.exchange.interrupt(ClientDisconnected(note="no client reads the stream any more"))

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
