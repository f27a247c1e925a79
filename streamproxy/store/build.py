"""Creates the stores, limiters and event sources of all routes, and keeps them across reloads.

Each class shares its connections among all routes that name the same URL. They stay open as long as the configuration
in force uses them. What a reload leaves unused is closed by `close_unused`, which is called when every exchange that
began under an earlier configuration has ended.
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
    """Turns errors about Redis into one that names the configuration key: the extra is missing, or the URL is wrong."""
    try:
        yield
    except ImportError:
        raise StreamproxyError(f"{what} in Redis: install the extra, pip install 'streamproxy[redis]'") from None
    except TypeError:  # its text, like that of the next one, may contain part of the password
        raise StreamproxyError(f"{what} in Redis: the URL has an option that redis-py does not know") from None
    except ValueError:
        raise StreamproxyError(f"{what} in Redis: the URL can't be used") from None


class _Connections(Generic[K, V]):
    """The objects made for each key, and which of them were started."""

    def __init__(self) -> None:
        self.made: dict[K, V] = {}
        self._started: set[K] = set()

    def started_now(self) -> list[V]:
        """Returns the objects that were not started yet, and marks them as started."""
        new = [one for key, one in self.made.items() if key not in self._started]
        self._started.update(self.made)
        return new

    def started(self) -> list[V]:
        return [one for key, one in self.made.items() if key in self._started]

    def take_unused(self, used: Set[K]) -> list[V]:
        """Forgets and returns the objects whose key is not in ``used``."""
        unused = [key for key in self.made if key not in used]
        self._started.difference_update(unused)
        return [self.made.pop(key) for key in unused]


class Stores:
    """The stores of all routes with ``resume``. ``on_error`` is called once for each failure of Redis.

    ``elsewhere`` stops a stream that another process keeps in memory. It is None if there is no such process.
    """

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self.elsewhere: StopElsewhere | None = None
        self._stores: dict[tuple[str, str], StreamStore] = {}
        self._hubs: _Connections[str, RedisHub] = _Connections()

    def streams(self, route: str, resume: Resume) -> StreamStore:
        """Returns the store of a route. Raises StreamproxyError if it can't be used."""
        settings = StoreSettings(resume.window, resume.max_bytes, resume.max_total, resume.grace)
        store = self._stores.get((route, resume.store))
        if store is None:
            store = self._stores[route, resume.store] = self._make(resume.store, settings)
        else:
            store.configure(settings)
        return store

    def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        """Stops a stream that is kept in memory, if ``owner`` is its `owner_digest`."""
        results = [store.stop_owned(stream, owner) for store in self._stores.values() if isinstance(store, MemoryStore)]
        return next((result for result in results if result != "unknown"), "unknown")

    async def _stop_elsewhere(self, stream: str, owner: bytes) -> StopResult:
        return "unknown" if self.elsewhere is None else await self.elsewhere(stream, owner)

    async def start(self) -> None:
        """Connects what is not connected yet. Returns after the first attempts, even if they failed."""
        await asyncio.gather(*(hub.start() for hub in self._hubs.started_now()))

    async def close_unused(self, config: Config) -> None:
        """Closes what a configuration does not use."""
        used = {(route.name, route.resume.store) for route in config.routes if route.resume is not None}
        unused = [self._stores.pop(key) for key in tuple(self._stores) if key not in used]
        hubs = self._hubs.take_unused({where for _, where in used})
        await _close(hubs)
        await _close(unused)

    async def aclose(self) -> None:
        """Copies to Redis what it does not have yet, and forgets what is in memory."""
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
    """The event sources of all upstreams with ``redis``. ``on_error`` is called once for each failure of Redis."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._sources: _Connections[SourceKey, RedisEvents] = _Connections()

    def of(self, redis: RedisSource) -> RedisEvents:
        """Returns the event source of an upstream. Raises StreamproxyError if its URL can't be used."""
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
        """Starts to connect to what is not connected yet, without waiting."""
        for source in self._sources.started_now():
            source.start()

    async def close_unused(self, config: Config) -> None:
        """Closes what a configuration does not use."""
        used = {_source_key(upstream.redis) for upstream in config.upstreams.values() if upstream.redis is not None}
        await _close(self._sources.take_unused(used))

    async def aclose(self) -> None:
        """Cuts all clients and closes the connections."""
        await _close(self._sources.started())


class Limiters:
    """Makes the limiters of all routes, with one connection to each Redis."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        self._on_error = on_error
        self._links: _Connections[str, Link] = _Connections()

    def make(self, where: str, name: str, kind: Literal["requests", "tokens"], bucket: Bucket) -> Limiter:
        """Returns a limiter that counts in ``where``: ``memory``, or the URL of a Redis.

        In Redis it shares its counts with every limiter of the same name. Raises StreamproxyError if the URL can't be
        used.
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
        """Connects what is not connected yet. Returns after the first attempts, even if they failed."""
        await asyncio.gather(*(link.start() for link in self._links.started_now()))

    async def close_unused(self, config: Config) -> None:
        """Closes what a configuration does not use."""
        await _close(self._links.take_unused({route.limits.store for route in config.routes}))

    async def aclose(self) -> None:
        """Sends what is waiting, and closes the connections."""
        await _close(self._links.started())


def _source_key(redis: RedisSource) -> SourceKey:
    return redis.url, redis.kind, redis.event or ""


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def _close(all_of_them: Iterable[_Closable]) -> None:
    await asyncio.gather(*(one.aclose() for one in all_of_them))
