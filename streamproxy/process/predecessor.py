"""The process that was taken over, as its successor sees it: at the other end of their line.

Theory of operation. The other process sends its numbers by itself and when it is asked, and its live exchanges when it
is asked::

    taken over ──ask──▶ asked ──all pieces of the answer──▶ shown: ``live`` are these exchanges
                          ▲──────────────ask──────────────────┘

One question for exchanges is under way at a time, and those who ask meanwhile wait for its answer. Whoever reads the
numbers asks anew: the other process may have answered him for the last time a moment ago, and with an older answer a
counter would go back. An answer counts whenever it comes. Who has waited for `PATIENCE` sees the last one, so that a
process that hangs does not keep the operator from what this one does.

When the line ends, the other process has ended: its numbers are kept, and it has no more exchanges.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import Any, cast

from streamproxy.control import Control, Predecessor
from streamproxy.exchange.exchange import Exchange, new_request_id
from streamproxy.observe.carried import unpack, unpack_exchange
from streamproxy.process.handover import decode, encode
from streamproxy.store.base import StopResult

logger = logging.getLogger("streamproxy.server")

PATIENCE = 2.0  # seconds for an answer
_UNREAD = 64 * 1024  # bytes of questions that the other process may leave unread
_RESULTS: dict[object, StopResult] = {"stopped": "stopped", "gone": "gone", "unknown": "unknown"}


class _Remote:
    """Stands for the task of an exchange in the other process; an interruption is sent there."""

    def __init__(self, process: TakenOver, id: str) -> None:
        self._process = process
        self._id = id

    def cancel(self) -> bool:
        """Asks the other process to end the exchange."""
        self._process.send(stop=self._id)
        return True


class TakenOver(Predecessor):
    """The process with id ``pid`` at the other end of a line. Its numbers are added to those of ``control``."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, control: Control) -> None:
        self.pid = pid
        self.live: dict[str, Exchange] = {}
        self._reader = reader
        self._writer = writer
        self._control = control
        self._answers = False  # whether its version does
        self._late = False  # it has kept somebody waiting; this is logged once
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listing: asyncio.Future[dict[str, Any]] | None = None  # the question for its exchanges
        self._rows: list[dict[str, Any]] = []  # of an answer that is not complete
        self._mirrors: dict[str, Exchange] = {}  # by the ids that the other process uses

    def send(self, **message: Any) -> None:
        """Sends a message, which is lost if the process has ended."""
        if not self._writer.is_closing():
            self._writer.write(encode(**message))

    async def confirmed(self, timeout: float) -> bool:
        """Tells it that this process serves. Returns whether it has stopped accepting within ``timeout`` seconds."""
        self.send(serving=True)
        try:
            async with asyncio.timeout(timeout):
                self._hear(await self._reader.readline())
        except TimeoutError:
            return False
        return True

    async def follow(self) -> None:
        """Receives its messages until it has ended."""
        try:
            with contextlib.suppress(OSError, ValueError):  # ValueError: a line that is too long
                while line := await self._reader.readline():
                    self._hear(line)
            logger.info("process %d, which was taken over, has ended", self.pid)
        finally:
            self._answers = False
            self.live = {}
            for future in self._asked.values():
                if not future.done():
                    future.set_result({})
            self._control.metrics.settle_inherited()
            self._writer.close()

    def _hear(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # messages of other versions are not understood
            message = decode(line)
            if "totals" in message:
                self._answers = message.get("answers") is True
                self._control.metrics.inherit(unpack(message["totals"]))
            elif "answer" in message:
                self._hear_answer(message)

    def _hear_answer(self, message: dict[str, Any]) -> None:
        if "streams" in message:
            self._rows += message["streams"]
            if message["more"]:
                return
            rows, self._rows = self._rows, []
            self._show(rows)
        future = self._asked.get(message["answer"])
        if future is not None and not future.done():
            future.set_result(message)

    def _show(self, rows: list[dict[str, Any]]) -> None:
        """Makes ``live`` what the other process has said."""
        before, self._mirrors = self._mirrors, {}
        live: dict[str, Exchange] = {}
        for row in rows:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                id = str(row["id"])
                mirror = before.get(id)
                if mirror is None or mirror.started_at != row["started_at"]:
                    mirror = Exchange(id, "", "", "", "")
                    mirror.task = cast(Any, _Remote(self, id))
                unpack_exchange(row, mirror)
                while mirror.id in live or mirror.id in self._control.ledger.live:
                    mirror.id = new_request_id()
                live[mirror.id] = self._mirrors[id] = mirror
        self.live = live

    @property
    def _responsive(self) -> bool:
        """Whether it can be asked: not if it is an earlier version, has ended, or does not read what it was sent."""
        return self._answers and self._writer.transport.get_write_buffer_size() < _UNREAD

    async def refresh(self, *, streams: bool) -> None:
        if not self._responsive:
            return
        if streams:
            if self._listing is None or self._listing.done():
                self._listing = self._ask()
            answer = await self._answer(self._listing)
        else:
            answer = await self._ask_once(totals=True)
        if answer is None and not self._late:
            self._late = True
            logger.warning("process %d, which was taken over, does not answer; its streams may be others", self.pid)

    async def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        if not self._responsive:
            return "unknown"
        answer = await self._ask_once(kept=stream, owner=owner.hex())
        return "unknown" if answer is None else _RESULTS.get(answer.get("result"), "unknown")

    async def _ask_once(self, **question: Any) -> dict[str, Any] | None:
        """Asks, and waits for the answer like `_answer`. Nobody else does, so that a late one is not waited for."""
        future = self._ask(**question)
        try:
            return await self._answer(future)
        finally:
            future.cancel()

    def _ask(self, **question: Any) -> asyncio.Future[dict[str, Any]]:
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        future.add_done_callback(lambda _: self._asked.pop(number))
        self.send(ask=number, **question)
        return future

    async def _answer(self, future: asyncio.Future[dict[str, Any]]) -> dict[str, Any] | None:
        """Waits for an answer, which is empty if the process has ended; None if it takes too long."""
        await asyncio.wait([future], timeout=PATIENCE)
        return future.result() if future.done() else None
