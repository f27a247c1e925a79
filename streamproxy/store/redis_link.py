"""The shared connection over which this process sends commands to a Redis.

Theory of operation. Commands are collected in a batch, and a task sends one batch after another; commands that arrive
while a batch is being sent go out with the next one. A sender waits only if it asks for the reply, and then at most for
the time-out of the link. The link is *up* or *down*. It goes down if its connection fails or does not answer in time:
waiting commands then fail, new ones are refused at once, and the connection is retried with backoff. If Redis itself
refuses a command (out of memory, no permission), that affects only its sender.

After a fail-over that gives the server's name or address to another server, the old one, now a replica, is left as soon
as it refuses a write. Sentinels are asked for the primary whenever the link connects.

`Link` is the interface; `streamproxy.store.redis_cluster` implements it with a link to each primary of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ConnectionError,
    InvalidResponse,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from streamproxy.store.redis_connect import TIMEOUT, Connector, backoff, drop, end_task, shown
from streamproxy.store.redis_protocol import ProtocolError, ReplyParser, Word, encode

logger = logging.getLogger("streamproxy")

BATCH: Final = 1000  # commands that are sent in one batch
IDLE: Final = 1.0  # seconds after which an unused connection is tested
WAITING: Final = 100_000  # commands that may wait
_READ: Final = 1 << 16  # bytes

# Not failures of Redis: a script that it does not have (any more), which the sender then sends along, and a key that
# another node of the cluster has.
_NO_FAULTS: Final = (NoScriptError, AskError)

# Takes the reply, or an exception in place of it.
Done = Callable[[Any], None]


class StoreDown(Exception):
    """Redis can't be reached or does not answer."""


class Link:
    """Sends commands to one Redis. ``on_error`` is called once for each failure, for a counter."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self.up = False
        self.on_up: list[Callable[[], None]] = []  # called each time the link, or one of its servers, comes up
        self.on_servers: list[Callable[[], None]] = []  # called when keys may have moved to other servers
        self.on_error = on_error
        # Whether a refusal counts as a failure of Redis. To be set before `start`.
        self.blames: Callable[[Exception], bool] = lambda refusal: True

    @property
    def up_since(self) -> float:
        """When the link, or the last of its servers, came up, in the loop's time."""
        raise NotImplementedError

    @property
    def servers(self) -> tuple[RedisLink, ...]:
        """The links to the servers; each key is on one of them."""
        raise NotImplementedError

    async def start(self) -> None:
        """Connects, and keeps the connection from now on. Returns after the first attempt, even if it failed."""
        raise NotImplementedError

    def send(self, *command: Word, done: Done | None = None) -> None:
        """Puts a command for one key into the next batch. ``done`` gets the reply, or an exception in its place."""
        raise NotImplementedError

    def server_of(self, key: bytes) -> RedisLink | None:
        """Returns the link to the server that has a key, or None if it is not known."""
        raise NotImplementedError

    def doubt(self) -> None:
        """Handles a report that the server of some key may be another one now."""

    async def ask(self, *command: Word) -> Any:
        """Sends a command and returns the reply. Raises StoreDown, or the error that Redis replied with."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(*command, done=done)
        reply = await future
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def aclose(self) -> None:
        """Sends what waits, within the time-out of a batch, and closes the connection. Can be called twice."""
        raise NotImplementedError


class RedisLink(Link):
    """The link to one server: the one of the URL, or the primary that Sentinels name. Raises as `Connector`."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        super().__init__(on_error)
        self.url = url
        self.on_down: list[Callable[[], None]] = []  # also called for each failed attempt
        self._up_since = 0.0
        self._connector = Connector(url)
        self._where = shown(url)
        self._connection: AbstractConnection | None = None
        self._parser = ReplyParser(ResponseError)
        self._waiting: list[tuple[bytes, Done | None]] = []
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    @property
    def up_since(self) -> float:
        return self._up_since

    @property
    def servers(self) -> tuple[RedisLink, ...]:
        return (self,)

    def server_of(self, key: bytes) -> RedisLink:
        return self

    async def start(self) -> None:
        await self._attempt()
        self._task = asyncio.create_task(self._run(), name="redis link")

    def send(self, *command: Word, done: Done | None = None) -> None:
        if not self.up or len(self._waiting) >= WAITING:
            if done is not None:
                done(StoreDown())
            return
        self._waiting.append((encode(command), done))
        if not self._kick.is_set():
            self._kick.set()

    async def aclose(self) -> None:
        if self.up:
            with contextlib.suppress(RedisError, StoreDown):
                await self.ask("PING")  # its reply comes after all others
        if self._task is not None:
            await end_task(self._task)
        self.up = False
        self._fail_waiting(self._waiting)
        self._waiting = []
        await self._drop_connection()
        await self._connector.aclose()

    async def _run(self) -> None:
        while True:
            if not self.up:
                await asyncio.sleep(backoff(self._failures))
                await self._attempt()
                continue
            if not self._kick.is_set():
                await self._wait()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not self._waiting:
                self._kick.clear()
            await self._send(batch)

    async def _wait(self) -> None:
        """Waits for a command. An unused connection is tested, so that a loss is noticed before it is needed."""
        timer = asyncio.get_running_loop().call_later(IDLE, self.send, "PING")
        try:
            await self._kick.wait()
        finally:
            timer.cancel()

    async def _attempt(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                self._connection = connection = await self._connector.open()
                self._parser = ReplyParser(connection._parser.parse_error)
                await self._exchange(connection, [encode(("PING",))])
        except (RedisError, OSError, TimeoutError) as error:
            await self._went_down(error)
            return
        self.up = True
        self._up_since = asyncio.get_running_loop().time()
        for call in tuple(self.on_up):
            call()

    async def _send(self, batch: list[tuple[bytes, Done | None]]) -> None:
        assert self._connection is not None
        try:
            async with asyncio.timeout(TIMEOUT):
                replies = await self._exchange(self._connection, [command for command, _ in batch])
        except (RedisError, OSError, TimeoutError) as error:
            await self._went_down(error)
            self._fail_waiting(batch)
            return
        except asyncio.CancelledError:
            self._fail_waiting(batch)
            raise
        if self._failures:
            logger.info("Redis at %s is back", self._where)
            self._failures = 0
        for (_, done), reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception) and not isinstance(reply, _NO_FAULTS) and self.blames(reply):
                self.on_error()
            if done is not None:
                done(reply)

    async def _exchange(self, connection: AbstractConnection, commands: list[bytes]) -> list[Any]:
        """Sends commands and returns their replies. redis-py only makes the connection, and the errors of a reply."""
        await connection.send_packed_command([b"".join(commands)], check_health=False)
        stream = connection._reader
        assert stream is not None
        replies: list[Any] = []
        while len(replies) < len(commands):
            data = await stream.read(_READ)
            if not data:
                raise ConnectionError("Redis has closed the connection")
            try:
                replies += self._parser.feed(data)
            except ProtocolError as error:
                raise InvalidResponse(str(error)) from None
        for reply in replies:
            # A replica is left, since connecting again finds the primary; so is a server that serves nobody.
            if isinstance(reply, ReadOnlyError | ConnectionError):
                raise reply
        return replies

    async def _went_down(self, error: Exception) -> None:
        if not self._failures:
            logger.warning("Redis at %s is away: %s", self._where, error or type(error).__name__)
        self._failures += 1
        self.up = False
        self.on_error()
        waiting, self._waiting = self._waiting, []
        self._kick.clear()
        self._fail_waiting(waiting)
        for call in tuple(self.on_down):
            call()
        await self._drop_connection()

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await drop(connection)

    def _fail_waiting(self, batch: list[tuple[bytes, Done | None]]) -> None:
        for _, done in batch:
            if done is not None:
                done(StoreDown())
