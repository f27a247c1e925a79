"""A connection on which Redis reports something, and which is reopened when it is lost.

Theory of operation. `begin` prepares a connection that was opened, and `hear` gets each reply. When the connection
fails, `lost` is called, and another one is opened with backoff. A silent server is asked for a sign of life, because a
host that is gone never reports its end, and after a fail-over messages are published on another server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from streamproxy.store.redis_connect import TIMEOUT, Connector, backoff, drop, end_task, shown
from streamproxy.store.redis_protocol import Word, encode

logger = logging.getLogger("streamproxy")

QUIET: Final = 2.0  # seconds after which a silent server is asked for a sign of life; it has TIMEOUT to answer
_TURN: Final = 1000  # units of work after which other tasks get a turn
_PING: Final = encode(("PING",))


class Subscription:
    """Such a connection. ``on_error`` is called each time that it is lost or can't be opened, for a counter.

    ``hear`` gets each reply, those to PING too, and returns how much work it was: about 1 for each client it was for.
    ``refused`` gets an error with which Redis replied, and returns whether to keep the connection. Raises as
    `Connector`.
    """

    def __init__(
        self,
        url: str,
        on_error: Callable[[], None],
        begin: Callable[[AbstractConnection], Awaitable[None]],
        hear: Callable[[Any], int],
        lost: Callable[[], None],
        refused: Callable[[ResponseError], bool] = lambda refusal: False,
    ) -> None:
        self.connected = False
        self.ever = False  # whether it was connected at least once
        self._connector = Connector(url)
        self._where = shown(url)
        self._on_error = on_error
        self._begin = begin
        self._hear = hear
        self._lost = lost
        self._refused = refused
        self._heard = False
        self._connection: AbstractConnection | None = None
        self._commands: list[bytes] = []
        self._sender: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to connect, without waiting, and keeps the connection from now on."""
        self._task = asyncio.create_task(self._run(), name="redis events")

    def send(self, *words: Word) -> bool:
        """Sends a command, together with others of this turn of the loop. Returns False if there is no connection."""
        if self._connection is None:
            return False
        self._commands.append(encode(words))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="redis subscriptions")
        return True

    async def aclose(self) -> None:
        """Closes the connection."""
        if self._task is not None:
            await end_task(self._task)
        if self._sender is not None:
            await end_task(self._sender)
        await self._connector.aclose()

    async def _run(self) -> None:
        failures = 0
        while True:
            connection: AbstractConnection | None = None
            try:
                async with asyncio.timeout(TIMEOUT):
                    connection = await self._connector.open()
                    self._commands.clear()
                    self._connection = connection  # what is sent from now on goes out after what `begin` sends
                    await self._begin(connection)
                if failures:
                    logger.info("the subscription to Redis at %s is back", self._where)
                failures = 0
                self.connected = self.ever = True
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                if not failures:
                    reason = error or type(error).__name__
                    logger.warning("the subscription to Redis at %s is lost: %s", self._where, reason)
                failures += 1
                self._on_error()
            finally:
                self.connected = False
                self._connection = None
                if connection is not None:
                    self._lost()
                    await drop(connection)
            await asyncio.sleep(backoff(failures))

    async def _listen(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(self._watch(limit), name="redis sign of life")
            try:
                await self._read(connection)
            finally:
                watch.cancel()

    async def _read(self, connection: AbstractConnection) -> None:
        work = 0
        while True:
            try:
                reply = await connection.read_response()
            except ResponseError as refusal:
                if not self._refused(refusal):
                    raise
                continue
            self._heard = True
            work += self._hear(reply)
            if work >= _TURN:  # replies that have arrived already are read without a turn of the loop
                work = 0
                await asyncio.sleep(0)

    async def _watch(self, limit: asyncio.Timeout) -> None:
        """Ends the reading if the server gives no sign of life."""
        while True:
            self._heard = False
            await asyncio.sleep(QUIET)
            if not self._heard:
                self.send("PING")
                await asyncio.sleep(TIMEOUT)
                if not self._heard:
                    limit.reschedule(asyncio.get_running_loop().time())
                    return

    async def _send(self) -> None:
        """Sends the collected commands. Those that are added meanwhile go out with the next write."""
        try:
            while self._commands and (connection := self._connection) is not None:
                commands, self._commands = self._commands, []
                with contextlib.suppress(RedisError, OSError, TimeoutError):  # the reader notices the failure too
                    await connection.send_packed_command([b"".join(commands)], check_health=False)
        finally:
            self._sender = None
