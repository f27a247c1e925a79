"""What an ASGI application sends, in order, for senders that must not wait.

Theory of operation. `Outbox.put` queues a message and returns at once; one task awaits the server's ``send`` for each
in turn. A sender that has put more than ``limit`` bytes waits with `Outbox.drained`. States::

    OPEN ──end()──▶ ENDED: what is queued still goes, nothing is added
      └──``send`` raises──▶ ENDED, with nothing queued; ``on_lost`` is called
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

logger = logging.getLogger("streamproxy.proxy")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

READ_AHEAD: Final = 65_536  # bytes that wait, unless another limit is set
GRACE: Final = 1.0  # seconds for the server to take what is left


class Outbox:
    """The queue in front of a server's ``send``. ``on_lost`` is called if the server takes no more."""

    __slots__ = ("_ended", "_held", "_messages", "_on_lost", "_room", "_send", "_task", "_wake", "limit")

    def __init__(self, send: Send, on_lost: Callable[[], None]) -> None:
        self._send = send
        self._on_lost = on_lost
        self._messages: deque[tuple[Message, int]] = deque()
        self._held = 0
        self._ended = False
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.limit = READ_AHEAD
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, message: Message, size: int = 0) -> bool:
        """Queue a message of so many bytes; returns whether there is room for more."""
        if not self._ended:
            self._messages.append((message, size))
            self._held += size
            settle(self._wake)
        return self._held <= self.limit

    @property
    def full(self) -> bool:
        """Whether more is held than may be."""
        return self._held > self.limit

    async def drained(self) -> None:
        """Wait until there is room, or nothing is taken any more."""
        while self._held > self.limit and not self._ended:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    async def _run(self) -> None:
        while True:
            while not self._messages:
                if self._ended:
                    return
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            message, size = self._messages[0]
            try:
                await self._send(message)
            except Exception as error:  # servers have types of their own for a client that has left
                logger.debug("the server takes no more of a socket: %r", error)
                self.end()
                self._messages.clear()
                self._on_lost()
                return
            self._messages.popleft()
            self._held -= size
            if self._held <= self.limit:
                settle(self._room)

    def end(self) -> None:
        """Take no more."""
        self._ended = True
        settle(self._wake)
        settle(self._room)

    async def flush(self) -> None:
        """Take no more, and wait a moment for the server to take what there is."""
        self.end()
        await asyncio.wait((self._task,), timeout=GRACE)

    def close(self) -> None:
        """Stop at once."""
        self.end()
        self._task.cancel()


def settle(future: asyncio.Future[None] | None) -> None:
    """Wakes what awaits the future, if anything does."""
    if future is not None and not future.done():
        future.set_result(None)
