"""A real Redis that takes no writes: what runs goes on, nobody is taken for dead, and no gap is hidden."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy.errors import DestinationUnavailable, ResponseIncomplete, StreamGone
from streamproxy.store import redis as redis_store
from streamproxy.store import redis_copy, redis_feed
from streamproxy.store.base import StreamHead
from streamproxy.store.cursor import new_stream, storage_key
from streamproxy.store.memory import MemoryStream
from streamproxy.store.redis_layout import beat_key
from tests.doubles.until import until
from tests.integration.redis import RedisServer
from tests.integration.stores import Sidecars, copied
from tests.unit.store.streams import OWNER, Stopped, at, begin, event, read_to_end, replay


async def several_beats(redis: RedisServer, process: str) -> None:
    """Wait until a heartbeat has been renewed more often than it takes for one to expire."""
    left, beats = 0, 0

    async def look() -> bool:
        nonlocal left, beats
        before, left = left, int(str(await redis.command("PTTL", beat_key(process))))
        assert left > 0
        beats += left > before
        return beats > 5

    await until(look, "heartbeats")


async def test_a_redis_without_memory_costs_new_streams_their_cursor_and_no_event(
    sidecars: Sidecars, redis: RedisServer
) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    live = stream.read(at(stream, 0))
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    await redis.command("CONFIG", "SET", "maxmemory", "1")
    stream.append(event(2))
    await until(lambda: not here._hub.copies.writable)
    assert here.create(stream.head, Stopped()) is None  # type: ignore[attr-defined]
    assert sidecars.errors > 0
    assert here._hub.link.up
    with pytest.raises(DestinationUnavailable):  # nobody is told that a stream was stopped which goes on
        await there.stop(at(stream, 0), OWNER)
    await several_beats(redis, here._hub.process)  # longer than one lasts: nobody takes this process for dead
    stream.append(event(3))
    await redis.command("CONFIG", "SET", "maxmemory", "0")
    await until(lambda: here._hub.copies.writable)
    stream.end(None)
    whole = event(1) + event(2) + event(3)
    assert found.body is not None
    assert await read_to_end(found.body) == whole
    assert await read_to_end(live) == whole


async def test_while_redis_takes_no_writes_nobody_is_taken_for_dead_or_for_gone(
    sidecars: Sidecars, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (redis_store, redis_copy, redis_feed):
        monkeypatch.setattr(module, "BEAT_TTL", 300)
    monkeypatch.setattr(redis_store, "_PULSE", 0.05)
    monkeypatch.setattr(redis_store, "_PRESENT", 1.5)
    here, there = await sidecars.start(grace=0.2), await sidecars.start()
    stopped = Stopped()
    stream = begin(here, stop=stopped)
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    await until(lambda: here._hub.copies.live[storage_key(stream.name)].remote_until > 0, "its reader to be known")
    stream.read(at(stream, 0)).close()
    await redis.command("ACL", "SETUSER", "default", "-set", "-xadd", "-pexpire")
    beat = beat_key(here._hub.process)
    await until(lambda: redis.command("EXISTS", beat), "its heartbeat to expire", holds=lambda count: not count)
    for _ in range(10):  # others are given up meanwhile, one after the other, for longer than a reader is present
        other = Stopped()
        lonely = MemoryStream(here.memory, new_stream(), StreamHead(OWNER, b"", "sse"), other)
        here.memory.adopt(lonely)
        lonely.read(at(lonely, 0)).close()
        await asyncio.wait_for(other.event.wait(), 10)
    await redis.command("ACL", "SETUSER", "default", "+set", "+xadd", "+pexpire")
    await until(lambda: here._hub.copies.writable)
    assert stopped.reasons == []
    stream.append(event(2))
    stream.end(None)
    assert found.body is not None
    assert await read_to_end(found.body) == event(1) + event(2)


async def test_a_copy_that_misses_bytes_goes_on_behind_them_and_a_reader_is_cut_at_the_gap(
    sidecars: Sidecars, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "PATIENCE", 0.01)
    here, there = await sidecars.start(max_bytes=1000), await sidecars.start()
    stopped = Stopped()
    stream, live = begin(here, stop=stopped), begin(here)
    for one in (stream, live):
        one.append(event(1))
        await copied(here, one)
    reader, other = await there.find(at(stream, 1), OWNER), await there.find(at(live, 1), OWNER)
    await redis.command("ACL", "SETUSER", "default", "-xadd")
    await until(lambda: not here._hub.copies.writable)
    for number in range(2, 200):  # more than is kept
        stream.append(event(number))
    live.append(event(2))
    await redis.command("ACL", "SETUSER", "default", "+xadd")
    await until(lambda: here._hub.copies.writable)
    await copied(here, stream)
    stream.append(event(200))
    live.end(None)
    assert reader.body is not None
    assert other.body is not None
    assert await read_to_end(other.body) == event(2)
    with pytest.raises(ResponseIncomplete):
        await read_to_end(reader.body)
    with pytest.raises(StreamGone):
        await there.find(at(stream, 20), OWNER)
    await there.stop(at(stream, 0), OWNER)
    await asyncio.wait_for(stopped.event.wait(), 20)
    stream.end(None)
    await until(lambda: not here._hub.copies.live)
    assert await replay(there, at(stream, 198)) == event(199) + event(200)
    assert (await there.find(at(stream, 200), OWNER)).body is None
