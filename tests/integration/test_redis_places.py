"""Places in streams that are kept in a real Redis: whoever comes back, and wherever, each byte comes once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamproxy.errors import StreamGone
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import storage_key
from streamproxy.store.redis_layout import data_key
from streamproxy.store.segments import find_place
from tests.doubles.until import until
from tests.integration.redis import RedisServer
from tests.integration.stores import Sidecars, flushed
from tests.unit.store.bodies import blocks, cuts, event_streams, joined, lines_of_events
from tests.unit.store.streams import OWNER, at, begin, drain, event, read_to_end, replay


@pytest.fixture
def redis_url(redis: RedisServer) -> str:
    return redis.url


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_any_body_in_any_pieces_is_the_same_from_another_process(redis_url: str, data: st.DataObject) -> None:
    whole = data.draw(event_streams())
    pair = Sidecars(redis_url)
    try:
        here, there = await pair.start(), await pair.start()
        stream = begin(here)
        for chunk in data.draw(cuts(whole)):
            stream.append(chunk)
            if data.draw(st.booleans()):
                await flushed(here, stream)
        stream.end(None)
        await until(lambda: storage_key(stream.name) not in here._hub.copies.live)
        for events in range(stream.events + 1):
            rest = whole[find_place("sse", whole, events) :]
            found = await there.find(at(stream, events), OWNER)
            if found.body is None:
                assert (events, lines_of_events(rest)) == (stream.events, [])
            else:
                assert await read_to_end(found.body) == rest
    finally:
        await pair.stop()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_for_any_cuts_and_comings_back_anywhere_the_joined_bodies_are_the_upstreams(
    redis_url: str, data: st.DataObject
) -> None:
    whole = data.draw(event_streams())
    pair = Sidecars(redis_url)
    try:
        stores = [await pair.start(), await pair.start()]
        stream, came, seen, count = begin(stores[0]), b"", list[bytes](), 0
        body: StoredBody = stream.read(at(stream, 0))
        for chunk in data.draw(cuts(whole)):
            stream.append(chunk)
            came += chunk
            if data.draw(st.booleans()):
                await flushed(stores[0], stream)
            if not data.draw(st.booleans()):
                continue
            got = await drain(body)
            assert joined(came).startswith(joined(*seen, got))
            taken = got[: data.draw(st.integers(0, len(got)))]  # the client was cut anywhere
            body.close()
            # It has dispatched the events that it has seen the end of, and drops what it has of another.
            first = not seen
            if events := len(blocks(taken, first)):
                seen.append(taken[: find_place("sse", taken, events, first)])
                count += events
            found = await data.draw(st.sampled_from(stores)).find(at(stream, count), OWNER)
            assert found.body is not None
            body = found.body
        stream.end(None)
        rest = await read_to_end(body)
        assert joined(*seen, rest) == joined(whole)
        assert blocks(b"".join(seen) + rest) == blocks(whole)
    finally:
        await pair.stop()


async def test_the_lf_of_a_split_crlf_is_not_sent_again_from_another_process(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    stream.append(b"data: 1\r\n\r")
    await flushed(here, stream)
    early = await there.find(at(stream, 1), OWNER)
    stream.append(b"\ndata: 2\r\n\r\n")
    await flushed(here, stream)
    late = await there.find(at(stream, 1), OWNER)
    stream.append(b"data: 3\r\n\r\n")
    stream.end(None)
    for found in (early, late):
        assert found.body is not None
        assert await read_to_end(found.body) == b"data: 2\r\n\r\ndata: 3\r\n\r\n"
    assert await replay(there, at(stream, 0)) == b"data: 1\r\n\r\ndata: 2\r\n\r\ndata: 3\r\n\r\n"


async def test_the_place_before_the_oldest_entry_is_kept(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    stream = begin(here)
    for number in range(4):
        stream.append(event(number))
        await flushed(here, stream)
    await there._hub.link.ask("XTRIM", data_key(storage_key(stream.name)), "MAXLEN", 2)
    found = await there.find(at(stream, 2), OWNER)
    assert found.body is not None
    for events in (0, 1):
        with pytest.raises(StreamGone):
            await there.find(at(stream, events), OWNER)
    stream.end(None)
    assert await read_to_end(found.body) == event(2) + event(3)


async def test_an_unfinished_last_event_comes_behind_the_last_cursor_in_another_process(sidecars: Sidecars) -> None:
    here, there = await sidecars.start(), await sidecars.start()
    for whole in (event(1) + b"data: unfin", b"data: unfin", event(1) + b": bye\n\n"):
        stream = begin(here)
        stream.append(whole)
        await flushed(here, stream)
        stream.end(None)
        await until(lambda: not here._hub.copies.live)
        rest = whole[find_place("sse", whole, stream.events) :]
        assert await replay(there, at(stream, stream.events)) == (rest if rest.startswith(b"data") else b"")
