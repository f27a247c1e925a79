"""Events that anybody publishes in Redis, for all clients of this process, over one connection.

Theory of operation. Clients of one channel are a group, made with the first and undone with the last. An event is made
into bytes once, and each client is handed the same bytes: at once where it waits for them, else into its queue. A
client whose queue grows beyond what it may hold is cut, and holds up nobody.

`PubSubEvents` subscribes to each channel once. A client is let in when Redis has confirmed that, so that it misses
nothing that is published after its response has begun. Redis answers subscriptions in their order; one that it refuses
to this user concerns the clients of that channel, and nobody else.

When Redis goes, clients stay, and it is asked for again with backoff. What was published meanwhile is lost.

`streamproxy.store.redis_entries` is the same for the entries of Redis Streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisError

from streamproxy.errors import DestinationUnavailable, ExchangeError, ResponseIncomplete, StreamUnknown
from streamproxy.store.body import QueuedBody
from streamproxy.store.events import EntryId, render_event
from streamproxy.store.redis_link import TIMEOUT, connect, encode, end_task
from streamproxy.wire.chunked import chunk_parts

logger = logging.getLogger("streamproxy")

_TURN: Final = 1000  # clients and messages after which everything else has a turn
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


def concerns_name(refusal: Exception) -> bool:
    """Whether Redis refuses one name, which a client may have chosen, rather than that it does not work.

    It has a key of another type, or its rules keep the name from this user.
    """
    text = str(refusal)
    return text.startswith("WRONGTYPE") or (isinstance(refusal, NoPermissionError) and "to access" in text)


class EventBody(QueuedBody):
    """The events of one client; ``last`` is the entry that it was handed last (of a stream).

    While it is ``behind``, it is handed older entries as it takes them, and ``more`` asks for the next ones.
    """

    __slots__ = ("_buffer", "_close", "_fault", "behind", "last", "more")

    def __init__(self, buffer: int, last: EntryId, close: Callable[[EventBody], None]) -> None:
        super().__init__()
        self.last = last
        self.behind = False
        self.more: Callable[[], None] | None = None
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
        if not self._chunks:
            return None
        chunk = self.take()
        more = self.more
        if more is not None and self.hungry:
            self.more = None
            more()
        return chunk

    @property
    def hungry(self) -> bool:
        """Whether it may be handed older entries."""
        return self.held <= self._buffer // 2

    def put(self, chunk: bytes, framed: bytes = b"") -> None:
        super().put(chunk, framed)
        if self.held > self._buffer and not self.behind:
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


class Group:
    """The clients of one channel."""

    __slots__ = ("bodies", "refusal", "subscribed", "waiters")

    def __init__(self) -> None:
        self.bodies: dict[EventBody, None] = {}
        self.waiters: list[asyncio.Future[None]] = []
        self.subscribed = False
        self.refusal: RedisError | None = None  # why there are no events of it

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

    def refuse(self, refusal: RedisError) -> None:
        """Redis has no events of this channel for this user: cut its clients."""
        self.refusal = refusal
        self.confirm()
        for body in tuple(self.bodies):
            body.cut(f"Redis refuses the channel: {refusal}")


class RedisEvents:
    """All channels of one upstream. ``on_error`` is called once each time that Redis is lost, for a counter."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        self.connected = False
        self._ever = False
        self._on_error = on_error
        self._client = connect(url)
        self._groups: dict[bytes, Group] = {}
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
        first time, BadRequest for an id that is none, StreamGone for one whose successors may be gone, and
        StreamUnknown for a channel that Redis refuses.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Cut all clients and close the connection."""
        if self._task is not None:
            await end_task(self._task)
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

    def check_known(self) -> None:
        if not self._ever:
            raise DestinationUnavailable("The source of the events has not been reached yet", retry_after=1.0)

    @staticmethod
    def unknown(channel: bytes, refusal: Exception) -> StreamUnknown:
        """The answer to a request for a channel that Redis refuses. It is that client's own affair, and only logged."""
        logger.info("Redis refuses the events of %s: %s", channel.decode(), refusal)
        return StreamUnknown("There are no events of this name", note=repr(refusal))


class PubSubEvents(RedisEvents):
    """Channels of PUBLISH. ``event`` is the type of their events, or empty."""

    def __init__(self, url: str, on_error: Callable[[], None], event: bytes = b"") -> None:
        super().__init__(url, on_error)
        self._event = event
        self._connection: AbstractConnection | None = None
        # The channels of the commands whose replies have not come, in their order, and how many there are of each.
        self._asked: deque[bytes] = deque()
        self._open: Counter[bytes] = Counter()
        self._commands: list[bytes] = []
        self._sender: asyncio.Task[None] | None = None

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        self.check_known()
        group = self._groups.get(channel)
        if group is None:
            group = self._groups[channel] = Group()
            self._command("SUBSCRIBE", channel)
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
        if group.refusal is not None:
            body.close()
            raise self.unknown(channel, group.refusal)
        return body

    def _leave(self, channel: bytes, group: Group, body: EventBody) -> None:
        if group.bodies.pop(body, body) is None and not group.bodies and self._groups.get(channel) is group:
            del self._groups[channel]
            self._command("UNSUBSCRIBE", channel)

    def _command(self, name: str, channel: bytes) -> None:
        if self._connection is not None:
            self._asked.append(channel)
            self._open[channel] += 1
            self._commands.append(encode((name, channel)))
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
        self._asked, self._open = deque(self._groups), Counter(self._groups.keys())
        # PING first: it is answered where nothing is subscribed to, so the connection is known to work.
        commands = [encode(("PING",)), *(encode(("SUBSCRIBE", channel)) for channel in self._groups)]
        await connection.send_packed_command([b"".join(commands)], check_health=False)
        await connection.read_response()
        self._connection = connection

    async def _read(self, connection: AbstractConnection) -> None:
        handed = 0
        try:
            while True:
                try:
                    reply = await connection.read_response()
                except NoPermissionError as refusal:
                    if not concerns_name(refusal):
                        raise
                    self._refused(refusal)
                    continue
                if reply[0] == b"message":
                    if (group := self._groups.get(reply[1])) is not None:
                        group.put(render_event(reply[2], self._event))
                        handed += len(group.bodies)
                    handed += 1
                    if handed >= _TURN:  # a reply that has come already is read without a turn of the loop
                        handed = 0
                        await asyncio.sleep(0)
                elif (group := self._answered()) is not None and reply[0] == b"subscribe":
                    group.confirm()
        finally:
            self._connection = None
            for group in self._groups.values():
                group.confirm()  # nobody waits for what does not come
                group.subscribed = False

    def _answered(self) -> Group | None:
        """Redis has answered a command. Returns the group of its channel, if nothing else was asked of that since."""
        channel = self._asked.popleft()
        self._open[channel] -= 1
        if self._open[channel]:
            return None
        del self._open[channel]
        return self._groups.get(channel)

    def _refused(self, refusal: RedisError) -> None:
        channel = self._asked[0]
        if (group := self._answered()) is not None:
            del self._groups[channel]
            group.refuse(refusal)

    async def aclose(self) -> None:
        self._connection = None
        await super().aclose()
        if self._sender is not None:
            await end_task(self._sender)
