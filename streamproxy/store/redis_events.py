"""Events that other programs publish in Redis, for all clients of this process, over one connection.

Theory of operation. The clients of a channel form a group, which exists as long as there is one. An event is rendered
once, and each client gets the same bytes: at once if it waits for them, otherwise through its queue. A client whose
queue exceeds its limit is cut, and delays nobody else.

`PubSubEvents` subscribes to each channel once. A client is admitted when Redis has confirmed the subscription, so that
it misses nothing that is published after its response has begun. Redis answers subscriptions in order. If it refuses
one to this user, only the clients of that channel are affected.

When Redis is lost, clients stay, and the connection is retried with backoff. What was published meanwhile is lost.

`streamproxy.store.redis_entries` does the same for the entries of Redis Streams.
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
from streamproxy.store.redis_connect import TIMEOUT
from streamproxy.store.redis_protocol import encode
from streamproxy.store.redis_subscription import Subscription
from streamproxy.wire.chunked import chunk_parts

logger = logging.getLogger("streamproxy")


def concerns_name(refusal: Exception) -> bool:
    """Whether Redis refused a single name, which a client may have chosen, and otherwise works.

    Either the name is that of a key of another type, or the rules of Redis deny it to this user.
    """
    text = str(refusal)
    return text.startswith("WRONGTYPE") or (isinstance(refusal, NoPermissionError) and "to access" in text)


class EventBody(QueuedBody):
    """The events of one client. ``last`` is the last entry of a stream that it was handed.

    While it is ``behind``, it is handed older entries as fast as it takes them, and ``more`` requests the next ones.
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
        return False  # such a response never ends in good order

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
        """Whether it has room for more older entries."""
        return self.held <= self._buffer // 2

    def put(self, chunk: bytes, framed: bytes = b"") -> None:
        super().put(chunk, framed)
        if self.held > self._buffer and not self.behind:
            self.cut("the client lagged behind")

    def cut(self, note: str) -> None:
        """Ends the client's response as an incomplete one."""
        if self._fault is None:
            self._fault = ResponseIncomplete(note=note)
            self.drop()
            self.finish()

    def abandon(self) -> None:
        """Does nothing: no exchange depends on this client."""

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
        self.refusal: RedisError | None = None  # why Redis refused the channel

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
        """Cuts the clients of the channel, which Redis has refused to this user."""
        self.refusal = refusal
        self.confirm()
        for body in tuple(self.bodies):
            body.cut(f"Redis refuses the channel: {refusal}")


class RedisEvents:
    """The channels of one event source, which are created as clients ask for them."""

    def __init__(self) -> None:
        self._groups: dict[bytes, Group] = {}

    @property
    def connected(self) -> bool:
        """Whether new events are received at the moment."""
        raise NotImplementedError

    @property
    def clients(self) -> int:
        """The number of clients of all channels."""
        return sum(len(group.bodies) for group in self._groups.values())

    def start(self) -> None:
        """Starts to connect, without waiting, and keeps the connection from now on."""
        raise NotImplementedError

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        """Returns the events of a channel from now on, or those after the entry ``last_id``, which only streams have.

        ``buffer`` is the number of bytes that may wait for the client. Raises DestinationUnavailable before the first
        connection to Redis, BadRequest for an id that is not an entry's, StreamGone for an id whose successors may have
        been trimmed, and StreamUnknown for a channel that Redis refuses.
        """
        raise NotImplementedError

    async def aclose(self) -> None:
        """Cuts all clients, and closes the connection."""
        for group in self._groups.values():
            for body in group.bodies:
                body.cut("the proxy is shutting down")


def not_reached_yet() -> DestinationUnavailable:
    """Returns the error for clients that come before the first connection to Redis."""
    return DestinationUnavailable("The source of the events has not been reached yet", retry_after=1.0)


def unknown_name(channel: bytes, refusal: Exception) -> StreamUnknown:
    """Returns the error for a channel that Redis refuses. It is the client's mistake, so it is only logged."""
    logger.info("Redis refuses the events of %s: %s", channel.decode(), refusal)
    return StreamUnknown("There are no events of this name", note=repr(refusal))


class PubSubEvents(RedisEvents):
    """Channels that are sent to with PUBLISH.

    ``event`` is the type of their events, or empty. ``on_error`` is called each time that Redis is lost, for a counter.
    """

    def __init__(self, url: str, on_error: Callable[[], None], event: bytes = b"") -> None:
        super().__init__()
        self._event = event
        # The channels of the commands that were not answered yet, in order, and their number for each channel.
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
        # PING first: its answer shows that the connection works, even if there is nothing to subscribe to.
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
            group.confirm()  # the confirmation will not come, so nobody should wait for it
            group.subscribed = False

    def _answered(self) -> Group | None:
        """Handles the answer to a command. Returns the group of its channel, unless other commands for it followed."""
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
