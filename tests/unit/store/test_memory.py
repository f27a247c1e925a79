"""Streams in memory: who reads what, until when, and what is gone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import ReadTimeout, ResponseIncomplete, StreamGone, StreamUnknown
from streamproxy.store import dropped, memory
from streamproxy.store.base import StopResult, StoreSettings
from streamproxy.store.cursor import Cursor, new_stream, owner_digest
from streamproxy.store.memory import MemoryStore
from streamproxy.store.segments import find_place
from tests.doubles.until import until
from tests.unit.store.bodies import blocks, cuts, event_streams, joined, lines_of_events
from tests.unit.store.streams import OTHER, OWNER, Stopped, at, begin, drain, event, read_to_end, replay


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    one = MemoryStore(StoreSettings())
    yield one
    await one.aclose()


async def test_a_client_that_comes_back_gets_each_event_after_its_cursor_once(store: MemoryStore) -> None:
    stream = begin(store)
    for number in range(1, 6):
        stream.append(event(number))
    found = await store.find(at(stream, 2), OWNER)
    assert found.live
    assert found.content_type == b"text/event-stream"
    assert found.body is not None
    assert await drain(found.body) == event(3) + event(4) + event(5)
    stream.append(event(6))
    stream.end(None)
    assert await read_to_end(found.body) == event(6)
    assert found.body.ended


async def test_a_stream_that_is_complete_with_nothing_after_the_cursor_has_no_body(store: MemoryStore) -> None:
    stream = begin(store)
    stream.append(event(1))
    stream.end(None)
    assert (await store.find(at(stream, 1), OWNER)).body is None
    assert await replay(store, at(stream, 0)) == event(1)


@pytest.mark.parametrize("rest", [b"data: unfin", b"data: 2\n", b"event: e\n", b"d"])
async def test_an_unfinished_last_event_comes_behind_the_last_cursor(store: MemoryStore, rest: bytes) -> None:
    stream = begin(store)
    stream.append(event(1) + rest)
    stream.end(None)
    assert await replay(store, at(stream, 1)) == rest
    lonely = begin(store)
    lonely.append(rest)
    lonely.end(None)
    assert await replay(store, at(lonely, 0)) == rest


@pytest.mark.parametrize("rest", [b": bye\n\n", b": bye", b"\n", b"retry: 5\n\n"])
async def test_what_is_no_event_behind_the_last_one_keeps_nobody_coming_back(store: MemoryStore, rest: bytes) -> None:
    stream = begin(store)
    stream.append(event(1) + rest)
    stream.end(None)
    assert (await store.find(at(stream, 1), OWNER)).body is None


async def test_a_stream_that_was_cut_ends_so_for_everybody(store: MemoryStore) -> None:
    stream = begin(store)
    first = stream.read(at(stream, 0))
    stream.append(event(1) + b"data: unfin")
    stream.end(ReadTimeout(note="n"))
    with pytest.raises(ReadTimeout):
        await read_to_end(first)
    with pytest.raises(ReadTimeout) as raised:
        await replay(store, at(stream, 1))
    assert raised.value.__notes__ == [repr(b"data: unfin")]
    assert not first.ended


async def test_another_owner_and_a_guess_get_the_same_answer(store: MemoryStore) -> None:
    stream = begin(store)
    stream.append(event(1))
    for cursor, owner in ((at(stream, 0), OTHER), (Cursor(new_stream(), 0), OWNER)):
        with pytest.raises(StreamUnknown):
            await store.find(cursor, owner)
        with pytest.raises(StreamUnknown):
            await store.stop(cursor, owner)


async def test_a_dropped_stream_is_gone_for_its_owner_and_never_was_for_others() -> None:
    store = MemoryStore(StoreSettings(window=0.005))
    stream = begin(store)
    stream.append(event(1))
    stream.end(None)
    await until(lambda: store.get(stream.name) is None, "the stream to be dropped")
    with pytest.raises(StreamGone):
        await store.find(at(stream, 0), OWNER)
    with pytest.raises(StreamUnknown):
        await store.find(at(stream, 0), OTHER)
    assert store.total == 0
    await store.aclose()


async def test_only_so_many_names_are_remembered(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "_NAMES", 2)
    store.configure(StoreSettings(max_total=0))
    streams = [begin(store) for _ in range(3)]
    for stream in streams:
        stream.append(event(1))
        stream.end(None)
    store.evict()
    with pytest.raises(StreamUnknown):
        await store.find(at(streams[0], 0), OWNER)
    with pytest.raises(StreamGone):
        await store.find(at(streams[2], 0), OWNER)


async def test_a_place_that_is_dropped_is_gone_and_never_a_gap() -> None:
    store = MemoryStore(StoreSettings(max_bytes=1000))
    stream = begin(store)
    for number in range(500):
        stream.append(event(number))
    with pytest.raises(StreamGone):
        await store.find(at(stream, 100), OWNER)
    found = await store.find(at(stream, 499), OWNER)
    assert found.body is not None
    assert await drain(found.body) == event(499)
    await store.aclose()


async def test_a_place_that_is_not_reached_is_waited_for(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = begin(store)
    waiting = asyncio.create_task(store.find(at(stream, 1), OWNER))
    await asyncio.sleep(0)
    stream.append(event(1))
    found = await waiting
    assert found.body is not None
    assert await drain(found.body) == b""
    monkeypatch.setattr(memory, "PATIENCE", 0.01)
    with pytest.raises(StreamGone):
        await store.find(at(stream, 2), OWNER)
    stream.end(None)
    with pytest.raises(StreamGone):
        await store.find(at(stream, 2), OWNER)


async def test_a_pushed_chunk_is_the_one_that_was_read(store: MemoryStore) -> None:
    stream, seen = begin(store), list[bytes]()
    bodies = [stream.read(at(stream, 0)) for _ in range(3)]
    for body in bodies:
        assert body.pipe(lambda chunk, framed: not seen.append(chunk))
    chunk = event(1)
    stream.append(chunk)
    assert [one is chunk for one in seen] == [True] * 3


async def test_a_sink_that_takes_no_more_reads_on_later_and_misses_nothing(store: MemoryStore) -> None:
    stream, seen = begin(store), list[bytes]()
    slow, quick = stream.read(at(stream, 0)), stream.read(at(stream, 0))
    assert slow.pipe(lambda chunk, framed: bool(seen.append(chunk)))
    change = slow.change()
    stream.append(event(1))
    await change
    stream.append(event(2))
    assert seen == [event(1)]
    assert not slow.pipe(lambda chunk, framed: True)
    assert await drain(slow) == event(2)
    assert await drain(quick) == event(1) + event(2)
    assert slow.pipe(lambda chunk, framed: not seen.append(chunk))
    stream.append(event(3))
    assert seen == [event(1), event(3)]


async def test_only_when_every_client_is_behind_there_is_no_room(store: MemoryStore) -> None:
    stream = begin(store)
    slow, quick = stream.read(at(stream, 0)), stream.read(at(stream, 0))
    stream.append(b"data: " + b"x" * 1000 + b"\n\n")
    assert not stream.has_room(1000)
    waiting = asyncio.create_task(stream.room(1000))
    await asyncio.sleep(0)
    assert not waiting.done()
    await drain(quick)
    await waiting
    quick.close()
    assert not stream.has_room(1000)
    slow.close()
    assert stream.has_room(1000)  # nobody is there: it is read on for the one who comes back


async def test_a_client_that_lags_behind_all_that_is_kept_is_cut_and_holds_nobody() -> None:
    store = MemoryStore(StoreSettings(max_bytes=1000))
    stream, seen = begin(store), list[bytes]()
    slow, quick = stream.read(at(stream, 0)), stream.read(at(stream, 0))
    assert quick.pipe(lambda chunk, framed: not seen.append(chunk))
    for number in range(500):
        stream.append(event(number))
    assert b"".join(seen) == b"".join(map(event, range(500)))
    with pytest.raises(ResponseIncomplete):
        slow.ready()
    await store.aclose()


async def test_a_read_larger_than_all_that_is_kept_reaches_a_client_that_keeps_up() -> None:
    store = MemoryStore(StoreSettings(max_bytes=1000))
    stream = begin(store)
    body = stream.read(at(stream, 0))
    for number in range(3):
        read = b"".join(event(one) for one in range(number * 1000, number * 1000 + 1000))
        stream.append(read)
        assert not stream.has_room(500)
        assert await drain(body) == read
        assert stream.has_room(500)
        assert stream.log.size <= 1000
    await store.aclose()


async def test_a_stream_without_a_client_is_stopped_after_grace_and_not_before() -> None:
    store, stopped = MemoryStore(StoreSettings(grace=0.02)), Stopped()
    stream = begin(store, stop=stopped)
    stream.read(at(stream, 0)).close()
    back = stream.read(at(stream, 0))  # in time
    await asyncio.sleep(0.04)  # a timer behind that of the grace
    assert stopped.reasons == []
    back.close()
    back.close()
    await asyncio.wait_for(stopped.event.wait(), 20)
    assert stopped.reasons == ["grace"]
    await store.aclose()


async def test_a_finished_stream_is_not_stopped(store: MemoryStore) -> None:
    stopped = Stopped()
    stream = begin(store, stop=stopped)
    body = stream.read(at(stream, 0))
    stream.end(None)
    body.close()
    await store.stop(at(stream, 0), OWNER)
    assert stopped.reasons == []
    assert not store._idle


async def test_the_owner_stops_a_live_stream(store: MemoryStore) -> None:
    stopped = Stopped()
    stream = begin(store, stop=stopped)
    await store.stop(at(stream, 0), OWNER)
    assert stopped.reasons == ["owner"]


@pytest.mark.parametrize(("result", "raised"), [("stopped", None), ("gone", StreamGone), ("unknown", StreamUnknown)])
async def test_a_stream_that_is_kept_in_another_process_is_stopped_there(
    result: StopResult, raised: type[Exception] | None
) -> None:
    asked: list[tuple[str, bytes]] = []

    async def elsewhere(stream: str, owner: bytes) -> StopResult:
        asked.append((stream, owner))
        return result

    store, name = MemoryStore(StoreSettings(), elsewhere), new_stream()
    with pytest.raises(raised) if raised is not None else nullcontext():
        await store.stop(Cursor(name, 3), OWNER)
    assert asked == [(name, owner_digest(name, OWNER))]
    stream = begin(store)
    await store.stop(at(stream, 0), OWNER)  # its own: nobody is asked
    assert len(asked) == 1
    await store.aclose()


async def test_finished_streams_are_dropped_first_and_the_oldest_of_them_first() -> None:
    store = MemoryStore(StoreSettings(max_total=9000))
    live = begin(store)
    live.append(event(1) * 100)
    old, young = begin(store), begin(store)
    for stream in (old, young):
        stream.append(b"data: " + b"x" * 2500 + b"\n\n")
        stream.end(None)
    live.append(b"data: " + b"x" * 2500 + b"\n\n")
    assert store.total <= 9000
    with pytest.raises(StreamGone):
        await store.find(at(old, 0), OWNER)
    assert (await store.find(at(young, 0), OWNER)).body is not None
    assert (await store.find(at(live, 0), OWNER)).body is not None
    await store.aclose()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3000), st.booleans()), max_size=60))
async def test_all_streams_together_hold_to_the_total(steps: list[tuple[int, int, bool]]) -> None:
    store = MemoryStore(StoreSettings(max_total=20_000, max_bytes=8000))
    streams = [begin(store) for _ in range(5)]
    for place, size, over in steps:
        streams[place].append(b"data: " + b"x" * size + b"\n\n")
        if over:
            streams[place].end(None)
            streams[place] = begin(store)
        assert store.total <= 20_000 + memory._OVERHEAD
        assert sum(stream.log.size for stream in store._streams.values()) <= store.total
    await store.aclose()


@given(st.data())
async def test_for_any_cuts_and_comings_back_the_joined_bodies_are_the_upstreams(data: st.DataObject) -> None:
    whole = data.draw(event_streams())
    store = MemoryStore(StoreSettings())
    stream, seen, count = begin(store), list[bytes](), 0
    body = stream.read(at(stream, 0))
    for chunk in data.draw(cuts(whole)):
        stream.append(chunk)
        if data.draw(st.booleans()):
            got = await drain(body)
            taken = got[: data.draw(st.integers(0, len(got)))]  # the client was cut anywhere
            body.close()
            # It has dispatched the events that it has seen the end of, and drops what it has of another.
            first = not seen
            events = len(blocks(taken, first))
            if events:
                seen.append(taken[: find_place("sse", taken, events, first)])
                count += events
            found = await store.find(at(stream, count), OWNER)
            assert found.body is not None
            body = found.body  # type: ignore[assignment]
    stream.end(None)
    rest = await read_to_end(body)
    assert joined(*seen, rest) == joined(whole)
    assert blocks(b"".join(seen) + rest) == blocks(whole)
    await store.aclose()


@given(st.data())
async def test_what_a_cursor_brings_begins_where_its_place_is_and_leaves_out_nothing(data: st.DataObject) -> None:
    whole = data.draw(event_streams())
    store = MemoryStore(StoreSettings())
    stream = begin(store)
    for chunk in data.draw(cuts(whole)):
        stream.append(chunk)
    stream.end(None)
    for events in range(stream.events + 1):
        rest = whole[find_place("sse", whole, events) :]
        found = await store.find(at(stream, events), OWNER)
        if found.body is None:
            assert (events, lines_of_events(rest)) == (stream.events, [])
        else:
            assert await read_to_end(found.body) == rest
    await store.aclose()


async def test_ids_on_a_replay_are_those_of_the_first_time(store: MemoryStore) -> None:
    stream = begin(store)
    live = stream.read(at(stream, 0), ids=True)
    body = [event(1), event(2), event(3), b"id: own\n" + event(4), event(5)]
    for chunk in body:
        stream.append(chunk)
    stream.end(None)
    first = await read_to_end(live)
    assert first.count(b"id: " + stream.name.encode()) == 3
    for count in range(5):
        assert first.endswith(await replay(store, at(stream, count), ids=True))


async def test_a_kept_stream_takes_less_than_2_kib_beyond_its_bytes(store: MemoryStore) -> None:
    stream = begin(store)
    for _ in range(400):
        stream.append(b"data: " + b"x" * 93 + b"\n\n")
    stream.end(None)
    log = store._streams[stream.name].log
    parts = [stream, stream.name, store._streams[stream.name].owner, log, log.counter, log.counter._tracker]
    parts += [log._offsets, log._counts, log._segments, log._tail, *log._segments]
    assert sum(map(sys.getsizeof, parts)) - log.size < 2048
