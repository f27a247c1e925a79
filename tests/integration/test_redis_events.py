"""Events that are published in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamproxy.errors import BadRequest, DestinationUnavailable, ResponseIncomplete, StreamGone, StreamUnknown
from streamproxy.store import redis_subscription
from streamproxy.store.redis_entries import StreamEvents
from streamproxy.store.redis_events import EventBody, PubSubEvents, RedisEvents
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.integration.redis import RedisServer

BUFFER = 64 * 1024


class Errors:
    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def errors() -> Errors:
    return Errors()


@pytest.fixture
async def pubsub(redis: RedisServer, errors: Errors) -> AsyncIterator[PubSubEvents]:
    events = PubSubEvents(redis.url, errors, b"note")
    events.start()
    await until(lambda: events.connected)
    yield events
    await events.aclose()


@pytest.fixture
async def streams(redis: RedisServer, errors: Errors) -> AsyncIterator[StreamEvents]:
    events = StreamEvents(redis.url, errors)
    events.start()
    await until(lambda: events.connected and events._link.up)
    yield events
    await events.aclose()


async def take(body: EventBody, count: int) -> list[bytes]:
    """So many events, as they come."""
    out = list[bytes]()
    async with asyncio.timeout(10):
        while len(out) < count:
            chunk = body.ready()
            if chunk is None:
                await body.change()
            else:
                out.append(chunk)
    return out


async def numsub(redis: RedisServer, channel: str) -> int:
    reply = await redis.command("PUBSUB", "NUMSUB", channel)
    assert isinstance(reply, list)
    return int(reply[1])


async def test_every_client_of_a_channel_gets_what_is_published_and_nobody_else(
    pubsub: PubSubEvents, redis: RedisServer
) -> None:
    one, two = await pubsub.subscribe(b"a", BUFFER), await pubsub.subscribe(b"a", BUFFER)
    other = await pubsub.subscribe(b"b", BUFFER)
    assert await redis.command("PUBLISH", "a", "x\ny") == 1  # one subscription for both
    (first,), (second,) = await take(one, 1), await take(two, 1)
    assert first == b"event: note\ndata: x\ndata: y\n\n"
    assert first is second  # made once
    assert other.ready() is None


async def test_a_subscription_is_made_with_the_first_client_and_undone_with_the_last(
    pubsub: PubSubEvents, redis: RedisServer
) -> None:
    one, two = await pubsub.subscribe(b"a", BUFFER), await pubsub.subscribe(b"a", BUFFER)
    one.close()
    one.close()
    assert await numsub(redis, "a") == 1
    two.close()
    again = await pubsub.subscribe(b"a", BUFFER)  # before the last one is undone, perhaps
    assert await redis.command("PUBLISH", "a", "x") == 1
    await take(again, 1)
    again.close()
    await until(lambda: numsub(redis, "a"), "nobody to be subscribed", holds=lambda count: not count)


async def test_a_client_that_lags_is_cut_and_holds_nobody(pubsub: PubSubEvents, redis: RedisServer) -> None:
    slow, quick = await pubsub.subscribe(b"a", 1000), await pubsub.subscribe(b"a", 1000)
    seen = list[bytes]()
    assert quick.pipe(lambda chunk, framed: not seen.append(framed))
    for _ in range(20):
        await redis.command("PUBLISH", "a", "x" * 100)
    await until(lambda: len(seen) == 20)
    assert seen[0] == b"78\r\nevent: note\ndata: " + b"x" * 100 + b"\n\n\r\n"
    with pytest.raises(ResponseIncomplete):
        slow.ready()


async def test_clients_stay_while_redis_is_away_and_get_what_comes_after(
    pubsub: PubSubEvents, redis: RedisServer, errors: Errors
) -> None:
    one = await pubsub.subscribe(b"a", BUFFER)
    await redis.kill()
    await until(lambda: not pubsub.connected)
    late = await pubsub.subscribe(b"b", BUFFER)  # it was there once: a client is taken all the same
    assert errors.count > 0
    await redis.start()
    await until(lambda: pubsub.connected)
    await until(lambda: numsub(redis, "a"), "a subscription")
    await until(lambda: numsub(redis, "b"), "a subscription")
    await redis.command("PUBLISH", "a", "1")
    await redis.command("PUBLISH", "b", "2")
    assert await take(one, 1) == [b"event: note\ndata: 1\n\n"]
    assert await take(late, 1) == [b"event: note\ndata: 2\n\n"]


@pytest.mark.parametrize("kind", [PubSubEvents, StreamEvents])
async def test_a_server_that_gives_no_sign_of_life_is_left(
    redis: RedisServer, errors: Errors, kind: type[PubSubEvents] | type[StreamEvents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_subscription, "QUIET", 0.05)
    events = kind(redis.url, errors)
    events.start()
    await until(lambda: events.connected)
    redis.freeze()
    await until(lambda: not events.connected)
    redis.thaw()
    await until(lambda: events.connected)
    one = await events.subscribe(b"a", BUFFER)
    await redis.command(*(("PUBLISH", "a", "x") if kind is PubSubEvents else ("XADD", "a", "*", "data", "x")))
    assert (await take(one, 1))[0].startswith(b"data: x\n")
    await events.aclose()


@pytest.mark.parametrize("kind", [PubSubEvents, StreamEvents])
async def test_before_redis_was_there_for_the_first_time_nobody_is_let_in(
    leaks: LeakCheck, kind: type[RedisEvents], errors: Errors
) -> None:
    events = kind("redis://127.0.0.1:1/0", errors)
    events.start()
    await until(lambda: errors.count > 0)
    with pytest.raises(DestinationUnavailable):
        await events.subscribe(b"a", BUFFER)
    await events.aclose()


async def test_a_stream_gives_entries_with_their_ids_from_now_on(streams: StreamEvents, redis: RedisServer) -> None:
    await redis.command("XADD", "a", "1-1", "data", "old")
    one, two = await streams.subscribe(b"a", BUFFER), await streams.subscribe(b"b", BUFFER)
    await redis.command("XADD", "a", "1-2", "data", "new", "event", "e")
    await redis.command("XADD", "a", "1-3", "other", "no event")
    await redis.command("XADD", "a", "1-4", "data", "x\ny")
    await redis.command("XADD", "b", "7-0", "data", "first")
    assert await take(one, 2) == [b"event: e\ndata: new\nid: 1-2\n\n", b"data: x\ndata: y\nid: 1-4\n\n"]
    assert await take(two, 1) == [b"data: first\nid: 7-0\n\n"]


async def test_a_stream_goes_on_after_an_id_or_says_that_it_is_gone(streams: StreamEvents, redis: RedisServer) -> None:
    for number in range(1, 11):
        await redis.command("XADD", "a", f"{number}-0", "data", number)
    body = await streams.subscribe(b"a", BUFFER, b"8-0")
    assert await take(body, 2) == [b"data: 9\nid: 9-0\n\n", b"data: 10\nid: 10-0\n\n"]
    assert (await streams.subscribe(b"a", BUFFER, b"10-0")).ready() is None
    await redis.command("XTRIM", "a", "MINID", "5-0")
    for gone in (b"3-0", b"11-0"):
        with pytest.raises(StreamGone):
            await streams.subscribe(b"a", BUFFER, gone)
    with pytest.raises(StreamGone):
        await streams.subscribe(b"none", BUFFER, b"3-0")
    with pytest.raises(BadRequest):
        await streams.subscribe(b"a", BUFFER, b"three")


async def test_a_stream_catches_up_without_a_gap_when_the_connection_is_back(
    streams: StreamEvents, redis: RedisServer, errors: Errors
) -> None:
    await redis.command("XADD", "a", "1-0", "data", "1")
    one = await streams.subscribe(b"a", BUFFER)
    for number in range(2, 40):
        if number % 10 == 0:
            await redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await redis.command("XADD", "a", f"{number}-0", "data", number)
    assert await take(one, 38) == [b"data: %d\nid: %d-0\n\n" % (number, number) for number in range(2, 40)]
    assert errors.count > 0


async def test_a_client_that_would_miss_entries_is_cut(streams: StreamEvents, redis: RedisServer) -> None:
    await redis.command("XADD", "a", "1-0", "data", "1")
    one = await streams.subscribe(b"a", BUFFER)
    await redis.all_at_once(
        ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
        ("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"),
        ("XADD", "a", "4-0", "data", "4"),
        ("XADD", "a", "MINID", "5-0", "5-0", "data", "5"),
    )
    with pytest.raises(ResponseIncomplete):
        await take(one, 2)


async def test_the_id_before_all_entries_brings_all_that_are_kept(streams: StreamEvents, redis: RedisServer) -> None:
    assert (await streams.subscribe(b"a", BUFFER, b"0-0")).ready() is None
    for number in range(1, 4):
        await redis.command("XADD", "a", f"{number}-0", "data", number)
    body = await streams.subscribe(b"a", BUFFER, b"0-0")
    assert await take(body, 3) == [b"data: %d\nid: %d-0\n\n" % (number, number) for number in range(1, 4)]


async def test_a_client_that_is_far_behind_is_read_for_as_it_takes_what_it_gets(
    streams: StreamEvents, redis: RedisServer
) -> None:
    await redis.command(
        "EVAL", "for n = 1, 1000 do redis.call('XADD', 'a', n .. '-0', 'data', string.rep('x', 1000)) end", 0
    )
    body, live = await streams.subscribe(b"a", BUFFER, b"1-0"), await streams.subscribe(b"a", BUFFER)
    await redis.command("XADD", "a", "1001-0", "data", "new")
    assert await take(live, 1) == [b"data: new\nid: 1001-0\n\n"]
    assert body.held <= BUFFER // 2 + 100 * 1030
    got = await take(body, 1000)
    assert got[0].endswith(b"id: 2-0\n\n")
    assert got[-1] == b"data: new\nid: 1001-0\n\n"
    assert len(set(got)) == 1000
    await redis.command("XADD", "a", "1002-0", "data", "newer")
    assert await take(body, 1) == await take(live, 1) == [b"data: newer\nid: 1002-0\n\n"]


async def test_a_name_of_another_type_is_refused_and_counts_as_no_error(
    streams: StreamEvents, redis: RedisServer, errors: Errors
) -> None:
    await redis.command("SET", "a", "x")
    for last_id in (b"", b"0-0", b"1-0"):
        with pytest.raises(StreamUnknown):
            await streams.subscribe(b"a", BUFFER, last_id)
    await redis.command("XADD", "b", "1-0", "data", "1")
    body, other = await streams.subscribe(b"b", BUFFER), await streams.subscribe(b"c", BUFFER)
    await redis.all_at_once(("DEL", "b"), ("SET", "b", "x"))
    with pytest.raises(ResponseIncomplete):
        await take(body, 1)
    await redis.command("XADD", "c", "1-0", "data", "1")
    assert await take(other, 1) == [b"data: 1\nid: 1-0\n\n"]
    assert errors.count == 0


@pytest.mark.parametrize("kind", [PubSubEvents, StreamEvents])
async def test_a_name_that_the_user_may_not_read_is_refused_and_leaves_the_others_alone(
    redis: RedisServer, errors: Errors, kind: type[RedisEvents]
) -> None:
    rules = ("resetkeys", "~news:*", "resetchannels", "&news:*", "&__redis__:invalidate", "+@all")
    await redis.command("ACL", "SETUSER", "reader", "on", "nopass", *rules)
    events = kind(redis.url.replace("://", "://reader:any@"), errors)
    events.start()
    await until(lambda: events.connected and (not isinstance(events, StreamEvents) or events._link.up))
    news, last = await events.subscribe(b"news:a", BUFFER), await events.subscribe(b"news:b", BUFFER)
    for _ in range(3):
        with pytest.raises(StreamUnknown):
            await events.subscribe(b"secret", BUFFER)
    names = (b"secret", b"news:c", b"secret")
    got = await asyncio.gather(*(events.subscribe(name, BUFFER) for name in names), return_exceptions=True)
    assert [type(one) for one in got] == [StreamUnknown, EventBody, StreamUnknown]
    publish = ("PUBLISH", "news:a", "1") if kind is PubSubEvents else ("XADD", "news:a", "1-0", "data", "1")
    await redis.command(*publish)
    assert (await take(news, 1))[0].startswith(b"data: 1\n")
    assert errors.count == 0
    # A right that is taken away while clients are there concerns those of its name.
    await redis.command("ACL", "SETUSER", "reader", "resetkeys", "~news:b", "resetchannels", "&news:b", "&__redis__*")
    if kind is StreamEvents:
        await redis.command("XADD", "news:a", "2-0", "data", "2")
    with pytest.raises(ResponseIncomplete):
        await take(news, 1)
    assert last.ready() is None
    await events.aclose()


async def test_a_redis_that_does_not_track_is_asked_for_entries(redis: RedisServer, errors: Errors) -> None:
    await redis.command(
        "ACL", "SETUSER", "reader", "on", "allkeys", "allchannels", "nopass", "+@all", "-client|tracking"
    )
    events = StreamEvents(redis.url.replace("://", "://reader:any@"), errors)
    events.start()
    await until(lambda: events.connected and events._link.up)
    body = await events.subscribe(b"a", BUFFER)
    for number in (1, 2):
        await redis.command("XADD", "a", f"{number}-0", "data", number)
        assert await take(body, 1) == [b"data: %d\nid: %d-0\n\n" % (number, number)]
    await events.aclose()
