"""Connections to Redis, opened from a URL one at a time.

A URL names one server, a service of Sentinels or a cluster. Sentinels are asked for the primary each time a connection
is opened; in a cluster, any node that can be reached will do. All options of redis-py's ``from_url`` apply, except
those that determine how replies are decoded and how long to wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from streamproxy.config.redis import RedisPlace, parse_place

TIMEOUT: Final = 2.0  # seconds to open a connection, and to wait for the replies to a batch
RETRY: Final = 0.5  # seconds after which a refused read is tried again
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_SENTINEL_TIMEOUT: Final = 0.5  # seconds for a Sentinel to reply; less if there are many
_SENTINEL: Final = "sentinel_"
_CREDENTIALS: Final = ("sentinel_username", "sentinel_password")
_AGAIN: Final = 0.1  # seconds after which a task that has not ended is cancelled again


class Connector:
    """Opens connections to the Redis of a URL. The connections retry nothing by themselves.

    Raises ValueError or TypeError for a URL with an option that redis-py does not have.
    """

    def __init__(self, url: str) -> None:
        place = parse_place(url)
        self._service = place.service
        self._sentinel: Sentinel | None = None
        self._turn = 0  # the pool that opens the next connection
        # The pools only make connections and keep none: whoever opens a connection closes it.
        self._pools: list[ConnectionPool] = []
        if place.kind == "sentinel":
            self._pools.append(self._ask_sentinels(place))
        elif place.kind == "cluster":
            self._pools += [ConnectionPool(**_options(place.server_url(*host))) for host in place.hosts]
        else:
            self._pools.append(ConnectionPool(**_options(place.url)))
        self._pools[0].make_connection()  # type: ignore[no-untyped-call]  # raises TypeError for an unknown option

    def _ask_sentinels(self, place: RedisPlace) -> SentinelConnectionPool:
        query = parse_qsl(place.query, keep_blank_values=True)
        ours = urlencode([pair for pair in query if not pair[0].startswith(_SENTINEL)])
        options = _options(place._replace(query=ours).server_url("server", 1))
        del options["host"], options["port"]
        secure = {"ssl": options.pop("connection_class", None) is not None}
        # A Sentinel that does not reply must leave time for the others.
        patience = min(_SENTINEL_TIMEOUT, TIMEOUT / (len(place.hosts) + 1))
        theirs: dict[str, Any] = {name: value for name, value in options.items() if name.startswith("ssl_")}
        theirs |= {name.removeprefix(_SENTINEL): value for name, value in query if name.startswith(_SENTINEL)}
        if any(name.startswith(_SENTINEL) and name not in _CREDENTIALS for name, _ in query):
            raise TypeError("an option of Sentinels that is not known")
        theirs |= {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": _never()} | secure
        self._sentinel = Sentinel(place.hosts, sentinel_kwargs=theirs)  # type: ignore[no-untyped-call]
        return SentinelConnectionPool(place.service, self._sentinel, **options, **secure)  # type: ignore[no-untyped-call]

    async def open(self) -> AbstractConnection:
        """Returns a new connection, which the caller must `drop`. It has no time-out. Raises RedisError or OSError."""
        connection: AbstractConnection = self._pools[self._turn].make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except MasterNotFoundError:
            await drop(connection)
            why = await self._ask_why()
            raise ConnectionError(f"no Sentinel that can be reached knows a primary of {self._service}{why}") from None
        except BaseException:
            self._turn = (self._turn + 1) % len(self._pools)
            await drop(connection)
            raise
        return connection

    async def aclose(self) -> None:
        """Closes the connections to Sentinels."""
        for one in self._sentinels():
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await one.aclose()

    def _sentinels(self) -> list[Redis]:
        return [] if self._sentinel is None else self._sentinel.sentinels

    async def _ask_why(self) -> str:
        """Returns what is wrong with a Sentinel. redis-py's own message may contain all options of the URL."""
        for one in self._sentinels():
            try:
                await one.execute_command("PING")  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                return f": {error}"
        return ""


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _options(url: str) -> dict[str, Any]:
    """Returns redis-py's options for the URL of one server, with those that we need fixed."""
    fixed = {"protocol": 2, "decode_responses": False, "socket_timeout": None, "retry": _never()}
    return {"socket_connect_timeout": TIMEOUT} | dict(parse_url(url)) | fixed


async def drop(connection: AbstractConnection) -> None:
    """Closes a connection at once, whatever state it is in."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await connection.disconnect(nowait=True)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancels a task that uses redis-py, and waits for its end.

    redis-py sends under `asyncio.wait_for`, which in Python 3.11 loses a cancellation that arrives at the very moment
    the sending is done (python/cpython#86296). So the task is cancelled until it has ended.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN)
    if not task.cancelled():
        task.exception()


def backoff(failures: int) -> float:
    """Returns how many seconds to wait after this many failed attempts to connect, one or more."""
    return _BACKOFF[min(failures, len(_BACKOFF)) - 1]


def shown(url: str) -> str:
    """Returns the URL without its credentials and options, for the log."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
