"""A connection on which Redis tells of something, kept for as long as somebody listens.

Theory of operation. A connection is opened and made ready by `begin`, and each reply on it is handed to `hear`. When it
fails, `lost` is called, and another one is opened after a while, with backoff. A server that is silent is asked for a
sign of life: of a host that is gone nothing is ever heard, and after a fail-over another one has what is published.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from streamproxy.store.redis_connect import TIMEOUT, Connector, Word, backoff, drop, encode, end_task

logger = logging.getLogger("streamproxy")

QUIET: Final = 2.0  # seconds after which a silent server is asked for a sign of life, which it has TIMEOUT for
_TURN: Final = 1000  # clients and messages after which everything else has a turn
_PING: Final = encode(("PING",))


class Subscription:
    """One such connection. ``on_error`` is called once each time that it is lost or can't be had, for a counter.

    ``hear`` returns how much work a reply was: 1, or the number of clients that it was for. Replies to PING come too.
    ``refused`` gets what Redis says against a command, and returns whether the connection may go on. Raises as
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
        self.ever = False  # it was connected once
        self._connector = Connector(url)
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
        """Connect, and keep the connection from now on; do not wait for it."""
        self._task = asyncio.create_task(self._run(), name="redis events")

    def send(self, *words: Word) -> bool:
        """Send a command, with others that come up in this turn of the loop; whether there is a connection for it."""
        if self._connection is None:
            return False
        self._commands.append(encode(words))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="redis subscriptions")
        return True

    async def aclose(self) -> None:
        """Close the connection."""
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
                    self._connection = connection  # what is sent from now on goes out behind what `begin` sends
                    await self._begin(connection)
                failures = 0
                self.connected = self.ever = True
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                if not failures:
                    logger.warning("events of Redis are lost: %s", error or type(error).__name__)
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
            if work >= _TURN:  # a reply that has come already is read without a turn of the loop
                work = 0
                await asyncio.sleep(0)

    async def _watch(self, limit: asyncio.Timeout) -> None:
        """End the reading when the server gives no sign of life."""
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
        """Send what has to be sent; what comes up meanwhile goes with the next write."""
        try:
            while self._commands and (connection := self._connection) is not None:
                commands, self._commands = self._commands, []
                with contextlib.suppress(RedisError, OSError, TimeoutError):  # the reader finds it broken too
                    await connection.send_packed_command([b"".join(commands)], check_health=False)
        finally:
            self._sender = None
