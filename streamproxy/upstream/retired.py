"""Upstreams that no new request goes to, since a reload took them out of the configuration or changed them.

Each ends its probes and look-ups at once, and closes its connections when the last exchange has ended that was live
when it was retired. Which exchange uses which upstream is known by name: at that moment every live exchange began
under an earlier configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.upstream.upstream import Upstream


class Retired:
    """The retired upstreams that are still in use. Observes the ledger only while there are any."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._users: dict[Upstream, set[Exchange]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._users)

    def add(self, upstreams: Iterable[Upstream]) -> None:
        """Retire these, which the configuration in force has no more."""
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
        """From the ledger: an exchange has ended."""
        for upstream, users in self._users.items():
            if exchange in users:
                users.discard(exchange)
                if not users:
                    self._spawn(upstream)

    def _forget(self, upstream: Upstream) -> None:
        del self._users[upstream]
        if not self._users:
            # Another list: the ledger may be going through this one.
            self._ledger.observers = [one for one in self._ledger.observers if one != self._ended]

    async def aclose(self) -> None:
        """Close all of them now, used or not."""
        for upstream in list(self._users):
            self._forget(upstream)
            with contextlib.suppress(Exception):
                await upstream.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)
