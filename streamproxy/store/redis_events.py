"""Events that anybody publishes in Redis, for all clients of this process, over one connection.

Theory of operation. Clients of one channel are a group, made with the first and undone with the last. An event is made
into bytes once, and each client is handed the same bytes: at once where it waits for them, else into its queue. A
client whose queue grows beyond what it may hold is cut, and holds up nobody.

`PubSubEvents` subscribes to each channel once. A client is let in when Redis has confirmed that, so that it misses
nothing that is published after its response has begun.

`StreamEvents` waits in XREAD for all channels. Every client has the id of the entry that it was handed last, and is
handed all after it. A new channel has to wake the connection that waits, which is done from another connection.

When Redis goes, clients stay, and it is asked for again with backoff. What was published meanwhile is lost for pubsub.
A stream goes on from the ids; a client that would miss entries which were trimmed meanwhile is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from streamproxy.errors import DestinationUnavailable, ExchangeError, ResponseIncomplete, StreamGone
from streamproxy.store.body import QueuedBody
from streamproxy.store.events import EntryId, parse_entry_id, render_entry, render_event
from streamproxy.store.redis_link import IDLE, TIMEOUT, RedisLink, StoreDown, Word, connect, encode
from streamproxy.wire.chunked import chunk_parts

logger = logging.getLogger("streamproxy")

_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_COUNT: Final = 100  # entries of one channel that are read at once
_BLOCK: Final = 5000  # ms
_NEWEST: EntryId = (2**64, 0)


class EventBody(QueuedBody):
    """The events of one client; ``last`` is the entry that it was handed last (of a stream)."""

    __slots__ = ("_buffer", "_close", "_fault", "last")

    def __init__(self, buffer: int, last: EntryId, close: Callable[[EventBody], None]) -> None:
        super().__init__()
        self.last = last
        self._buffer = buffer
        self._close = close
        self._fault: ExchangeError | None = None

    @property
    def ended(self) -> bool:
        return False  # it has no good end

    @property
    def stirred(self) -> bool:
        return bool(self._chunks) or self._fault is not None

    def ready(self) -> bytes | None:
        if self._fault is not None:
            raise self._fault
        return self.take() if self._chunks else None

    def put(self, chunk: bytes, framed: bytes = b"") -> None:
        super().put(chunk, framed)
        if self.held > self._buffer:
            self.cut("the client lagged behind")

    def cut(self, note: str) -> None:
        """End the client's response as one that is not finished."""
        if self._fault is None:
            self._fault = ResponseIncomplete(note=note)
            self.drop()
            self.finish()

    def abandon(self) -> None:
        """Nobody reads on for a client of a stream that runs elsewhere."""

    def close(self) -> None:
        self._sink = None
        self._close(self)


class _Group:
    """The clients of one channel."""

    __slots__ = ("bodies", "subscribed", "waiters")

    def __init__(self) -> None:
        self.bodies: dict[EventBody, None] = {}
        self.waiters: list[asyncio.Future[None]] = []
        self.subscribed = False

    def put(self, chunk: bytes) -> None:
        framed = b"".join(chunk_parts(chunk))
        for body in tuple(self.bodies):
            body.put(chunk, framed)

    def confirm(self) -> None:
        self.subscribed = True
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class RedisEvents:
    """All channels of one upstream. ``on_error`` is called once each time that Redis is lost, for a counter."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        self.connected = False
        self._ever = False
        self._on_error = on_error
        self._client = connect(url)
        self._groups: dict[bytes, _Group] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def clients(self) -> int:
        """How many clients there are, of all channels."""
        return sum(len(group.bodies) for group in self._groups.values())

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="redis events")

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        """The events of a channel from now on, or after the entry ``last_id``, which only a stream has.

        ``buffer`` is how many bytes the client may hold. Raises DestinationUnavailable before Redis was there for the
        first time, BadRequest for an id that is none, and StreamGone for one whose successors may be gone.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Cut all clients and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for group in self._groups.values():
            for body in group.bodies:
                body.cut("the proxy is shutting down")
        await self._client.aclose()

    async def _run(self) -> None:
        failures = 0
        while True:
            connection: AbstractConnection | None = None
            try:
                async with asyncio.timeout(TIMEOUT):
                    connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
                    await self._begin(connection)
                failures = 0
                self.connected = self._ever = True
                await self._read(connection)
            except (RedisError, OSError, TimeoutError) as error:
                if not failures:
                    logger.warning("events of Redis are lost: %s", error or type(error).__name__)
                failures += 1
                self._on_error()
            finally:
                self.connected = False
                if connection is not None:
                    await self._drop(connection)
            await asyncio.sleep(_BACKOFF[min(failures, len(_BACKOFF)) - 1])

    async def _drop(self, connection: AbstractConnection) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)

    async def _begin(self, connection: AbstractConnection) -> None:
        """Make a connection that is new ready for all channels."""
        raise NotImplementedError

    async def _read(self, connection: AbstractConnection) -> None:
        """Hand out what comes, until the connection fails."""
        raise NotImplementedError

    def _check_known(self) -> None:
        if not self._ever:
            raise DestinationUnavailable("The source of the events has not been reached yet", retry_after=1.0)


class PubSubEvents(RedisEvents):
    """Channels of PUBLISH. ``event`` is the type of their events, or empty."""

    def __init__(self, url: str, on_error: Callable[[], None], event: bytes = b"") -> None:
        super().__init__(url, on_error)
        self._event = event
        self._connection: AbstractConnection | None = None
        self._unconfirmed: dict[bytes, int] = {}
        self._commands: list[bytes] = []
        self._sender: asyncio.Task[None] | None = None

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        self._check_known()
        group = self._groups.get(channel)
        if group is None:
            group = self._groups[channel] = _Group()
            self._subscribe(channel)
        body = EventBody(buffer, (0, 0), lambda body: self._leave(channel, group, body))
        group.bodies[body] = None
        if not group.subscribed and self.connected:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            group.waiters.append(waiter)
            try:
                await asyncio.wait([waiter], timeout=TIMEOUT)
            except asyncio.CancelledError:
                body.close()
                raise
        return body

    def _leave(self, channel: bytes, group: _Group, body: EventBody) -> None:
        if group.bodies.pop(body, body) is None and not group.bodies:
            del self._groups[channel]
            self._command("UNSUBSCRIBE", channel)

    def _subscribe(self, channel: bytes) -> None:
        if self._connection is not None:
            self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
            self._command("SUBSCRIBE", channel)

    def _command(self, *words: str | bytes) -> None:
        if self._connection is not None:
            self._commands.append(encode(words))
            if self._sender is None:
                self._sender = asyncio.create_task(self._send(self._connection), name="redis subscriptions")

    async def _send(self, connection: AbstractConnection) -> None:
        """Send what has to be sent; what comes up meanwhile goes with the next write."""
        try:
            while self._commands and connection is self._connection:
                commands, self._commands = self._commands, []
                await connection.send_packed_command([b"".join(commands)], check_health=False)
        except (RedisError, OSError, TimeoutError):
            return  # the reader finds the connection broken too
        finally:
            self._sender = None

    async def _begin(self, connection: AbstractConnection) -> None:
        self._commands.clear()
        self._unconfirmed = dict.fromkeys(self._groups, 1)
        # PING first: it is answered where nothing is subscribed to, so the connection is known to work.
        commands = [encode(("PING",)), *(encode(("SUBSCRIBE", channel)) for channel in self._groups)]
        await connection.send_packed_command([b"".join(commands)], check_health=False)
        await connection.read_response()
        self._connection = connection

    async def _read(self, connection: AbstractConnection) -> None:
        try:
            while True:
                reply = await connection.read_response()
                if reply[0] == b"message":
                    if (group := self._groups.get(reply[1])) is not None:
                        group.put(render_event(reply[2], self._event))
                elif reply[0] == b"subscribe":
                    self._confirmed(reply[1])
        finally:
            self._connection = None
            for group in self._groups.values():
                group.confirm()  # nobody waits for what does not come
                group.subscribed = False

    def _confirmed(self, channel: bytes) -> None:
        left = self._unconfirmed.get(channel, 1) - 1
        if left:
            self._unconfirmed[channel] = left
            return
        self._unconfirmed.pop(channel, None)
        if (group := self._groups.get(channel)) is not None:
            group.confirm()

    async def aclose(self) -> None:
        self._connection = None
        await super().aclose()
        if self._sender is not None:
            self._sender.cancel()


class StreamEvents(RedisEvents):
    """Channels of XADD."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        super().__init__(url, on_error)
        self._link = RedisLink(url, on_error)
        self._id = 0  # what Redis calls the connection that waits
        self._changed = False
        self._blocked = False
        self._someone = asyncio.Event()

    def start(self) -> None:
        self._starter = asyncio.create_task(self._link.start(), name="redis events link")
        super().start()

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        after = parse_entry_id(last_id) if last_id else _NEWEST
        self._check_known()
        try:
            first, newest = await self._ends(channel)
        except (StoreDown, RedisError) as error:
            raise DestinationUnavailable("The events can't be reached now", note=repr(error), retry_after=1.0) from None
        if last_id and not first <= after <= newest:
            raise StreamGone
        body = EventBody(buffer, min(after, newest), lambda body: self._leave(channel, body))
        self._groups.setdefault(channel, _Group()).bodies[body] = None
        self._wake()
        return body

    async def aclose(self) -> None:
        self._starter.cancel()
        await asyncio.gather(self._starter, return_exceptions=True)
        await self._link.aclose()
        await super().aclose()

    async def _ends(self, channel: bytes) -> tuple[EntryId, EntryId]:
        """The ids of the first and the last entry; of a stream that has none, ones that nothing lies between."""
        first, newest = await asyncio.gather(
            self._link.ask("XRANGE", channel, "-", "+", "COUNT", 1),
            self._link.ask("XREVRANGE", channel, "+", "-", "COUNT", 1),
        )
        if not first or not newest:
            return (1, 0), (0, 0)
        return parse_entry_id(first[0][0]), parse_entry_id(newest[0][0])

    def _leave(self, channel: bytes, body: EventBody) -> None:
        group = self._groups.get(channel)
        if group is not None and group.bodies.pop(body, body) is None and not group.bodies:
            del self._groups[channel]  # it is no longer asked for from the next time on

    def _wake(self) -> None:
        self._someone.set()
        if not self._changed:
            self._changed = True
            self._unblock()

    def _unblock(self) -> None:
        if self._changed and self._blocked:
            self._link.send("CLIENT", "UNBLOCK", self._id, done=self._unblocked)

    def _unblocked(self, reply: Any) -> None:
        # It may have come before the command that waits: then it is to be said again.
        asyncio.get_running_loop().call_later(0.005, self._unblock)

    async def _begin(self, connection: AbstractConnection) -> None:
        await connection.send_packed_command([encode(("CLIENT", "ID"))], check_health=False)
        self._id = await connection.read_response()
        for channel, group in tuple(self._groups.items()):
            await connection.send_packed_command(
                [encode(("XRANGE", channel, "-", "+", "COUNT", 1))], check_health=False
            )
            reply = await connection.read_response()
            first = parse_entry_id(reply[0][0]) if reply else (0, 0)
            for body in tuple(group.bodies):
                if first > body.last != (0, 0):
                    body.cut("entries were trimmed while Redis was away")

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            self._changed = False
            places = {
                channel: b"%d-%d" % min(body.last for body in group.bodies) for channel, group in self._groups.items()
            }
            if not places:
                await self._idle(connection)
                continue
            words: tuple[Word, ...] = ("XREAD", "COUNT", _COUNT, "BLOCK", _BLOCK, "STREAMS", *places, *places.values())
            self._blocked = True
            try:
                await connection.send_packed_command([encode(words)], check_health=False)
                async with asyncio.timeout(_BLOCK / 1000 + TIMEOUT):
                    reply = await connection.read_response()
            finally:
                self._blocked = False
            for channel, entries in reply or ():
                if (group := self._groups.get(channel)) is not None:
                    _hand_out(group, entries)

    async def _idle(self, connection: AbstractConnection) -> None:
        """Nobody is there: look now and then whether Redis is."""
        self._someone.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE):
                await self._someone.wait()
        await connection.send_packed_command([encode(("PING",))], check_health=False)
        await connection.read_response()


def _hand_out(group: _Group, entries: list[Any]) -> None:
    for name, fields in entries:
        id = parse_entry_id(name)
        chunk = render_entry(name, fields)
        framed = b"".join(chunk_parts(chunk))
        for body in tuple(group.bodies):
            if id > body.last:
                body.last = id
                if chunk:
                    body.put(chunk, framed)
