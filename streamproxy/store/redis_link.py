"""The one connection over which this process sends commands to a Redis, shared by all that need it.

Theory of operation. Commands are put into a batch, and a task sends one batch after another: what comes while one is on
its way goes out with the next. Nobody who sends a command waits for it unless it asks for the reply, and then only as
long as the link's time-out. The link is *up* or *down*. A connection that fails, or that does not answer in time, takes
it down: all commands that wait are told so, new ones are refused at once, and the server is asked again with backoff.
A command that Redis itself refuses (out of memory, no permission) concerns nobody but its sender.

Where a fail-over gives the server's name or address to another, the one that became a replica is left as soon as it
refuses a write. With Sentinels, they are asked for the primary whenever the link comes up.

`Link` is what all need of it; `streamproxy.store.redis_cluster` has that over a link to each primary of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from streamproxy.store.redis_connect import TIMEOUT, Connector, Word, backoff, drop, encode, end_task, shown

logger = logging.getLogger("streamproxy")

BATCH: Final = 1000  # commands that are sent at once
IDLE: Final = 1.0  # seconds after which a connection that is not used is tried
WAITING: Final = 100_000  # commands that may wait

# A script that Redis does not have yet, or no more, is no fault: whoever runs it sends it along then. Nor is a key that
# another node of a cluster has.
_NO_FAULTS: Final = (NoScriptError, AskError)

# Takes the reply, or the exception that came in its place.
Done = Callable[[Any], None]


class StoreDown(Exception):
    """Redis can't be reached, or does not answer."""


class Link:
    """Commands of this process to one Redis. ``on_error`` is called once for each failure, for a counter."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self.up = False
        self.on_up: list[Callable[[], None]] = []  # called each time it, or one of its servers, comes up
        self.on_servers: list[Callable[[], None]] = []  # called when a key may have another server
        self.on_error = on_error
        # Whether a refusal is a failure of Redis, which is counted; set it before `start`.
        self.blames: Callable[[Exception], bool] = lambda refusal: True

    @property
    def up_since(self) -> float:
        """When it, or the last of its servers, came up; in the loop's time."""
        raise NotImplementedError

    @property
    def servers(self) -> tuple[RedisLink, ...]:
        """The links to its servers, of which each key has one."""
        raise NotImplementedError

    async def start(self) -> None:
        """Connect, and keep the connection from now on. Waits for the first attempt only, whatever comes of it."""
        raise NotImplementedError

    def send(self, *command: Word, done: Done | None = None) -> None:
        """Put a command on one key into the next batch. ``done`` gets the reply, or the exception in its place."""
        raise NotImplementedError

    def server_of(self, key: bytes) -> RedisLink | None:
        """The link to the server that has a key, as far as that is known."""
        raise NotImplementedError

    def doubt(self) -> None:
        """Somebody was told by a server that it does not have a key any more."""

    async def ask(self, *command: Word) -> Any:
        """Send a command and wait for the reply. Raises StoreDown, or what Redis says against the command."""
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
        """Send what waits, for as long as a batch may take, and close the connection. Safe to call twice."""
        raise NotImplementedError


class RedisLink(Link):
    """The link to one server: that of the URL, or the primary that Sentinels name. Raises as `Connector`."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        super().__init__(on_error)
        self.url = url
        self.on_down: list[Callable[[], None]] = []  # called for each attempt that fails, too
        self._up_since = 0.0
        self._connector = Connector(url)
        self._where = shown(url)
        self._connection: AbstractConnection | None = None
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
                await self.ask("PING")  # its reply comes behind all others
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
        """Wait for a command. A connection that nobody uses is tried, so that one that is lost is not first used."""
        timer = asyncio.get_running_loop().call_later(IDLE, self.send, "PING")
        try:
            await self._kick.wait()
        finally:
            timer.cancel()

    async def _attempt(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                self._connection = await self._connector.open()
                await self._exchange(self._connection, [encode(("PING",))])
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
        """Send commands and read their replies. Past redis-py's own pipeline, which takes twice the time."""
        await connection.send_packed_command([b"".join(commands)], check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ReadOnlyError:
                raise  # it became a replica: whoever is the primary now is found by connecting again
            except ResponseError as refused:
                replies.append(refused)
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
