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
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from streamproxy.errors import DestinationUnavailable, ExchangeError, ResponseIncomplete, StreamUnknown
from streamproxy.store.body import QueuedBody
from streamproxy.store.events import EntryId, render_event
from streamproxy.store.redis_connect import TIMEOUT, encode
from streamproxy.store.redis_subscription import Subscription
from streamproxy.wire.chunked import chunk_parts

logger = logging.getLogger("streamproxy")


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

    def __init__(self) -> None:
        self._groups: dict[bytes, Group] = {}

    @property
    def connected(self) -> bool:
        """Whether what comes is heard."""
        raise NotImplementedError

    @property
    def clients(self) -> int:
        """How many clients there are, of all channels."""
        return sum(len(group.bodies) for group in self._groups.values())

    def start(self) -> None:
        """Connect, and keep the connection from now on; do not wait for it."""
        raise NotImplementedError

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        """The events of a channel from now on, or after the entry ``last_id``, which only a stream has.

        ``buffer`` is how many bytes the client may hold. Raises DestinationUnavailable before Redis was there for the
        first time, BadRequest for an id that is none, StreamGone for one whose successors may be gone, and
        StreamUnknown for a channel that Redis refuses.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Cut all clients and close the connection."""
        for group in self._groups.values():
            for body in group.bodies:
                body.cut("the proxy is shutting down")


def not_reached_yet() -> DestinationUnavailable:
    """The answer to clients that come before Redis was there for the first time."""
    return DestinationUnavailable("The source of the events has not been reached yet", retry_after=1.0)


def unknown_name(channel: bytes, refusal: Exception) -> StreamUnknown:
    """The answer to a request for a channel that Redis refuses. It is that client's own affair, and only logged."""
    logger.info("Redis refuses the events of %s: %s", channel.decode(), refusal)
    return StreamUnknown("There are no events of this name", note=repr(refusal))


class PubSubEvents(RedisEvents):
    """Channels of PUBLISH. ``event`` is the type of their events, or empty."""

    def __init__(self, url: str, on_error: Callable[[], None], event: bytes = b"") -> None:
        super().__init__()
        self._event = event
        # The channels of the commands whose replies have not come, in their order, and how many there are of each.
        self._asked: deque[bytes] = deque()
        self._open: Counter[bytes] = Counter()
        self._subscription = Subscription(url, on_error, self._begin, self._hear, self._lost, self._refused)

    @property
    def connected(self) -> bool:
        return self._subscription.connected

    def start(self) -> None:
        self._subscription.start()

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        if not self._subscription.ever:
            raise not_reached_yet()
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
            raise unknown_name(channel, group.refusal)
        return body

    def _leave(self, channel: bytes, group: Group, body: EventBody) -> None:
        if group.bodies.pop(body, body) is None and not group.bodies and self._groups.get(channel) is group:
            del self._groups[channel]
            self._command("UNSUBSCRIBE", channel)

    def _command(self, name: str, channel: bytes) -> None:
        if self._subscription.send(name, channel):
            self._asked.append(channel)
            self._open[channel] += 1

    async def _begin(self, connection: AbstractConnection) -> None:
        self._asked, self._open = deque(self._groups), Counter(self._groups.keys())
        # PING first: it is answered where nothing is subscribed to, so the connection is known to work.
        commands = [encode(("PING",)), *(encode(("SUBSCRIBE", channel)) for channel in self._groups)]
        await connection.send_packed_command([b"".join(commands)], check_health=False)
        await connection.read_response()

    def _hear(self, reply: Any) -> int:
        if reply[0] == b"message":
            if (group := self._groups.get(reply[1])) is not None:
                group.put(render_event(reply[2], self._event))
                return 1 + len(group.bodies)
        elif reply[0] in (b"subscribe", b"unsubscribe"):
            group = self._answered()
            if group is not None and reply[0] == b"subscribe":
                group.confirm()
        return 1

    def _lost(self) -> None:
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

    def _refused(self, refusal: ResponseError) -> bool:
        if not concerns_name(refusal):
            return False
        channel = self._asked[0]
        if (group := self._answered()) is not None:
            del self._groups[channel]
            group.refuse(refusal)
        return True

    async def aclose(self) -> None:
        await self._subscription.aclose()
        await super().aclose()
