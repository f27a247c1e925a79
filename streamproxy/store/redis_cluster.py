"""The link to a Redis cluster: one link to each of its primaries, and a map from slots to primaries.

Theory of operation. A command is sent over the link to the server that has its key's slot. Any node that can be reached
knows the map (CLUSTER SLOTS). The nodes of the URL are asked for it at the start; later, any known node is asked
whenever a server fails or reports that a key has moved. While a server is away, the map is requested a few times a
second, so that a replica which became the primary is found. A command whose key has moved follows it, either at once or
when the new map has arrived.

The link is *up* while every slot has a server that is up. While one server is away, commands to the others are still
sent.

No command may use more than one key. All of ours have one; besides, the keys of one stream share a slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError

from streamproxy.config.redis import parse_place
from streamproxy.store.redis_connect import TIMEOUT, Connector, drop, end_task, shown
from streamproxy.store.redis_link import WAITING, Done, Link, RedisLink, StoreDown
from streamproxy.store.redis_protocol import Word, encode

logger = logging.getLogger("streamproxy")

_HOPS: Final = 5  # times that a command may follow its key
_PAUSE: Final = 0.1  # minimum seconds between two requests for the map
_FRESH: Final = 10.0  # seconds after which the map is requested again even if nothing contradicts it
_AWAY: Final = 0.25  # seconds between two requests while a server is away
_UNKNOWN: Final = 1.0  # the same while no node can be reached
_SCRIPTS: Final = frozenset(("EVAL", "EVALSHA"))

Address = tuple[str, int]


class _Range(NamedTuple):
    """A range of slots, and the servers that have it."""

    first: int
    last: int
    primary: Address
    replicas: tuple[Address, ...]


def open_link(url: str, on_error: Callable[[], None]) -> Link:
    """Returns the link for a URL: to a cluster, or to one server. Raises as `Connector`."""
    return (ClusterLink if parse_place(url).kind == "cluster" else RedisLink)(url, on_error)


class ClusterLink(Link):
    """The link to a cluster. Raises as `Connector`."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        super().__init__(on_error)
        Connector(url)  # raises if the URL is wrong
        self._place = parse_place(url)
        self._where = shown(url)
        self._links: dict[Address, RedisLink] = {}
        self._owners: list[RedisLink | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._serving: tuple[RedisLink | None, ...] = (None,)  # each owner once
        self._known: tuple[Address, ...] = self._place.hosts  # nodes that can be asked for the map
        self._asked: set[Address] = set()  # nodes to which keys are being moved, and which have no slot yet
        self._homeless: list[tuple[tuple[Word, ...], Done | None, int]] = []  # commands that wait for a new map
        self._stale = asyncio.Event()
        self._moved = False  # the map was changed since it was last requested
        self._found = False  # whether the last request for the map succeeded
        self._failed = False  # whether a failure was logged that is not over
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def up_since(self) -> float:
        return max((link.up_since for link in self._links.values()), default=0.0)

    @property
    def servers(self) -> tuple[RedisLink, ...]:
        return tuple(self._links.values())

    def server_of(self, key: bytes) -> RedisLink | None:
        return self._owners[key_slot(key)]

    async def start(self) -> None:
        await self._look()
        self._task = asyncio.create_task(self._run(), name="redis cluster")

    def send(self, *command: Word, done: Done | None = None) -> None:
        self._route(command, done, _HOPS)

    def doubt(self) -> None:
        self._stale.set()

    async def aclose(self) -> None:
        if self._task is not None:
            await end_task(self._task)
            self._task = None
        await asyncio.gather(*(link.aclose() for link in self._links.values()))
        await asyncio.gather(*self._closing)
        self.up = False
        self._fail_homeless()

    # Commands.

    def _route(self, command: tuple[Word, ...], done: Done | None, hops: int) -> None:
        key = command[3 if command[0] in _SCRIPTS else 1]
        link = self.server_of(key if isinstance(key, bytes) else str(key).encode())
        if link is None:
            if done is not None:
                done(StoreDown())
            return
        link.send(*command, done=partial(self._replied, link, command, done, hops))

    def _replied(self, link: RedisLink, command: tuple[Word, ...], done: Done | None, hops: int, reply: Any) -> None:
        if isinstance(reply, AskError) and hops:
            self._follow(link, command, done, hops - 1, reply)
        elif done is not None:
            done(reply)

    def _follow(self, link: RedisLink, command: tuple[Word, ...], done: Done | None, hops: int, to: AskError) -> None:
        """Sends a command to the node that its key has moved to (MOVED), or may have moved to already (ASK)."""
        own = next((host for (host, _), one in self._links.items() if one is link), "")
        address = (_host(to.host, own), to.port)
        target = self._links.get(address)
        moved = isinstance(to, MovedError)
        if moved or target is None:
            self._stale.set()
        if target is None:
            if not moved:
                self._asked.add(address)
            if len(self._homeless) < WAITING:
                self._homeless.append((command, done, hops))
            elif done is not None:
                done(StoreDown())
            return
        if moved:
            self._moved = self._moved or self._owners[to.slot_id] is not target
            self._owners[to.slot_id] = target
        else:
            target.send("ASKING")
        target.send(*command, done=partial(self._replied, target, command, done, hops))

    def _fail_homeless(self) -> None:
        homeless, self._homeless = self._homeless, []
        for _, done, _ in homeless:
            if done is not None:
                done(StoreDown())

    # The map.

    async def _run(self) -> None:
        while True:
            if self._found and self.up:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FRESH):
                        await self._stale.wait()
                await asyncio.sleep(_PAUSE)
            else:
                await asyncio.sleep(_AWAY if self._found else _UNKNOWN)
            await self._look()

    async def _look(self) -> None:
        """Requests the map, opens links to the servers that it names, and closes the others."""
        self._stale.clear()
        ranges = await self._ask_for_slots()
        self._found = ranges is not None
        if ranges is None:
            self._fail_homeless()
            return
        primaries = {part.primary for part in ranges}
        self._asked = {one for one in self._asked - primaries if one not in self._links or self._links[one].up}
        wanted = primaries | self._asked
        new = {address: self._connect(address) for address in wanted if address not in self._links}
        self._links.update(new)
        await asyncio.gather(*(link.start() for link in new.values()))
        for link in new.values():
            link.on_up.append(self._came_up)
            link.on_down.append(self._went_down)
        gone = [self._links.pop(address) for address in tuple(self._links) if address not in wanted]
        before = self._owners
        self._take(ranges)
        for link in gone:
            self._close(link)
        if self._moved or self._owners != before:
            self._moved = False
            for call in tuple(self.on_servers):
                call()
        if any(link.up for link in new.values()):
            self._came_up()
        homeless, self._homeless = self._homeless, []
        for command, done, hops in homeless:
            self._route(command, done, hops)

    def _take(self, ranges: list[_Range]) -> None:
        self._owners = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, primary, _ in ranges:
            self._owners[first : last + 1] = [self._links[primary]] * (last + 1 - first)
        nodes = chain.from_iterable((part.primary, *part.replicas) for part in ranges)
        self._known = tuple(dict.fromkeys((*nodes, *self._place.hosts)))
        self._serving = tuple(dict.fromkeys(self._owners))
        self._count_up()

    def _connect(self, address: Address) -> RedisLink:
        link = RedisLink(self._place.server_url(*address), self.on_error)
        link.blames = self.blames
        return link

    def _close(self, link: RedisLink) -> None:
        link.on_up.remove(self._came_up)
        link.on_down.remove(self._went_down)
        task = asyncio.create_task(link.aclose(), name="redis link that is left")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _count_up(self) -> None:
        self.up = all(link is not None and link.up for link in self._serving)
        if self.up and self._failed:
            self._failed = False
            logger.info("Redis at %s is back", self._where)

    def _came_up(self) -> None:
        self._count_up()
        for call in tuple(self.on_up):
            call()

    def _went_down(self) -> None:
        self._count_up()
        self._failed = self._failed or not self.up
        self._stale.set()

    async def _ask_for_slots(self) -> list[_Range] | None:
        """Returns the map of the first node that answers, or None if no node does."""
        error: Exception | None = None
        for address in self._to_ask():
            try:
                async with asyncio.timeout(TIMEOUT / 2):
                    return list(_read_slots(await self._ask_node(address), address[0]))
            except (StoreDown, RedisError, OSError, TimeoutError, ValueError) as failed:
                error = failed
        if not self._links:  # otherwise each of them has reported it
            self.on_error()
            if not self._failed:
                logger.warning("Redis at %s is away: %s", self._where, error or type(error).__name__)
                self._failed = True
        return None

    def _to_ask(self) -> Iterator[Address]:
        """Parses a node's reply to CLUSTER SLOTS; ``asked`` is its host. Raises ValueError if it names no slot."""
        up = [address for address, link in self._links.items() if link.up]
        self._known = (*self._known[1:], *self._known[:1])
        return iter(dict.fromkeys([one for one in self._known if one in up] + list(self._known)))

    async def _ask_node(self, address: Address) -> Any:
        link = self._links.get(address)
        if link is not None and link.up:
            return await link.ask("CLUSTER", "SLOTS")
        connection = await Connector(self._place.server_url(*address)).open()
        try:
            await connection.send_packed_command([encode(("CLUSTER", "SLOTS"))], check_health=False)
            return await connection.read_response()
        finally:
            await drop(connection)


def _read_slots(reply: list[Any], asked: str) -> Iterator[_Range]:
    """Parses the reply to CLUSTER SLOTS of a node at the host ``asked``. Raises ValueError if it names no slot."""
    if not reply:
        raise ValueError("the node is in no cluster, or has no slots")
    for first, last, primary, *replicas in reply:
        yield _Range(first, last, _address(primary, asked), tuple(_address(one, asked) for one in replicas))


def _address(node: list[Any], asked: str) -> Address:
    return _host((node[0] or b"").decode(), asked), node[1]


def _host(named: str, asked: str) -> str:
    """Returns the host of a node. If Redis left it out or does not know it, it is that of the node which was asked."""
    return asked if named in ("", "?") else named
