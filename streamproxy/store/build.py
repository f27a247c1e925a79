"""What all routes keep in stores, count in Redis and read from there: made once, and kept over reloads.

A connection stays as long as the configuration in force has a use for it. What a reload leaves without a use is closed
by `close_unused`, which is called when nothing runs any more that began under an earlier configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from streamproxy.config.model import Config, RedisSource, Resume
from streamproxy.errors import StreamproxyError
from streamproxy.store.base import StopElsewhere, StopResult, StoreSettings, StreamStore
from streamproxy.store.limits import Bucket, Limiter, RequestLimiter, TokenLimiter
from streamproxy.store.memory import MemoryStore

if TYPE_CHECKING:
    from streamproxy.store.redis import RedisHub
    from streamproxy.store.redis_events import RedisEvents
    from streamproxy.store.redis_link import Link

K = TypeVar("K")
V = TypeVar("V")
SourceKey = tuple[str, str, str]  # URL, kind, and type of the events
MEMORY = "memory"


@contextmanager
def _using_redis(what: str) -> Iterator[None]:
    """Say of which key it is that Redis can't be used, and why: the library is an extra, or the URL is wrong."""
    try:
        yield
    except ImportError:
        raise StreamproxyError(f"{what} in Redis: install the extra, pip install 'streamproxy[redis]'") from None
    except TypeError:  # whose text, like that of the next, may have a part of the password
        raise StreamproxyError(f"{what} in Redis: the URL has an option that redis-py does not know") from None
    except ValueError:
        raise StreamproxyError(f"{what} in Redis: the URL can't be used") from None


class _Connections(Generic[K, V]):
    """What was made for each key, and whether it was started."""

    def __init__(self) -> None:
        self.made: dict[K, V] = {}
        self._started: set[K] = set()

    def started_now(self) -> list[V]:
        """Those that were not started yet; they count as started from now on."""
        new = [one for key, one in self.made.items() if key not in self._started]
        self._started.update(self.made)
        return new

    def started(self) -> list[V]:
        return [one for key, one in self.made.items() if key in self._started]

    def take_unused(self, used: Set[K]) -> list[V]:
        """Forget those that are not for one of these keys; returns them."""
        unused = [key for key in self.made if key not in used]
        self._started.difference_update(unused)
        return [self.made.pop(key) for key in unused]


class Stores:
    """Where streams are kept. ``on_error`` is called once for each failure of Redis.

    ``elsewhere`` stops a stream that another process keeps in memory; None if there is no such process.
    """

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self.elsewhere: StopElsewhere | None = None
        self._stores: dict[tuple[str, str], StreamStore] = {}
        self._hubs: _Connections[str, RedisHub] = _Connections()

    def streams(self, route: str, resume: Resume) -> StreamStore:
        """The store of a route. Raises StreamproxyError if it can't be used."""
        settings = StoreSettings(resume.window, resume.max_bytes, resume.max_total, resume.grace)
        store = self._stores.get((route, resume.store))
        if store is None:
            store = self._stores[route, resume.store] = self._make(resume.store, settings)
        else:
            store.configure(settings)
        return store

    def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        """End a stream that is kept in memory, for the owner with this `owner_digest`."""
        results = [store.stop_owned(stream, owner) for store in self._stores.values() if isinstance(store, MemoryStore)]
        return next((result for result in results if result != "unknown"), "unknown")

    async def _stop_elsewhere(self, stream: str, owner: bytes) -> StopResult:
        return "unknown" if self.elsewhere is None else await self.elsewhere(stream, owner)

    async def start(self) -> None:
        """Connect to what is not connected yet. Returns after the first attempts, whatever comes of them."""
        await asyncio.gather(*(hub.start() for hub in self._hubs.started_now()))

    async def close_unused(self, config: Config) -> None:
        """Close what a configuration has no use for."""
        used = {(route.name, route.resume.store) for route in config.routes if route.resume is not None}
        unused = [self._stores.pop(key) for key in tuple(self._stores) if key not in used]
        hubs = self._hubs.take_unused({where for _, where in used})
        await _close(hubs)
        await _close(unused)

    async def aclose(self) -> None:
        """Forget what is in memory, and bring to Redis what it has not yet."""
        await _close(self._hubs.made.values())
        await _close(self._stores.values())

    def _make(self, where: str, settings: StoreSettings) -> StreamStore:
        if where == MEMORY:
            return MemoryStore(settings, self._stop_elsewhere)
        with _using_redis("resume"):
            from streamproxy.store.redis import RedisHub, RedisStore  # the library is an extra

            hub = self._hubs.made.get(where)
            if hub is None:
                hub = self._hubs.made[where] = RedisHub(where, self._on_error)
            return RedisStore(hub, settings)


class Sources:
    """The events of each Redis that an upstream names."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._sources: _Connections[SourceKey, RedisEvents] = _Connections()

    def of(self, redis: RedisSource) -> RedisEvents:
        """The events that an upstream names. Raises StreamproxyError if it can't be used."""
        key = _source_key(redis)
        source = self._sources.made.get(key)
        if source is None:
            source = self._sources.made[key] = self._make(redis)
        return source

    def _make(self, redis: RedisSource) -> RedisEvents:
        with _using_redis("events"):
            from streamproxy.store.redis_entries import StreamEvents  # the library is an extra
            from streamproxy.store.redis_events import PubSubEvents

            if redis.kind == "stream":
                return StreamEvents(redis.url, self._on_error)
            return PubSubEvents(redis.url, self._on_error, (redis.event or "").encode())

    def start(self) -> None:
        """Connect to what is not connected yet, and do not wait for it."""
        for source in self._sources.started_now():
            source.start()

    async def close_unused(self, config: Config) -> None:
        """Close what a configuration has no use for."""
        used = {_source_key(upstream.redis) for upstream in config.upstreams.values() if upstream.redis is not None}
        await _close(self._sources.take_unused(used))

    async def aclose(self) -> None:
        """Cut all clients and close the connections."""
        await _close(self._sources.started())


class Limiters:
    """Makes what counts the use of clients, with one connection to each Redis."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._links: _Connections[str, Link] = _Connections()

    def make(self, where: str, name: str, kind: Literal["requests", "tokens"], bucket: Bucket) -> Limiter:
        """A limiter that counts in ``where``, memory or the URL of a Redis, with all others that have its name there.

        Raises StreamproxyError if the Redis can't be used.
        """
        if where == MEMORY:
            return RequestLimiter(bucket) if kind == "requests" else TokenLimiter(bucket)
        with _using_redis("limits"):
            from streamproxy.store.redis_cluster import open_link  # the library is an extra
            from streamproxy.store.redis_limits import SharedRequests, SharedTokens

            link = self._links.made.get(where)
            if link is None:
                link = self._links.made[where] = open_link(where, self._on_error)
            return (SharedRequests if kind == "requests" else SharedTokens)(link, name, bucket, monotonic)

    async def start(self) -> None:
        """Connect to what is not connected yet. Returns after the first attempts, whatever comes of them."""
        await asyncio.gather(*(link.start() for link in self._links.started_now()))

    async def close_unused(self, config: Config) -> None:
        """Close what a configuration has no use for."""
        await _close(self._links.take_unused({route.limits.store for route in config.routes}))

    async def aclose(self) -> None:
        """Send what waits, and close the connections."""
        await _close(self._links.started())


def _source_key(redis: RedisSource) -> SourceKey:
    return redis.url, redis.kind, redis.event or ""


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def _close(all_of_them: Iterable[_Closable]) -> None:
    await asyncio.gather(*(one.aclose() for one in all_of_them))
