"""Streams in a real Redis: any process answers for them, and whatever Redis does, what runs goes on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from streamproxy.errors import DestinationUnavailable, ResponseIncomplete, StreamGone, StreamUnknown
from streamproxy.store import redis_copy
from streamproxy.store.base import StreamHead
from streamproxy.store.cursor import Cursor, new_stream, storage_key
from streamproxy.store.redis import RedisStore
from streamproxy.store.redis_feed import RemoteBody
from streamproxy.store.redis_layout import data_key
from streamproxy.store.segments import find_place
from tests.doubles.until import soon, until
from tests.integration.redis import RedisServer
from tests.integration.stores import Sidecars, copied, flushed
from tests.unit.store.streams import OTHER, OWNER, Stopped, at, begin, drain, event, read_to_end, replay


async def test_another_process_answers_from_every_cursor(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream, whole = begin(here), b""
    for number in range(1, 41):
        chunk = event(number) if number % 3 else b": note\n\n" + event(number)
        whole += chunk
        stream.append(chunk)
        if number % 10 == 0:
            await copied(here, stream)
    found = await there.find(at(stream, 25), OWNER)
    assert found.live
    assert found.content_type == b"text/event-stream"
    stream.append(b"data: 41")
    stream.append(b"\n\n")
    whole += b"data: 41\n\n"
    stream.end(None)
    assert found.body is not None
    assert await read_to_end(found.body) == whole[find_place("sse", whole, 25) :]
    for events in range(41):
        assert await replay(there, at(stream, events)) == whole[find_place("sse", whole, events) :]
    assert (await there.find(at(stream, 41), OWNER)).body is None
    assert sidecars.errors == 0


async def test_a_redis_that_comes_after_the_sidecars_serves_them_all_the_same(
    sidecars: Sidecars, redis: RedisServer
) -> None:
    await redis.kill()
    here, there = await sidecars.start(), await sidecars.start()
    assert here.create(StreamHead(OWNER, b"text/event-stream", "sse"), Stopped()) is None
    await redis.start()
    await until(lambda: all(hub.copies.writable for hub in sidecars.hubs))
    stream = begin(here)
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    stream.append(event(2))
    stream.end(None)
    assert found.body is not None
    assert await read_to_end(found.body) == event(1) + event(2)


async def test_a_stream_that_was_cut_is_cut_for_those_elsewhere_too(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1) + b"data: unfin")
    stream.end(ResponseIncomplete())
    await until(lambda: not here._hub.copies.live)
    with pytest.raises(ResponseIncomplete) as raised:
        await replay(there, at(stream, 0))
    assert raised.value.__notes__ == [repr(event(1) + b"data: unfin")]


async def test_nobody_but_the_owner_learns_that_there_is_a_stream(sidecars: Sidecars, redis: RedisServer) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1))
    await copied(here, stream)
    for cursor, owner in ((at(stream, 0), OTHER), (Cursor(new_stream(), 0), OWNER)):
        with pytest.raises(StreamUnknown):
            await there.find(cursor, owner)
        with pytest.raises(StreamUnknown):
            await there.stop(cursor, owner)


async def test_redis_never_holds_a_credential_or_a_cursor_and_every_key_expires(
    sidecars: Sidecars, redis: RedisServer
) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    assert found.body is not None
    found.body.close()
    keys = await redis.command("KEYS", "*")
    assert isinstance(keys, list)
    assert len(keys) >= 4
    for key in keys:
        dump = await redis.command("DUMP", key)
        assert isinstance(dump, bytes)
        assert b"abc" not in dump
        assert stream.name.encode() not in key + dump
        ttl = await redis.command("PTTL", key)
        assert isinstance(ttl, int)
        assert ttl > 0 or key == b"streamproxy:control"


async def test_any_process_stops_a_stream_within_100_ms(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()

    async def stopping() -> float:
        stopped = Stopped()
        stream = begin(here, stop=stopped)
        stream.append(event(1))
        await copied(here, stream)
        began = time.monotonic()
        await there.stop(at(stream, 0), OWNER)
        await asyncio.wait_for(stopped.event.wait(), 20)
        assert stopped.reasons == ["owner"]
        return time.monotonic() - began

    await soon(stopping, within=0.1)


async def test_a_client_elsewhere_keeps_a_stream_from_being_given_up(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(grace=0.3), await sidecars.start()
    stopped = Stopped()
    stream = begin(here, stop=stopped)
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    stream.read(at(stream, 0)).close()
    for _ in range(4):  # others are given up meanwhile, one after the other
        other = Stopped()
        lonely = begin(here, stop=other)
        lonely.read(at(lonely, 0)).close()
        await asyncio.wait_for(other.event.wait(), 10)
    assert stopped.reasons == []
    assert found.body is not None
    found.body.close()
    await asyncio.wait_for(stopped.event.wait(), 2.9)  # sooner than a process that says nothing counts as gone
    assert stopped.reasons == ["grace"]


async def test_a_stream_whose_process_died_is_cut_within_5_s_after_what_was_stored(sidecars: Sidecars) -> None:
    async def dying() -> float:
        here, there = await sidecars.start(), await sidecars.start()
        stream = begin(here)
        stream.append(event(1) + event(2))
        await copied(here, stream)
        found = await there.find(at(stream, 0), OWNER)
        hub = here._hub
        assert found.body is not None
        assert hub._pulse is not None
        hub._pulse.cancel()  # as a killed process: no word, and no heartbeat
        began = time.monotonic()
        with pytest.raises(ResponseIncomplete) as raised:
            await read_to_end(found.body)
        assert raised.value.__notes__ == [repr(event(1) + event(2))]
        return time.monotonic() - began

    await soon(dying, within=5)


async def test_a_place_that_was_trimmed_is_gone_and_what_is_kept_is_exact(
    sidecars: Sidecars, redis: RedisServer
) -> None:
    here, there = await sidecars.start(max_bytes=20_000), await sidecars.start()
    stream = begin(here)
    for number in range(1000):
        stream.append(b"data: %0100d\n\n" % number)
        if number % 20 == 0:
            await copied(here, stream)
    stream.end(None)
    await until(lambda: not here._hub.copies.live)
    with pytest.raises(StreamGone):
        await there.find(at(stream, 500), OWNER)
    whole = b"".join(b"data: %0100d\n\n" % number for number in range(1000))
    assert await replay(there, at(stream, 900)) == whole[find_place("sse", whole, 900) :]
    used = await redis.command("MEMORY", "USAGE", f"streamproxy:{{{storage_key(stream.name)}}}:data")
    assert isinstance(used, int)
    assert used < 40_000


async def test_after_the_window_the_owner_is_told_that_it_is_gone(sidecars: Sidecars, redis: RedisServer) -> None:
    here, there = await sidecars.start(window=0.2), await sidecars.start()
    stream = begin(here)
    stream.append(event(1))
    stream.end(None)
    await until(lambda: not here._hub.copies.live)
    await until(lambda: here.memory.get(stream.name) is None, "the stream to be dropped")
    data = data_key(storage_key(stream.name))
    await until(lambda: redis.command("EXISTS", data), "the copy to expire", holds=lambda count: not count)
    for store in (here, there):
        with pytest.raises(StreamGone):
            await store.find(at(stream, 0), OWNER)
        with pytest.raises(StreamUnknown):
            await store.find(at(stream, 0), OTHER)


async def test_a_place_that_is_not_copied_yet_is_waited_for_elsewhere(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1) + event(2))  # a client here has had both, and comes back there at once
    found = await there.find(at(stream, 2), OWNER)
    stream.append(event(3))
    stream.end(None)
    assert found.body is not None
    assert await read_to_end(found.body) == event(3)


async def test_ids_are_the_same_from_another_process(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    live = stream.read(at(stream, 0), ids=True)
    for number in range(1, 4):
        stream.append(event(number))
    await copied(here, stream)
    stream.append(b"id: own\n" + event(4))
    stream.append(event(5))
    stream.end(None)
    await until(lambda: not here._hub.copies.live)
    first = await read_to_end(live)
    for events in range(5):
        assert first.endswith(await replay(there, at(stream, events), ids=True))


async def test_no_id_is_written_behind_one_that_came_while_its_place_was_waited_for(
    sidecars: Sidecars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_copy, "FLUSH", 60.0)
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1))
    await flushed(here, stream)
    looked, locate = asyncio.Event(), RedisStore._locate

    async def look(*arguments: Any) -> Any:
        found = await locate(*arguments)
        looked.set()
        return found

    monkeypatch.setattr(RedisStore, "_locate", look)
    stream.append(b"id: own\n" + event(2))
    finding = asyncio.create_task(there.find(at(stream, 2), OWNER, ids=True))
    await looked.wait()
    await flushed(here, stream)
    found = await finding
    stream.append(event(3))
    await flushed(here, stream)
    stream.end(None)
    here._hub.copies.flush()
    assert found.body is not None
    assert await read_to_end(found.body) == event(3)


async def test_while_redis_is_killed_live_streams_go_on_and_all_is_well_when_it_is_back(
    sidecars: Sidecars, redis: RedisServer
) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    live = stream.read(at(stream, 0))
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    await redis.kill()
    stream.append(event(2))
    await until(lambda: not here._hub.link.up)
    assert here.create(stream.head, Stopped()) is None  # type: ignore[attr-defined]
    assert sidecars.errors > 0
    with pytest.raises(DestinationUnavailable):
        await there.find(Cursor(new_stream(), 0), OWNER)
    assert (await here.find(at(stream, 1), OWNER)).body is not None  # here it is in memory
    await redis.start()
    await until(lambda: there._hub.link.up and here._hub.link.up and here._hub.copies.writable)
    stream.append(event(3))
    second = begin(here)
    second.append(event(1))
    second.end(None)
    stream.end(None)
    assert found.body is not None
    whole = event(1) + event(2) + event(3)
    assert await read_to_end(found.body) == whole  # a client elsewhere has waited, and misses nothing
    assert await read_to_end(live) == whole
    assert await replay(there, at(stream, 0)) == whole
    assert await replay(there, at(second, 0)) == event(1)


@pytest.mark.parametrize("seconds", [1.0, 4.0])
async def test_a_redis_that_stands_still_holds_nobody_and_loses_nothing(
    sidecars: Sidecars, redis: RedisServer, seconds: float
) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1))
    await copied(here, stream)
    found = await there.find(at(stream, 0), OWNER)
    redis.freeze()
    try:
        number, slowest = 1, 0.0
        for number in range(2, 2 + round(seconds / 0.02)):
            began = time.perf_counter()
            stream.append(event(number))
            slowest = max(slowest, time.perf_counter() - began)
            await asyncio.sleep(0.02)
    finally:
        redis.thaw()
    stream.end(None)
    assert slowest < seconds / 2  # no append has waited for Redis
    assert found.body is not None
    assert await read_to_end(found.body) == b"".join(map(event, range(1, number + 1)))


async def test_a_slow_redis_holds_nobody(sidecars: Sidecars, redis: RedisServer) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    await redis.command("CLIENT", "PAUSE", 5000)
    began = time.monotonic()
    for number in range(1000):
        stream.append(event(number))
    stream.end(None)
    assert time.monotonic() - began < 2.5
    await until(lambda: not here._hub.copies.live)
    assert await replay(there, at(stream, 0)) == b"".join(map(event, range(1000)))


async def test_what_a_process_leaves_when_it_stops_in_good_order_is_complete(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(event(1))
    stream.end(None)
    await here._hub.aclose()
    assert await replay(there, at(stream, 0)) == event(1)


async def test_a_slow_client_elsewhere_holds_nobody_and_gets_everything(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    slow, quick = await there.find(at(stream, 0), OWNER), await there.find(at(stream, 0), OWNER)
    assert isinstance(slow.body, RemoteBody)
    assert isinstance(quick.body, RemoteBody)
    event_of_10_kb, got = b"data: " + b"x" * 10_000 + b"\n\n", b""
    for number in range(1, 11):
        for _ in range(10):
            stream.append(event_of_10_kb)
        await flushed(here, stream)
        while len(got) < number * 10 * len(event_of_10_kb):
            await asyncio.wait_for(quick.body.change(), 10)
            got += await drain(quick.body)
    stream.end(None)
    assert got + await read_to_end(quick.body) == event_of_10_kb * 100
    assert slow.body.held < 512 * 1024
    assert await read_to_end(slow.body) == event_of_10_kb * 100
