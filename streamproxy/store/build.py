"""The stores of all routes, kept over reloads: a cursor is good in the next configuration too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamproxy.config.model import Resume
from streamproxy.errors import StreamproxyError
from streamproxy.store.base import StoreSettings, StreamStore
from streamproxy.store.memory import MemoryStore

if TYPE_CHECKING:
    from streamproxy.store.redis import RedisHub


class Stores:
    """``on_error`` is called once for each failure of Redis."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._stores: dict[tuple[str, str], StreamStore] = {}
        self._hubs: dict[str, RedisHub] = {}
        self._started: set[str] = set()

    def streams(self, route: str, resume: Resume) -> StreamStore:
        """The store of a route. Raises StreamproxyError if it can't be used."""
        settings = StoreSettings(resume.window, resume.max_bytes, resume.max_total, resume.grace)
        store = self._stores.get((route, resume.store))
        if store is None:
            store = self._stores[route, resume.store] = self._make(resume.store, settings)
        else:
            store.configure(settings)
        return store

    async def start(self) -> None:
        """Connect to what is not connected yet. Returns after the first attempts, whatever comes of them."""
        new = [url for url in self._hubs if url not in self._started]
        self._started.update(new)
        await asyncio.gather(*(self._hubs[url].start() for url in new))

    async def aclose(self) -> None:
        """Forget what is in memory, and bring to Redis what it has not yet."""
        await asyncio.gather(*(hub.aclose() for hub in self._hubs.values()))
        for store in self._stores.values():
            await store.aclose()

    def _make(self, where: str, settings: StoreSettings) -> StreamStore:
        if where == "memory":
            return MemoryStore(settings)
        try:
            from streamproxy.store.redis import RedisHub, RedisStore  # the library is an extra
        except ImportError:
            raise StreamproxyError("a store in Redis needs the extra: pip install 'streamproxy[redis]'") from None
        hub = self._hubs.get(where)
        if hub is None:
            try:
                hub = self._hubs[where] = RedisHub(where, self._on_error)
            except (ValueError, TypeError) as error:
                raise StreamproxyError(f"the URL of the store can't be used: {error}") from None
        return RedisStore(hub, settings)
