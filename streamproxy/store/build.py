"""The stores of all routes, kept over reloads: a cursor is good in the next configuration too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Literal

from streamproxy.config.model import RedisSource, Resume
from streamproxy.errors import StreamproxyError
from streamproxy.store.base import StoreSettings, StreamStore
from streamproxy.store.limits import Bucket, Limiter, RequestLimiter, TokenLimiter
from streamproxy.store.memory import MemoryStore

if TYPE_CHECKING:
    from streamproxy.store.redis import RedisHub
    from streamproxy.store.redis_events import RedisEvents
    from streamproxy.store.redis_link import RedisLink


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
            except (ValueError, TypeError):  # whose text may have a part of the password
                raise StreamproxyError("the URL of the store can't be used") from None
        return RedisStore(hub, settings)


class Sources:
    """The events of each Redis that an upstream names, one connection a process; kept over reloads."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._sources: dict[tuple[str, str, str], RedisEvents] = {}
        self._started: set[RedisEvents] = set()

    def of(self, redis: RedisSource) -> RedisEvents:
        """The events that an upstream names. Raises StreamproxyError if it can't be used."""
        try:
            from streamproxy.store.redis_entries import StreamEvents  # the library is an extra
            from streamproxy.store.redis_events import PubSubEvents
        except ImportError:
            raise StreamproxyError("events from Redis need the extra: pip install 'streamproxy[redis]'") from None
        key = redis.url, redis.kind, redis.event or ""
        source = self._sources.get(key)
        if source is None:
            try:
                if redis.kind == "stream":
                    source = StreamEvents(redis.url, self._on_error)
                else:
                    source = PubSubEvents(redis.url, self._on_error, (redis.event or "").encode())
            except (ValueError, TypeError):  # whose text may have a part of the password
                raise StreamproxyError("the URL of the Redis can't be used") from None
            self._sources[key] = source
        return source

    def start(self) -> None:
        """Connect to what is not connected yet, and do not wait for it."""
        for source in self._sources.values():
            if source not in self._started:
                self._started.add(source)
                source.start()

    async def aclose(self) -> None:
        """Cut all clients and close the connections."""
        await asyncio.gather(*(source.aclose() for source in self._sources.values() if source in self._started))


class Limiters:
    """Makes what counts the use of clients; one connection to each Redis, kept over reloads."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._links: dict[str, RedisLink] = {}
        self._started: set[str] = set()

    def make(self, where: str, name: str, kind: Literal["requests", "tokens"], bucket: Bucket) -> Limiter:
        """A limiter that counts in ``where``, memory or the URL of a Redis, with all others that have its name there.

        Raises StreamproxyError if the Redis can't be used.
        """
        if where == "memory":
            return RequestLimiter(bucket) if kind == "requests" else TokenLimiter(bucket)
        try:
            from streamproxy.store.redis_limits import SharedRequests, SharedTokens  # the library is an extra
            from streamproxy.store.redis_link import RedisLink
        except ImportError:
            raise StreamproxyError("limits in Redis need the extra: pip install 'streamproxy[redis]'") from None
        link = self._links.get(where)
        if link is None:
            try:
                link = self._links[where] = RedisLink(where, self._on_error)
            except (ValueError, TypeError):  # whose text may have a part of the password
                raise StreamproxyError("the URL of the store can't be used") from None
        return (SharedRequests if kind == "requests" else SharedTokens)(link, name, bucket, monotonic)

    async def start(self) -> None:
        """Connect to what is not connected yet. Returns after the first attempts, whatever comes of them."""
        new = [url for url in self._links if url not in self._started]
        self._started.update(new)
        await asyncio.gather(*(self._links[url].start() for url in new))

    async def aclose(self) -> None:
        """Send what waits, and close the connections."""
        await asyncio.gather(*(self._links[url].aclose() for url in self._started))
