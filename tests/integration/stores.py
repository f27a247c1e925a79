"""Stores over one Redis, as several processes have them."""

from __future__ import annotations

from streamproxy.store.base import KeptStream, StoreSettings
from streamproxy.store.cursor import storage_key
from streamproxy.store.redis import RedisHub, RedisStore
from tests.doubles.until import until


class Sidecars:
    """Stores with a hub of their own each, as different processes have them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.hubs: list[RedisHub] = []
        self.stores: list[RedisStore] = []
        self.errors = 0

    async def start(self, **options: float) -> RedisStore:
        hub = RedisHub(self.url, self._count)
        await hub.start()
        store = RedisStore(hub, StoreSettings(**options))  # type: ignore[arg-type]
        self.hubs.append(hub)
        self.stores.append(store)
        if hub.link.up:
            await until(lambda: hub.copies.writable)
        return store

    def _count(self) -> None:
        self.errors += 1

    async def stop(self) -> None:
        for store, hub in zip(self.stores, self.hubs, strict=True):
            await hub.aclose()
            await store.aclose()


async def copied(store: RedisStore, stream: KeptStream) -> None:
    """Wait until Redis has all of a stream."""
    copy = store._hub.copies.live.get(storage_key(stream.name))
    await until(lambda: copy is None or copy.sent == copy.log.end)


async def flushed(store: RedisStore, stream: KeptStream) -> None:
    """Have everything copied that can be: whole events."""
    copies = store._hub.copies
    copy = copies.live[storage_key(stream.name)]
    copies.flush()
    await until(lambda: not copy.under_way and not copy.reported)
