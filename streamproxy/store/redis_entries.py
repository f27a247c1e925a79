"""The entries that other programs add to Redis Streams, for all clients of this process.

Theory of operation. Each client has the id of the last entry that it was handed, and is handed all entries after it.
Entries are read with XRANGE, over the link for commands. Redis reports when a stream that was read there changes (see
`streamproxy.store.redis_tracking`); the stream is then read again from where its clients are. So the cost of a new
entry does not depend on the number of channels, and no entry is missed.

A client that arrives with the id of an older entry is *behind*. Older entries are read for it alone, as fast as it
takes them, and it joins the others when none are left.

When Redis is lost, clients stay. Once both connections are back, all streams are read from where their clients are. A
client that would miss entries because they were trimmed meanwhile is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from redis.exceptions import RedisError

from streamproxy.errors import DestinationUnavailable, StreamGone
from streamproxy.store.events import EntryId, parse_entry_id, render_entry
from streamproxy.store.redis_cluster import open_link
from streamproxy.store.redis_connect import RETRY, end_task
from streamproxy.store.redis_events import EventBody, Group, RedisEvents, concerns_name, not_reached_yet, unknown_name
from streamproxy.store.redis_link import StoreDown
from streamproxy.store.redis_tracking import Changes
from streamproxy.wire.chunked import chunk_parts

_COUNT: Final = 100  # entries of a stream that are read at once
_NEWEST: EntryId = (2**64, 0)
_OLDEST: EntryId = (0, 0)


class StreamEvents(RedisEvents):
    """Channels that are sent to with XADD. ``on_error`` is called once for each failure of Redis, for a counter."""

    def __init__(self, url: str, on_error: Callable[[], None]) -> None:
        super().__init__()
        self._link = open_link(url, on_error)
        self._link.blames = lambda refusal: not concerns_name(refusal)
        self._changes = Changes(self._link, on_error, self._look_again, self._look_at)
        self._starter: asyncio.Task[None] | None = None
        self._changed: dict[bytes, None] = {}  # channels to read in this turn of the loop

    @property
    def connected(self) -> bool:
        return self._changes.connected

    def start(self) -> None:
        self._starter = asyncio.create_task(self._link.start(), name="redis events link")
        self._changes.start()

    async def subscribe(self, channel: bytes, buffer: int, last_id: bytes = b"") -> EventBody:
        after = parse_entry_id(last_id) if last_id else _NEWEST
        if not self._changes.ever:
            raise not_reached_yet()
        try:
            first, newest = await self._ends(channel)
        except (StoreDown, RedisError) as error:
            if concerns_name(error):
                raise unknown_name(channel, error) from None
            raise DestinationUnavailable("The events can't be reached now", note=repr(error), retry_after=1.0) from None
        if last_id and after != _OLDEST and not first <= after <= newest:
            raise StreamGone
        body = EventBody(buffer, min(after, newest), lambda body: self._leave(channel, body))
        self._groups.setdefault(channel, Group()).bodies[body] = None
        if body.last < newest:
            body.behind = True
            self._read_on(channel, body)
        else:
            self._look_at(channel)
        return body

    async def aclose(self) -> None:
        if self._starter is not None:
            await end_task(self._starter)
        await self._changes.aclose()
        await self._link.aclose()
        await super().aclose()

    async def _ends(self, channel: bytes) -> tuple[EntryId, EntryId]:
        """Returns the ids of the first and the last entry. For an empty stream no id lies between them."""
        first, newest = await asyncio.gather(
            self._link.ask("XRANGE", channel, "-", "+", "COUNT", 1),
            self._link.ask("XREVRANGE", channel, "+", "-", "COUNT", 1),
        )
        if not first or not newest:
            return (1, 0), _OLDEST
        return parse_entry_id(first[0][0]), parse_entry_id(newest[0][0])

    def _leave(self, channel: bytes, body: EventBody) -> None:
        body.more = None
        group = self._groups.get(channel)
        if group is not None and group.bodies.pop(body, body) is None and not group.bodies:
            del self._groups[channel]  # Redis reports at most one more change of it

    def _look_again(self) -> None:
        """Reads all channels: changes are reported from now on, but earlier ones were not."""
        for channel in self._groups:
            self._link.send("XRANGE", channel, "-", "+", "COUNT", 1, done=partial(self._check_trimmed, channel))
            self._look_at(channel)

    def _check_trimmed(self, channel: bytes, reply: Any) -> None:
        group = self._groups.get(channel)
        if group is None or isinstance(reply, Exception):
            return
        first = parse_entry_id(reply[0][0]) if reply else _OLDEST
        for body in tuple(group.bodies):
            if first > body.last != _OLDEST:
                body.cut("entries were trimmed while Redis was away")

    # Entries.

    def _look_at(self, channel: bytes | None) -> None:
        """Reads a channel (None: all), together with all others that have changed in this turn of the loop."""
        if channel is None:
            for one in self._groups:
                self._look_at(one)
        elif channel in self._groups:
            if not self._changed:
                asyncio.get_running_loop().call_soon(self._read_changed)
            self._changed[channel] = None

    def _read_changed(self) -> None:
        changed, self._changed = self._changed, {}
        for channel in changed:
            group = self._groups.get(channel)
            if group is not None and (places := [body.last for body in group.bodies if not body.behind]):
                self._range(channel, min(places), partial(self._got, channel))

    def _range(self, channel: bytes, after: EntryId, done: Callable[[Any], None]) -> None:
        self._link.send("XRANGE", channel, b"(%d-%d" % after, "+", "COUNT", _COUNT, done=done)

    def _got(self, channel: bytes, reply: Any) -> None:
        """Hands the entries to all clients that are not behind. After a failure of the link all is read again."""
        group = self._groups.get(channel)
        if group is None:
            return
        if isinstance(reply, RedisError):
            if concerns_name(reply):
                group.refuse(reply)
            else:  # for example, another part of the cluster is away
                asyncio.get_running_loop().call_later(RETRY, self._look_at, channel)
        if isinstance(reply, Exception):
            return
        for name, fields in reply:
            id, chunk, framed = _render(name, fields)
            for body in tuple(group.bodies):
                if not body.behind and id > body.last:
                    body.last = id
                    if chunk:
                        body.put(chunk, framed)
        if len(reply) >= _COUNT:
            self._look_at(channel)

    def _read_on(self, channel: bytes, body: EventBody) -> None:
        self._range(channel, body.last, partial(self._got_older, channel, body))

    def _got_older(self, channel: bytes, body: EventBody, reply: Any) -> None:
        """Hands the next older entries to a client that is behind."""
        if isinstance(reply, Exception):
            body.cut("Redis was lost while older entries were read")
            return
        for name, fields in reply:
            body.last, chunk, framed = _render(name, fields)
            if chunk:
                body.put(chunk, framed)
        if not body.hungry:
            body.more = partial(self._read_on, channel, body)
        elif len(reply) >= _COUNT:
            self._read_on(channel, body)
        else:
            body.behind = False


def _render(name: bytes, fields: list[bytes]) -> tuple[EntryId, bytes, bytes]:
    """Returns an entry's id, its event (empty for none), and the event in chunked framing."""
    chunk = render_entry(name, fields)
    return parse_entry_id(name), chunk, b"".join(chunk_parts(chunk)) if chunk else b""
