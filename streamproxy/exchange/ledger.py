"""The live exchanges, the observers of their ends, and what is counted beside the exchanges."""

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

_DOT_SEGMENTS: Final = frozenset({".", ".."})  # browsers take them out of a path, percent-encoded too


class Ledger:
    """The live exchanges, the observers of their ends, and what is counted beside the exchanges."""

    def __init__(self) -> None:
        self.live: dict[str, Exchange] = {}
        self.observers: list[Observer] = []
        self.draining = False  # the process is about to end: nothing that may last for hours begins here
        self.gaps = GapHistograms()
        self.tallies = Tallies()
        self._empty: asyncio.Future[None] | None = None

    def open(self, exchange: Exchange) -> None:
        """Enter an exchange. Two clients may send the same X-Request-Id: the second is known by another ``id``, as is
        one that a URL could not name."""
        while exchange.id in self.live or exchange.id in _DOT_SEGMENTS:
            exchange.id = new_request_id()
        self.live[exchange.id] = exchange
        exchange.gaps = self.gaps

    def close(self, exchange: Exchange) -> None:
        """Take an exchange out, settle it and call the observers, once. An observer that fails does not keep the
        others from being called."""
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
        """Wait until no exchange is live; for one waiter at a time."""
        while self.live:
            self._empty = asyncio.get_running_loop().create_future()
            try:
                await self._empty
            finally:
                self._empty = None
        return True
