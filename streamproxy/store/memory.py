"""Streams kept in the memory of this process.

Theory of operation. A stream is *live* until its upstream has ended, then *finished*; a finished one is dropped after
``window``. A live stream without a client is *idle*, and is stopped after ``grace``. When all streams together hold
more than ``max_total``, finished ones are dropped, oldest first; after that, live ones in turn lose what they have
kept. The name and the owner of a dropped stream are remembered for an hour, so that its cursors get 410.

A client is an offset into the log of its stream. A client that waits for the next chunk is handed it on arrival; a
client that is behind reads the log at its own pace. No client waits for another. A client whose next bytes the log has
dropped is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hmac import compare_digest
from typing import Final

from streamproxy.errors import ExchangeError, ResponseIncomplete, StreamGone, StreamUnknown
from streamproxy.store.base import (
    PATIENCE,
    KeptStream,
    Replay,
    Stop,
    StopElsewhere,
    StopReason,
    StopResult,
    StoreSettings,
    StreamHead,
    StreamStore,
    check_readers,
)
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import Cursor, new_stream, owner_digest
from streamproxy.store.dropped import DroppedOwners
from streamproxy.store.expiry import Expiry
from streamproxy.store.ids import IdWriter
from streamproxy.store.segments import PlaceGone, SegmentLog
from streamproxy.subclassing import mypyc_attr

_OVERHEAD: Final = 1024  # bytes that a finished stream is counted for besides its own


def _ended(reason: StopReason) -> None:
    """Does nothing: a stream that has ended can't be stopped."""


class MemoryBody(StoredBody):
    """One client's position in a stream, in push or in pull mode."""

    __slots__ = ("_ids", "_read", "_stream", "abandoned", "offset")

    def __init__(self, stream: MemoryStream, offset: int, ids: IdWriter | None) -> None:
        super().__init__()
        self.offset = offset
        self.abandoned = False
        self._stream = stream
        self._ids = ids
        self._read = b""  # the bytes at the offset, if one read of the upstream was too large to be kept

    @property
    def ended(self) -> bool:
        stream = self._stream
        return stream.ended and stream.fault is None and self.offset >= stream.log.end

    @property
    def stirred(self) -> bool:
        return self._stream.ended or self.offset < self._stream.log.end

    def ready(self) -> bytes | None:
        stream = self._stream
        if self.offset < stream.log.end:
            chunk, self._read = self._read, b""
            try:
                chunk = chunk or stream.log.read(self.offset)
            except PlaceGone:
                raise ResponseIncomplete(note="the client lagged behind what is kept of the stream") from None
            self.offset += len(chunk)
            stream.make_room()
            return self._ids.feed(chunk) if self._ids is not None else chunk
        if stream.fault is not None:
            raise type(stream.fault)(stream.fault.detail, note=stream.fault.note)
        return None

    def deliver(self, chunk: bytes, framed: bytes) -> None:
        """Hands the client a chunk that was just appended to the log."""
        sink = self._sink
        if sink is None:
            log = self._stream.log
            began = log.end - len(chunk)
            if began <= self.offset < log.start:
                self._read = chunk[self.offset - began :]
            self.wake()
            return
        self.offset += len(chunk)
        ids = self._ids
        if ids is None:
            accepted = sink(chunk, framed)
        else:
            self.passing = chunk = ids.feed(chunk)
            self.whole = ids.whole
            accepted = sink(chunk, b"")
            self.passing = None
        if not accepted:
            self._sink = None
            self.wake()

    def abandon(self) -> None:
        if not self.abandoned:
            self.abandoned = True
            self._stream.left()

    def close(self) -> None:
        self._sink = None
        self._stream.leave(self)


@mypyc_attr(allow_interpreted_subclasses=True)
class MemoryStream(KeptStream):
    """One stream: its log, its clients, and how it ended."""

    __slots__ = (
        *("_store", "bodies", "content_type", "fault", "log", "name", "owner", "stop"),
        *("_arrivals", "reported", "remote_until"),
    )

    def __init__(self, store: MemoryStore, name: str, head: StreamHead, stop: Stop) -> None:
        self.name = name
        self.owner = owner_digest(name, head.owner)
        self.content_type = head.content_type
        self.log = SegmentLog(head.format, store.settings.max_bytes)
        self.bodies: list[MemoryBody] = []
        self.ended = False
        self.fault: ExchangeError | None = None
        self.stop = stop
        self.remote_until = 0.0  # time of the loop until which other processes are known to read it
        self.reported = True  # False: the next chunk leads to a call of `changed`
        self._store = store
        self._room: asyncio.Future[None] | None = None
        self._arrivals: asyncio.Future[None] | None = None  # for clients that wait for a position

    @property
    def events(self) -> int:
        return self.log.events

    @property
    def complete(self) -> bool:
        """Whether it ended in good order with a whole event, so that nothing can follow that event."""
        return self.ended and self.fault is None and not self.log.counter.unfinished

    def append(self, chunk: bytes, framed: bytes = b"") -> None:
        if self.ended:
            return
        log, store = self.log, self._store
        before = log.end - log.start
        log.append(chunk)
        store.total += log.end - log.start - before
        bodies = self.bodies
        if len(bodies) == 1:
            bodies[0].deliver(chunk, framed)
        else:
            for body in tuple(bodies):
                body.deliver(chunk, framed)
        if self._arrivals is not None:
            self._announce()
        if not self.reported:
            self.changed()
        if store.total > store.max_total:
            store.evict()

    def changed(self) -> None:
        """Called for the first chunk after ``reported`` was set to False."""

    def end(self, fault: ExchangeError | None) -> None:
        if self.ended:
            return
        self.ended = True
        self.fault = fault
        self.stop = _ended  # the callback holds the exchange, which is over long before the stream is dropped
        self.log.finish()
        self._announce()
        for body in tuple(self.bodies):
            body.finish()
        self.make_room()
        self._store.finished(self)

    def read(self, cursor: Cursor, ids: bool = False) -> MemoryBody:
        log = self.log
        try:
            offset = log.place(cursor.events)
        except PlaceGone:
            raise StreamGone from None
        writer = None
        if ids and log.counter.format == "sse":
            seen = log.counter.ids_from
            writer = IdWriter(self.name, cursor.events, stopped=seen is not None and cursor.events >= seen)
        body = MemoryBody(self, offset, writer)
        self.bodies.append(body)
        self._store.busy(self)
        return body

    def has_room(self, limit: int) -> bool:
        least = self.log.end - limit
        bodies = self.bodies
        if len(bodies) == 1:
            return bodies[0].offset > least or bodies[0].abandoned
        alone = True
        for body in bodies:
            if not body.abandoned:
                if body.offset > least:
                    return True
                alone = False
        return alone

    def leave(self, body: MemoryBody) -> None:
        """Removes a client."""
        if body in self.bodies:
            self.bodies.remove(body)
            self.left()

    def left(self) -> None:
        """Handles that a client has left."""
        self.make_room()
        if not self.ended and not self.read_by_someone:
            self._store.idle(self)

    @property
    def read_by_someone(self) -> bool:
        """Whether a client of this process reads it."""
        return any(not body.abandoned for body in self.bodies)

    async def reached(self, events: int, timeout: float) -> None:
        """Waits until this many events were received, the stream has ended, or ``timeout`` seconds have passed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while not self.ended and self.log.events < events and (left := until - loop.time()) > 0:
            if self._arrivals is None:
                self._arrivals = loop.create_future()
            await asyncio.wait([self._arrivals], timeout=left)

    def _announce(self) -> None:
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            arrivals.set_result(None)


async def _nowhere(stream: str, owner: bytes) -> StopResult:
    """Stops nothing: there is no other process."""
    return "unknown"


class MemoryStore(StreamStore):
    """The streams of one route in this process. ``total`` is the number of bytes that they hold.

    ``elsewhere`` is asked to stop a stream that this process has never had.
    """

    __slots__ = (
        *("_dropped", "_elsewhere", "_finished", "_idle", "_live", "_streams"),
        *("max_total", "settings", "total"),
    )

    def __init__(self, settings: StoreSettings, elsewhere: StopElsewhere = _nowhere) -> None:
        self.settings = settings
        self.max_total = settings.max_total  # an attribute of a tuple costs more, and each chunk needs it
        self._elsewhere = elsewhere
        self.total = 0
        self._streams: dict[str, MemoryStream] = {}
        self._live: dict[MemoryStream, None] = {}  # in the order in which they lose what they have kept
        self._finished: Expiry[MemoryStream] = Expiry(settings.window, self._expire)
        self._idle: Expiry[MemoryStream] = Expiry(settings.grace, self._give_up)
        self._dropped = DroppedOwners()

    def create(self, head: StreamHead, stop: Stop) -> MemoryStream:
        stream = MemoryStream(self, new_stream(), head, stop)
        self.adopt(stream)
        return stream

    def configure(self, settings: StoreSettings) -> None:
        """Applies other settings from now on."""
        self.settings = settings
        self.max_total = settings.max_total
        self._finished.delay = settings.window
        self._idle.delay = settings.grace

    def adopt(self, stream: MemoryStream) -> None:
        """Keeps a stream that was made for this store."""
        self._streams[stream.name] = stream
        self._live[stream] = None

    def get(self, name: str) -> MemoryStream | None:
        """Returns the stream of this name if it is kept here, otherwise None."""
        return self._streams.get(name)

    async def find(self, cursor: Cursor, owner: Sequence[bytes], ids: bool = False) -> Replay:
        stream = self.owned(cursor.stream, owner)
        if cursor.events > stream.events:
            await stream.reached(cursor.events, PATIENCE)
        if stream.complete and cursor.events == stream.events:
            return Replay(stream.content_type, None, live=False)
        check_readers(len(stream.bodies))
        return Replay(stream.content_type, stream.read(cursor, ids), live=not stream.ended)

    async def own(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        self.owned(cursor.stream, owner)

    async def stop(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        digest = owner_digest(cursor.stream, owner)
        result = self.stop_owned(cursor.stream, digest)
        if result == "unknown":
            result = await self._elsewhere(cursor.stream, digest)
        if result == "gone":
            raise StreamGone
        if result == "unknown":
            raise StreamUnknown

    def stop_owned(self, name: str, digest: bytes) -> StopResult:
        """Stops the stream of this name if ``digest`` is its owner's. One that has ended stays as it is."""
        stream = self._streams.get(name)
        known = stream.owner if stream is not None else self._dropped.owner_of(name)
        if not compare_digest(known, digest):
            return "unknown"
        if stream is None:
            return "gone"
        if not stream.ended:
            stream.stop("owner")
        return "stopped"

    async def aclose(self) -> None:
        self._finished.clear()
        self._idle.clear()
        self._dropped.clear()
        self._streams.clear()
        self._live.clear()

    def finished(self, stream: MemoryStream) -> None:
        """Handles that a stream has ended."""
        self._idle.discard(stream)
        if stream in self._live:
            del self._live[stream]
            self.total += _OVERHEAD
            self._finished.add(stream)

    def idle(self, stream: MemoryStream) -> None:
        """Handles that the last client of a live stream has left."""
        if stream in self._live:
            self._idle.add(stream)

    def busy(self, stream: MemoryStream) -> None:
        """Handles that a stream has a client again."""
        self._idle.discard(stream)

    def evict(self) -> None:
        """Drops streams, and then what live streams have kept, until ``max_total`` holds."""
        most = self.max_total
        while self.total > most and (stream := self._finished.pop_oldest()) is not None:
            self._drop(stream)
        for shrink in (SegmentLog.shrink, SegmentLog.clear):
            for stream in tuple(self._live) if self.total > most else ():
                before = stream.log.size
                shrink(stream.log)
                self.total -= before - stream.log.size
                self._live[stream] = self._live.pop(stream)  # next time, others lose theirs first
                if self.total <= most:
                    return

    def owned(self, name: str, owner: Sequence[bytes]) -> MemoryStream:
        """Returns the owner's stream of this name. Raises StreamUnknown or StreamGone."""
        digest = owner_digest(name, owner)
        stream = self._streams.get(name)
        known = stream.owner if stream is not None else self._dropped.owner_of(name)
        if not compare_digest(known, digest):
            raise StreamUnknown
        if stream is None:
            raise StreamGone
        return stream

    def _expire(self, stream: MemoryStream) -> None:
        if stream.bodies:  # its clients read on; it is looked at again after another window
            self._finished.add(stream)
        else:
            self._drop(stream)

    def _drop(self, stream: MemoryStream) -> None:
        """Drops a finished stream. Clients that have not read all of it are cut."""
        self.total -= stream.log.size + _OVERHEAD
        stream.log.clear()
        del self._streams[stream.name]
        self._dropped.add(stream.name, stream.owner)

    def _give_up(self, stream: MemoryStream) -> None:
        if stream.remote_until > asyncio.get_running_loop().time():
            self._idle.add(stream)
        elif not stream.read_by_someone:
            stream.stop("grace")
