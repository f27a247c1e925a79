"""Reads the streams of other processes from Redis, over one connection that waits for all of them.

Theory of operation. One task waits in XREAD for every stream that a client of this process reads, for the stream of
control messages, and for a key of this process, to which an entry is added when the set of streams has changed. Each
client has the id of the last entry that it was handed. While it holds more than it may, it is left out; it continues
from there later. It is cut at a gap between two entries.

In a cluster, one command cannot wait for several streams, because each has a slot of its own. There the task waits for
control messages only, and a stream is read over the link when its server reports that it has changed (see
`streamproxy.store.redis_tracking`).

The stream of a process that died has no last entry. Each process therefore renews a key of its own. When two checks in
a row have not found it, the clients of that process's streams get what is stored and are then cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from streamproxy.errors import ExchangeError, ResponseIncomplete
from streamproxy.store.body import QueuedBody
from streamproxy.store.ids import IdWriter
from streamproxy.store.redis_cluster import ClusterLink
from streamproxy.store.redis_connect import RETRY, TIMEOUT, Connector, drop, end_task
from streamproxy.store.redis_layout import (
    BEAT_TTL,
    COMPLETE,
    CONTROL,
    WAKE_TTL,
    Entry,
    EntryId,
    Piece,
    beat_key,
    data_key,
    read_entry,
    stream_of,
    wake_key,
)
from streamproxy.store.redis_link import Link, RedisLink, StoreDown
from streamproxy.store.redis_protocol import Word, encode
from streamproxy.store.redis_tracking import Changes

BLOCK: Final = 1000  # ms
_COUNT: Final = 64  # entries of a stream that are read at once
_HELD: Final = 256 * 1024  # bytes that may wait for a client before it is left out
_ALL_HELD: Final = 64 << 20  # the same for all clients together; each may exceed its part by one read
_MISSED: Final = 2  # checks in a row that must not find a process

# Takes a control message: what it says, the storage key of the stream, and the process that sent it.
Listener = Callable[[bytes, str, bytes], None]


class RemoteBody(QueuedBody):
    """One client's position in a stream of another process. ``last`` is the last entry that it was handed."""

    __slots__ = ("_end", "_feeds", "_ids", "dead", "key", "last", "next", "skips_lf", "writer")

    def __init__(self, feeds: Feeds, key: str, writer: bytes, piece: Piece, ids: IdWriter | None) -> None:
        super().__init__()
        self.key = key
        self.writer = writer
        self.last: EntryId = piece.id
        self.next = piece.offset + len(piece.data)  # the offset at which the next entry must begin
        self.dead = False
        self.skips_lf = False  # the next entry may begin with an LF that is not part of what it gets
        self._feeds = feeds
        self._end: ExchangeError | bytes | None = None
        self._ids = ids

    @property
    def hungry(self) -> bool:
        """Whether it has room for more."""
        return self._end is None and self.held < self._feeds.may_hold

    @property
    def ended(self) -> bool:
        return self._end == COMPLETE and not self._chunks

    @property
    def stirred(self) -> bool:
        return bool(self._chunks) or self._end is not None

    def ready(self) -> bytes | None:
        if self._chunks:
            was_hungry = self.hungry
            chunk = self.take()
            if not was_hungry and self.hungry:
                self._feeds.wake(self.key)
            return chunk
        if isinstance(self._end, ExchangeError):
            raise self._end
        return None

    def put(self, chunk: bytes, framed: bytes = b"") -> None:
        super().put(chunk if self._ids is None else self._ids.feed(chunk))

    def deliver(self, piece: Piece) -> None:
        """Hands the client an entry, unless it had that already."""
        if piece.id <= self.last or self._end is not None:
            return
        self.last = piece.id
        if piece.offset != self.next:
            self.end("the client lagged behind what is kept of the stream")
        elif piece.end:
            self.end(None if piece.end == COMPLETE else "the stream was cut")
        else:
            self.next += len(piece.data)
            data = piece.data.removeprefix(b"\n") if self.skips_lf else piece.data
            self.skips_lf = False
            if data:
                self.put(data)

    def end(self, note: str | None) -> None:
        """Handles the end of the stream: complete if ``note`` is None, otherwise cut."""
        if self._end is None:
            self._end = COMPLETE if note is None else ResponseIncomplete(note=note)
        self.finish()

    def abandon(self) -> None:
        """Does nothing: the stream is read from its upstream by another process."""

    def close(self) -> None:
        self._sink = None
        self._feeds.detach(self)


class Feeds:
    """The clients of this process that read streams of others. ``listener`` gets control messages."""

    def __init__(self, link: Link, process: str, listener: Listener) -> None:
        self._link = link
        self._process = process
        self._listener = listener
        self._bodies: dict[str, list[RemoteBody]] = {}
        self._count = 0
        self.may_hold = _HELD  # bytes, for each client
        self._missed: dict[bytes, int] = {}
        self._control = b"$"
        self._wake_id = b"0-0"
        self._woken = False
        self._task: asyncio.Task[None] | None = None
        self._server: RedisLink | None = None  # the server of the waiting connection
        self._connector: Connector | None = None
        self._connection: AbstractConnection | None = None

    def __len__(self) -> int:
        return self._count

    def readers(self, key: str) -> int:
        """Returns the number of clients of this process that read a stream."""
        return len(self._bodies.get(key, ()))

    def _counted(self, more: int) -> None:
        self._count += more
        self.may_hold = min(_HELD, _ALL_HELD // max(1, self._count))

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="redis feeds")

    def attach(self, body: RemoteBody) -> None:
        """Hands a client all entries from now on."""
        self._bodies.setdefault(body.key, []).append(body)
        self._counted(1)
        self.tell(b"here", body.key)
        self.wake(body.key)

    def detach(self, body: RemoteBody) -> None:
        bodies = self._bodies.get(body.key, [])
        if body in bodies:
            bodies.remove(body)
            if not bodies:
                del self._bodies[body.key]
                self.tell(b"left", body.key)
            self._counted(-1)

    def wake(self, key: str) -> None:
        """Reads a stream on, after its clients have changed or have room for more."""
        if not self._woken:
            self._woken = True
            key = wake_key(self._process)
            self._link.send("XADD", key, "MAXLEN", 1, "*", "w", "1")
            self._link.send("PEXPIRE", key, WAKE_TTL)

    def tell(self, what: bytes, *keys: str) -> None:
        """Sends a control message about streams to all processes."""
        if keys:
            self._link.send(*self.message(what, *keys))

    def message(self, what: bytes, *keys: str) -> tuple[Word, ...]:
        """Returns the command that sends it, for a caller that must know whether Redis took it."""
        told: tuple[Word, ...] = ("from", self._process, what, ",".join(keys))
        return ("XADD", CONTROL, "MAXLEN", "~", 1000, "*", *told)

    def say_who_is_here(self) -> None:
        """Tells the processes that write streams which of them have clients here."""
        self.tell(b"here", *self._bodies)

    def look_for_writers(self) -> None:
        """Checks whether the processes whose streams are read here are alive."""
        writers = {body.writer for bodies in self._bodies.values() for body in bodies}
        self._missed = {writer: self._missed.get(writer, 0) for writer in writers}
        # While Redis was away, those keys have expired.
        if asyncio.get_running_loop().time() - self._link.up_since > BEAT_TTL / 1000:
            for writer in writers:
                self._link.send("EXISTS", beat_key(writer.decode()), done=partial(self._looked, writer))

    async def aclose(self) -> None:
        if self._task is not None:
            await end_task(self._task)
        for bodies in tuple(self._bodies.values()):
            for body in bodies:
                body.end("the proxy is shutting down")
        await self._disconnect()

    def _looked(self, writer: bytes, reply: Any) -> None:
        if writer not in self._missed:
            return
        self._missed[writer] = self._missed[writer] + 1 if reply == 0 else 0
        if self._missed[writer] >= _MISSED:
            for key, bodies in tuple(self._bodies.items()):
                for body in bodies:
                    body.dead = body.dead or body.writer == writer
                if any(body.dead for body in bodies):
                    self.wake(key)

    async def _run(self) -> None:
        while True:
            try:
                if self._control == b"$":
                    last = await self._link.ask("XREVRANGE", CONTROL, "+", "-", "COUNT", 1)
                    self._control = last[0][0] if last else b"0-0"
                await self._read()
            except (StoreDown, RedisError, OSError, TimeoutError):
                self._link.doubt()
                await self._disconnect()
                await asyncio.sleep(0.2)

    async def _read(self) -> None:
        """Waits for all streams once, and hands out what has come."""
        self._woken = False
        places: dict[bytes, bytes] = {CONTROL.encode(): self._control, wake_key(self._process).encode(): self._wake_id}
        asked: dict[bytes, list[RemoteBody]] = {}
        for key, bodies in self._bodies.items():
            if hungry := [body for body in bodies if body.hungry]:
                name = data_key(key).encode()
                asked[name] = hungry
                places[name] = b"%d-%d" % min(body.last for body in hungry)
        dead = any(body.dead for bodies in asked.values() for body in bodies)
        got = await self._wait(places, 1 if dead else BLOCK)
        self._heed(got)
        for name, bodies in asked.items():
            _hand_out(got.get(name, ()), bodies)

    async def _wait(self, places: dict[bytes, bytes], block: int = BLOCK) -> dict[bytes, list[Any]]:
        """Waits for entries after these ids, for at most ``block`` milliseconds."""
        words: tuple[Word, ...] = ("XREAD", "COUNT", _COUNT, "BLOCK", block, "STREAMS", *places, *places.values())
        async with asyncio.timeout(BLOCK / 1000 + TIMEOUT):
            connection = await self._connect()
            await connection.send_packed_command([encode(words)], check_health=False)
            return dict(await connection.read_response() or ())

    async def _connect(self) -> AbstractConnection:
        """Returns the waiting connection, which is to the server that has the control messages."""
        server = self._link.server_of(CONTROL.encode())
        if server is None:
            raise StoreDown
        if self._server is not server:
            await self._disconnect()
            self._server, self._connector = server, Connector(server.url)
        if self._connection is None:
            assert self._connector is not None
            self._connection = await self._connector.open()
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        connector, self._connector = self._connector, None
        self._server = None
        if connection is not None:
            await drop(connection)
        if connector is not None:
            await connector.aclose()

    def _heed(self, got: dict[bytes, list[Any]]) -> None:
        if wakes := got.get(wake_key(self._process).encode()):
            self._wake_id = wakes[-1][0]
        for name, fields in got.get(CONTROL.encode(), ()):
            self._control = name
            said = dict(zip(fields[::2], fields[1::2], strict=True))
            process = said.pop(b"from", b"")
            for what, keys in said.items():
                for key in keys.decode().split(","):
                    self._listener(what, key, process)


class ClusterFeeds(Feeds):
    """The same in a cluster."""

    def __init__(self, link: Link, process: str, listener: Listener) -> None:
        super().__init__(link, process, listener)
        self._changes = Changes(link, link.on_error, self._wake_all, self._changed)
        self._reading: set[str] = set()  # streams that are being read
        self._again: set[str] = set()  # those of them that must be read once more

    def start(self) -> None:
        super().start()
        self._changes.start()

    def wake(self, key: str) -> None:
        if key in self._reading:
            self._again.add(key)
        elif hungry := [body for body in self._bodies.get(key, ()) if body.hungry]:
            self._reading.add(key)
            after = b"(%d-%d" % min(body.last for body in hungry)
            self._link.send("XRANGE", data_key(key), after, "+", "COUNT", _COUNT, done=partial(self._got, key, hungry))

    async def aclose(self) -> None:
        await self._changes.aclose()
        await super().aclose()

    async def _read(self) -> None:
        self._heed(await self._wait({CONTROL.encode(): self._control}))

    def _wake_all(self) -> None:
        for key in tuple(self._bodies):
            self.wake(key)

    def _changed(self, name: bytes | None) -> None:
        if name is None:
            self._wake_all()
        elif (key := stream_of(name)) in self._bodies:
            self.wake(key)

    def _got(self, key: str, bodies: list[RemoteBody], reply: Any) -> None:
        self._reading.discard(key)
        again = key in self._again
        self._again.discard(key)
        if isinstance(reply, RedisError):  # for example, another part of the cluster is away
            asyncio.get_running_loop().call_later(RETRY, self.wake, key)
        if isinstance(reply, Exception):
            return  # all streams are read again when their server is back
        _hand_out(reply, bodies)
        if again or len(reply) >= _COUNT:
            self.wake(key)


def open_feeds(link: Link, process: str, listener: Listener) -> Feeds:
    """Returns the feeds for a link."""
    return (ClusterFeeds if isinstance(link, ClusterLink) else Feeds)(link, process, listener)


def _hand_out(entries: Sequence[Entry], bodies: list[RemoteBody]) -> None:
    """Hands what was read to the clients that it was read for."""
    pieces = [read_entry(entry) for entry in entries]
    for body in bodies:
        for piece in pieces:
            body.deliver(piece)
        if body.dead and not pieces:
            body.end("the process that read the stream died")
