"""The live exchanges, the observers of their ends, and counters that belong to no exchange."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from streamproxy.exchange.exchange import Exchange, new_request_id
from streamproxy.exchange.histogram import GapHistograms
from streamproxy.exchange.tally import Tallies

logger = logging.getLogger("streamproxy.exchange")

Observer = Callable[[Exchange], None]

_DOT_SEGMENTS: Final = frozenset({".", ".."})  # browsers remove them from paths, even percent-encoded


class Ledger:
    """The live exchanges, the observers of their ends, and counters that belong to no exchange."""

    def __init__(self) -> None:
        self.live: dict[str, Exchange] = {}
        self.observers: list[Observer] = []
        self.draining = False  # the process is about to end: no long exchange may start
        self.gaps = GapHistograms()
        self.tallies = Tallies()
        self._empty: asyncio.Future[None] | None = None

    def open(self, exchange: Exchange) -> None:
        """Adds an exchange.

        If a client sends the X-Request-Id of a live exchange, or one that cannot be part of a URL, its exchange gets
        another ``id``.
        """
        while exchange.id in self.live or exchange.id in _DOT_SEGMENTS:
            exchange.id = new_request_id()
        self.live[exchange.id] = exchange
        exchange.gaps = self.gaps

    def close(self, exchange: Exchange) -> None:
        """Removes an exchange, settles it and calls the observers, once.

        A failing observer does not affect the others.
        """
        if self.live.pop(exchange.id, None) is None:
            return
        exchange.task = None
        exchange.settle(time.monotonic())
        for observer in self.observers:
            try:
                observer(exchange)
            except Exception:
                logger.exception("an observer failed at the end of exchange %s", exchange.id)
        if self._empty is not None and not self.live and not self._empty.done():
            self._empty.set_result(None)

    async def wait_empty(self) -> bool:
        """Waits until no exchange is live. Only one caller at a time."""
        while self.live:
            self._empty = asyncio.get_running_loop().create_future()
            try:
                await self._empty
            finally:
                self._empty = None
        return True
