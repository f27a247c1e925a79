"""Reports changes of keys that were read over a link.

Theory of operation. Each server of the link remembers which keys were read there (CLIENT TRACKING). When such a key
changes, its name is sent over a second connection to the same server, once until it is read again. For Redis, reading a
key and remembering it is one step, so a reader that reads again after each report misses no change.

When both connections to a server are open, or keys may have moved to other servers, ``begun`` is called: whatever was
read before may have changed. If Redis refuses to track (the user lacks the right), ``changed`` is called for all keys
twice a second instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from streamproxy.store.redis_link import Link, RedisLink
from streamproxy.store.redis_protocol import encode
from streamproxy.store.redis_subscription import Subscription

logger = logging.getLogger("streamproxy")

_POLL: Final = 0.5  # seconds between two reports if Redis does not track
_CHANGES: Final = "__redis__:invalidate"

# Takes the name of a key that has changed, or None if any key may have.
Changed = Callable[[bytes | None], None]


class Changes:
    """The changes on all servers of a link. ``begun`` and ``changed`` are called from the loop and must not wait."""

    def __init__(self, link: Link, on_error: Callable[[], None], begun: Callable[[], None], changed: Changed) -> None:
        self._link = link
        self._on_error = on_error
        self._begun = begun
        self._changed = changed
        self._trackers: dict[RedisLink, _Tracker] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._started = False
        self._ever = False
        self._follow()
        link.on_servers.append(self._follow)

    @property
    def connected(self) -> bool:
        """Whether every server reports changes."""
        return bool(self._trackers) and all(tracker.connected for tracker in self._trackers.values())

    @property
    def ever(self) -> bool:
        """Whether a server has reported changes at least once."""
        self._ever = self._ever or any(tracker.ever for tracker in self._trackers.values())
        return self._ever

    def start(self) -> None:
        """Starts to listen."""
        self._started = True
        for tracker in self._trackers.values():
            tracker.start()

    async def aclose(self) -> None:
        """Closes the listening connections. The link's own stays open."""
        if self._follow in self._link.on_servers:
            self._link.on_servers.remove(self._follow)
        await asyncio.gather(*(tracker.aclose() for tracker in self._trackers.values()))
        await asyncio.gather(*self._closing)

    def _follow(self) -> None:
        """Follows a change of the link's servers."""
        servers = self._link.servers
        for server in servers:
            if server not in self._trackers:
                tracker = self._trackers[server] = _Tracker(server, self._on_error, self._begun, self._changed)
                if self._started:
                    tracker.start()
        for gone in self._trackers.keys() - set(servers):
            task = asyncio.create_task(self._trackers.pop(gone).aclose(), name="redis tracking")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self._started:
            self._begun()


class _Tracker:
    """The changes on one server."""

    def __init__(
        self, link: RedisLink, on_error: Callable[[], None], begun: Callable[[], None], changed: Changed
    ) -> None:
        self._link = link
        self._begun = begun
        self._changed = changed
        self._listener = 0  # the id of the listening connection in Redis; 0 while there is none
        self._poll: asyncio.TimerHandle | None = None
        self._subscription = Subscription(link.url, on_error, self._begin, self._hear, self._lost)

    @property
    def connected(self) -> bool:
        return self._subscription.connected

    @property
    def ever(self) -> bool:
        return self._subscription.ever

    def start(self) -> None:
        self._link.on_up.append(self._track)
        self._subscription.start()

    async def aclose(self) -> None:
        if self._track in self._link.on_up:
            self._link.on_up.remove(self._track)
        self._stop_polling()
        await self._subscription.aclose()

    async def _begin(self, connection: AbstractConnection) -> None:
        commands = encode(("CLIENT", "ID")) + encode(("SUBSCRIBE", _CHANGES))
        await connection.send_packed_command([commands], check_health=False)
        self._listener = await connection.read_response()
        await connection.read_response()
        self._track()

    def _hear(self, reply: Any) -> int:
        if reply[0] != b"message":
            return 1
        if reply[2] is None:  # the whole database was emptied
            self._changed(None)
            return 1
        for name in reply[2]:
            self._changed(name)
        return len(reply[2])

    def _lost(self) -> None:
        self._listener = 0

    def _track(self) -> None:
        """Turns tracking on if both connections are open, after one of them was opened."""
        if self._link.up and self._listener:
            self._link.send("CLIENT", "TRACKING", "OFF")
            self._link.send("CLIENT", "TRACKING", "ON", "REDIRECT", self._listener, done=self._tracks)
            self._begun()

    def _tracks(self, reply: Any) -> None:
        self._stop_polling()
        if isinstance(reply, RedisError):
            logger.warning("Redis refuses to tell of new entries, so that it is asked for them: %s", reply)
            self._look()

    def _look(self) -> None:
        self._changed(None)
        self._poll = asyncio.get_running_loop().call_later(_POLL, self._look)

    def _stop_polling(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
