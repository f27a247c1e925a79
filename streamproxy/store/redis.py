"""Streams that any process can serve: kept in memory where they run, and copied to Redis.

Clients of the process that reads a stream from its upstream are served from memory, and are not affected by anything
that Redis does or fails to do. Clients of another process are served from the copy. While Redis is away or takes no
writes, new streams get no cursor.

A process has one `RedisHub` for each Redis, with one connection for commands and one that waits for entries. Each route
has a `RedisStore` that uses it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any, Final

from redis.exceptions import RedisError

from streamproxy.errors import DestinationUnavailable, StreamGone, StreamUnknown
from streamproxy.store.base import PATIENCE, Replay, Stop, StoreSettings, StreamHead, StreamStore, check_readers
from streamproxy.store.cursor import Cursor, owner_digest, storage_key
from streamproxy.store.ids import IdWriter
from streamproxy.store.memory import MemoryStore
from streamproxy.store.redis_cluster import open_link
from streamproxy.store.redis_connect import end_task
from streamproxy.store.redis_copy import Copies, RedisStream
from streamproxy.store.redis_feed import RemoteBody, open_feeds
from streamproxy.store.redis_layout import (
    BEAT_TTL,
    COMPLETE,
    META_NAMES,
    Meta,
    Piece,
    beat_key,
    data_key,
    entry_id,
    meta_key,
    read_entry,
)
from streamproxy.store.redis_link import StoreDown
from streamproxy.store.segments import Format, find_place

_PULSE: Final = 0.4  # seconds; the heartbeat comes with every second pulse
_PRESENT: Final = 3.0  # seconds for which another process counts as a reader after it said so
_RENEW: Final = 75  # pulses between two renewals of the expiry of all keys
_POLL: Final = 0.1  # seconds between two checks for a position that is not reached yet


class RedisHub:
    """What the routes of this process share for one Redis. ``on_error`` is called once for each failure."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        self.process = secrets.token_urlsafe(12)
        self.link = open_link(url, on_error)
        self.copies = Copies(self.link, self.process)
        self.feeds = open_feeds(self.link, self.process, self._hear)
        self.link.on_up.append(self._came_up)
        self._pulse: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects. Returns after the first attempt, even if it failed."""
        await self.link.start()
        self.feeds.start()
        self._pulse = asyncio.create_task(self._beat(), name="redis pulse")

    async def aclose(self) -> None:
        """Copies what is left, and closes the connections."""
        if self._pulse is not None:
            await end_task(self._pulse)
        await self.copies.aclose()
        await self.feeds.aclose()
        await self.link.aclose()

    def _came_up(self) -> None:
        self.copies.beat()

    async def _beat(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(_PULSE)
            count += 1
            copies, now = self.copies, asyncio.get_running_loop().time()
            if not (self.link.up and copies.writable):
                for stream in copies.live.values():
                    stream.presume_elsewhere(now, now + _PRESENT)
            if count % 2:
                copies.beat()
                self.feeds.say_who_is_here()
            elif copies.writable and now - copies.writable_since > BEAT_TTL / 1000:
                # While Redis takes no writes, no process can renew its key.
                self.feeds.look_for_writers()
            if count % _RENEW == 0:
                self.copies.renew()

    def _hear(self, what: bytes, key: str, process: bytes) -> None:
        stream = self.copies.live.get(key)
        if stream is None or stream.ended:
            return
        if what == b"stop":
            stream.stop("owner")
        elif what == b"here":
            stream.read_elsewhere(process, asyncio.get_running_loop().time() + _PRESENT)
        elif what == b"left":
            stream.left_elsewhere(process)


class RedisStore(StreamStore):
    """The streams of one route."""

    __slots__ = ("_hub", "memory")

    def __init__(self, hub: RedisHub, settings: StoreSettings) -> None:
        self._hub = hub
        self.memory = MemoryStore(settings)

    def configure(self, settings: StoreSettings) -> None:
        """Applies other settings from now on."""
        self.memory.configure(settings)

    def create(self, head: StreamHead, stop: Stop) -> RedisStream | None:
        if not (self._hub.link.up and self._hub.copies.writable):
            return None
        stream = RedisStream(self.memory, self._hub.copies, head, stop)
        self.memory.adopt(stream)
        self._hub.copies.begin(stream)
        return stream

    async def find(self, cursor: Cursor, owner: Sequence[bytes], ids: bool = False) -> Replay:
        if self.memory.get(cursor.stream) is not None:
            return await self.memory.find(cursor, owner, ids)
        meta = await self._meta(cursor, owner)
        key = storage_key(cursor.stream)
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while (found := await self._locate(key, meta, cursor.events)) is None:
            if loop.time() >= until:
                raise StreamGone
            await asyncio.sleep(_POLL)
        piece, last = found
        if last.end == COMPLETE and last.events == cursor.events and not last.unfinished:
            return Replay(meta.content_type, None, live=False)
        check_readers(self._hub.feeds.readers(key))
        if ids and meta.ids_from < 0:  # the upstream may have written one before the position while we waited for it
            meta = await self._meta(cursor, owner)
        return Replay(meta.content_type, self._body(cursor, meta, piece, ids), live=not last.end)

    async def own(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        if self.memory.get(cursor.stream) is not None:
            self.memory.owned(cursor.stream, owner)
        else:
            await self._meta(cursor, owner)

    async def stop(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        if self.memory.get(cursor.stream) is not None:
            await self.memory.stop(cursor, owner)
            return
        meta = await self._meta(cursor, owner)
        if not meta.ended:
            await self._ask(*self._hub.feeds.message(b"stop", storage_key(cursor.stream)))

    async def aclose(self) -> None:
        await self.memory.aclose()

    async def _ask(self, *command: Any) -> Any:
        try:
            return await self._hub.link.ask(*command)
        except (StoreDown, RedisError) as error:
            raise DestinationUnavailable("Streams can't be looked up now", note=repr(error), retry_after=1.0) from None

    async def _meta(self, cursor: Cursor, owner: Sequence[bytes]) -> Meta:
        meta = Meta.read(await self._ask("HMGET", meta_key(storage_key(cursor.stream)), *META_NAMES))
        if meta is None:
            self.memory.owned(cursor.stream, owner)  # raises, unless the stream has only just begun here
            raise StreamGone
        if not compare_digest(meta.owner, owner_digest(cursor.stream, owner)):
            raise StreamUnknown
        return meta

    async def _locate(self, key: str, meta: Meta, events: int) -> tuple[Piece, Piece] | None:
        """Returns the entry in which that event ends, and the last entry. None if the stream has not come as far.

        If the event is no longer kept and all after it are, the first is the entry that begins with the next event.
        """
        data = data_key(key)
        at, newest = await asyncio.gather(
            self._ask("XREVRANGE", data, events, "-", "COUNT", 1), self._ask("XREVRANGE", data, "+", "-", "COUNT", 1)
        )
        if not newest:
            if meta.ended or not await self._ask("EXISTS", beat_key(meta.writer.decode())):
                raise StreamGone
            nothing = Piece((0, 0), b"", 0, b"")
            return None if events else (nothing, nothing)
        last = read_entry(newest[0])
        piece = read_entry(at[0]) if at else None
        if piece is None or piece.events < events:
            following = await self._ask("XRANGE", data, entry_id(events, 0), "+", "COUNT", 1)
            piece = read_entry(following[0]) if following else None
            if piece is None or piece.events_before != events:
                if last.end or not at:
                    raise StreamGone
                return None
        return piece, last

    def _body(self, cursor: Cursor, meta: Meta, piece: Piece, ids: bool) -> RemoteBody:
        format: Format = "sse" if meta.format == b"sse" else "ndjson"
        writer = None
        if ids and format == "sse":
            writer = IdWriter(cursor.stream, cursor.events, stopped=0 <= meta.ids_from <= cursor.events)
        body = RemoteBody(self._hub.feeds, storage_key(cursor.stream), meta.writer, piece, writer)
        if piece.end:  # nothing follows but the end
            body.end(None if piece.end == COMPLETE else "the stream was cut")
        else:
            place = find_place(format, piece.data, cursor.events - piece.events_before, piece.offset == 0)
            if place < len(piece.data):
                body.put(piece.data[place:])
            else:
                # If the upstream sent CR and LF in two pieces, the LF belongs to the event before the position.
                body.skips_lf = format == "sse" and piece.data[-1:] == b"\r"
        self._hub.feeds.attach(body)
        return body
