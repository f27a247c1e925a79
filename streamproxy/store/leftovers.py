"""Determines when connections that only an earlier configuration used can be closed.

This is when the last exchange that began before a reload has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger


class Leftovers:
    """Calls ``close`` when all exchanges of the last reload's time have ended; observes the ledger until then."""

    def __init__(self, ledger: Ledger, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._ledger = ledger
        self._close = close
        self._users: set[Exchange] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def reloaded(self) -> None:
        """Records that another configuration is in force; from now on, waits for the exchanges that are live now."""
        if not self._users:
            self._ledger.observers = [*self._ledger.observers, self._ended]
        # This includes those of earlier configurations that still run.
        self._users = set(self._ledger.live.values())
        if not self._users:
            self._finish()

    def _ended(self, exchange: Exchange) -> None:
        if exchange in self._users:
            self._users.discard(exchange)
            if not self._users:
                self._finish()

    def _finish(self) -> None:
        # A new list, because the ledger may be iterating over this one.
        self._ledger.observers = [one for one in self._ledger.observers if one != self._ended]
        task = asyncio.get_running_loop().create_task(self._close(), name="close what a reload left without a use")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Waits until everything is closed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
