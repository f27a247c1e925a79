"""The process that has taken over, as its predecessor sees it: at the other end of their line.

It is sent the numbers of this process, and what it asks for: the live exchanges, and the end of one of them. What this
process knows of its own predecessor is part of both, so that every process that still drains is seen from the last one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from streamproxy.control import Control
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.carried import pack, pack_exchange
from streamproxy.process.handover import decode, encode

_BATCH = 100  # exchanges in one message, and between two iterations of the event loop


class Successor:
    """The other end of a line, and what it may see of ``control``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, control: Control) -> None:
        self._reader = reader
        self._writer = writer
        self._control = control

    async def report(self) -> None:
        """Sends the current numbers."""
        await self._send(totals=pack(self._control.metrics.snapshot()), answers=True)

    async def answer(self) -> None:
        """Answers questions until the successor has ended. Each has a task, because one must not delay another."""
        async with asyncio.TaskGroup() as group:
            with contextlib.suppress(OSError, ValueError):  # ValueError: a line that is too long
                while line := await self._reader.readline():
                    with contextlib.suppress(ValueError):
                        group.create_task(self._hear(decode(line)))

    async def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"stop": str(id)}:
                self._control.stop(id)
            case {"ask": int(number), "kept": str(stream), "owner": str(owner)}:
                with contextlib.suppress(ValueError):
                    await self._send(answer=number, result=await self._control.stop_kept(stream, bytes.fromhex(owner)))
            case {"ask": int(number), "totals": True}:
                await self._control.refresh(streams=False)
                await self.report()
                await self._send(answer=number)
            case {"ask": int(number)}:
                await self._control.refresh(streams=True)
                await self._list(number, (*self._control.drained.values(), *self._control.ledger.live.values()))

    async def _list(self, number: int, exchanges: Iterable[Exchange]) -> None:
        """Sends exchanges. One that ends meanwhile is still sent, as it was at its end."""
        left = list(exchanges)
        while left:
            batch, left = left[:_BATCH], left[_BATCH:]
            await self._send(answer=number, streams=[pack_exchange(exchange) for exchange in batch], more=True)
            await asyncio.sleep(0)
        await self._send(answer=number, streams=[], more=False)

    async def _send(self, **message: Any) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(**message))
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def aclose(self) -> None:
        """Closes the line after all messages were sent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
