"""Takes over from the previous process, and hands over to the next one.

Theory of operation::

    main listener accepts ──▶ take_over ──▶ admin listener accepts ──▶ offer ──a successor serves──▶ drain, with reports
                              the one before                             │     (`Stop.succeeded`)
                              drains                                     └──SIGTERM──▶ drain as ever

Both processes share the sockets from the hand-over on, so a connection is accepted by one of them, or waits in the
queue for a few milliseconds. The admin listener changes over in order: the old process closes it before the new one
responds.

The old process sends its numbers when it stops accepting and while it drains. They are kept when it has exited:
`/metrics` shows the sum of both, and no counter decreases. Until then its streams can be listed and stopped through the
new process. See `TakenOver` for the end of the line in the new process, and `Successor` for that in the old one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from streamproxy.control import Control
from streamproxy.process.drain import Stop
from streamproxy.process.handover import (
    PATIENCE,
    VERSION,
    Handed,
    Listening,
    decode,
    encode,
    give,
    is_own_user,
    meet,
)
from streamproxy.process.predecessor import TakenOver
from streamproxy.process.successor import Successor
from streamproxy.server.sockets import Listener

logger = logging.getLogger("streamproxy.server")

REPORT = 1.0  # seconds between two reports to the successor
STARTING = 180.0  # seconds for a successor to serve; others wait meanwhile
_LONGEST = 64 * 1024 * 1024  # the maximum bytes of a report; a thousand routes need about one million

Sockets = Callable[[], tuple[list[socket.socket], list[socket.socket]]]  # the main listener's, the admin listener's


class Succession:
    """``place`` is where a successor finds this process, or None; ``handed`` is what this process took over."""

    def __init__(self, place: str | None = None, handed: Handed | None = None) -> None:
        self._place = place
        self._handed = handed
        self._meeting: socket.socket | None = None
        self._successor: Successor | None = None
        self._following: asyncio.Task[None] | None = None
        self._offering: asyncio.Task[None] | None = None

    async def offer(self, stop: Stop, control: Control, sockets: Sockets) -> None:
        """Allows another process to take over from now on."""
        if self._place is None:
            return
        try:
            self._meeting = meet(self._place) if self._handed is None else self._handed.meeting
        except OSError as error:
            logger.warning("this process can't be taken over: %s", error.strerror)
            return
        self._offering = asyncio.create_task(self._offer(stop, control, sockets), name="succession")

    async def take_over(self, control: Control) -> None:
        """Tells the previous process, if there is one, that this process accepts connections.

        Returns once the previous one accepts no more. Its numbers are added to those of ``control``, which also shows
        its exchanges until it has exited.
        """
        handed = self._handed
        if handed is None:
            return
        handed.line.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=handed.line, limit=_LONGEST)
        for listener in handed.to_own:
            listener.owned = True
        before = TakenOver(handed.pid, reader, writer, control)
        if not await before.confirmed(PATIENCE):
            logger.warning("process %d has not confirmed that it stopped accepting connections", handed.pid)
        logger.info("took over from process %d, which ends its streams", handed.pid)
        control.predecessor = before
        self._following = asyncio.create_task(self._follow(before, control), name="predecessor")

    async def _follow(self, before: TakenOver, control: Control) -> None:
        try:
            await before.follow()
        finally:
            control.predecessor = None

    async def _offer(self, stop: Stop, control: Control, sockets: Sockets) -> None:
        assert self._meeting is not None
        while self._successor is None:
            line, _ = await asyncio.get_running_loop().sock_accept(self._meeting)
            try:
                reader, writer = await self._hand_over(line, Listening(*sockets(), self._meeting))
                self._successor = Successor(reader, writer, control)
            except (OSError, TimeoutError, ValueError) as error:
                logger.warning("a successor did not take over, nothing has changed: %s", str(error) or "it is too slow")
        self._close_meeting()
        logger.info("another process has taken over")
        stop.succeeded()
        await stop.released.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._successor.answer(), name="successor")
            while True:
                await self._successor.report()
                await asyncio.sleep(REPORT)

    async def _hand_over(
        self, line: socket.socket, listening: Listening
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Lets the process at the other end take over. Returns once it serves, and raises if it does not."""
        close: Callable[[], None] = line.close
        lent = _Lent([*listening.main, *listening.admin])
        try:
            await self._send(line, listening, lent)
            reader, writer = await asyncio.open_unix_connection(sock=line)
            close = writer.close
            async with asyncio.timeout(STARTING):
                said = await reader.readline()
            if not said:
                raise ValueError("it ended before it served")
        except asyncio.CancelledError:
            close()  # if this process exits meanwhile, the files belong to the successor
            raise
        except BaseException:
            close()
            lent.take_back()
            raise
        return reader, writer

    async def _send(self, line: socket.socket, listening: Listening, lent: _Lent) -> None:
        if not is_own_user(line):
            raise ValueError("it is another user's")
        line.setblocking(False)
        async with asyncio.timeout(PATIENCE):
            hello = decode(await asyncio.get_running_loop().sock_recv(line, 4096))
        line.settimeout(PATIENCE)
        if hello.get("takeover") != VERSION:
            line.send(encode(pid=os.getpid(), error="the process that serves speaks another version; restart it"))
            raise ValueError("it speaks another version")
        await asyncio.to_thread(give, line, listening, lent.owned)
        line.setblocking(False)

    def withdraw(self) -> None:
        """Stops offering the sockets, unless a successor has them."""
        if self._successor is None and self._offering is not None:
            self._offering.cancel()
            self._close_meeting()

    def _close_meeting(self) -> None:
        if self._meeting is not None:
            self._meeting.close()

    async def end(self, stop: Stop) -> None:
        """Sends the last numbers to the successor, and releases everything.

        While the previous process drains, its numbers reach the successor through this process. A second signal does
        not wait for this.
        """
        self.withdraw()
        if self._successor is not None and self._following is not None:
            hurry = asyncio.create_task(stop.at_once.wait())
            await asyncio.wait({self._following, hurry}, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        tasks = [task for task in (self._following, self._offering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._successor is not None:
            await self._successor.report()
            await self._successor.aclose()


class _Lent:
    """Unix sockets whose files this process does not remove unless they are taken back."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        self.owned = [one for one in listeners if isinstance(one, Listener) and one.owned]
        for listener in self.owned:
            listener.owned = False

    def take_back(self) -> None:
        """Owns the files again."""
        for listener in self.owned:
            listener.owned = True
