"""Upstreams that a reload removed or replaced, and that still have live exchanges.

A retired upstream stops its probes and look-ups at once, and closes its connections when its last live exchange ends.
Exchanges are matched to upstreams by name: all exchanges that are live when an upstream retires began under an earlier
configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.upstream.upstream import Upstream


class Retired:
    """The retired upstreams still in use. It observes the ledger only while there are any."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._users: dict[Upstream, set[Exchange]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._users)

    def add(self, upstreams: Iterable[Upstream]) -> None:
        """Retires upstreams that are not part of the new configuration."""
        live = list(self._ledger.live.values())
        for upstream in upstreams:
            if not self._users:
                self._ledger.observers = [*self._ledger.observers, self._ended]
            self._users[upstream] = {exchange for exchange in live if exchange.upstream == upstream.name}
            self._spawn(upstream)

    def _spawn(self, upstream: Upstream) -> None:
        task = asyncio.get_running_loop().create_task(self._retire(upstream), name=f"retire upstream {upstream.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retire(self, upstream: Upstream) -> None:
        await upstream.quiesce()
        if not self._users.get(upstream, True):
            self._forget(upstream)
            await upstream.aclose()

    def _ended(self, exchange: Exchange) -> None:
        """Called by the ledger when an exchange has ended."""
        for upstream, users in self._users.items():
            if exchange in users:
                users.discard(exchange)
                if not users:
                    self._spawn(upstream)

    def _forget(self, upstream: Upstream) -> None:
        del self._users[upstream]
        if not self._users:
            # A new list, because the ledger may be iterating over this one.
            self._ledger.observers = [one for one in self._ledger.observers if one != self._ended]

    async def aclose(self) -> None:
        """Closes all of them now, used or not."""
        for upstream in list(self._users):
            self._forget(upstream)
            with contextlib.suppress(Exception):
                await upstream.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)
