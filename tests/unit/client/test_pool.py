"""Places by capacity: connections that carry several streams, and those of which nobody knows yet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from streamproxy.client.connection import ClientConnection
from streamproxy.client.pool import Pool
from streamproxy.errors import DestinationUnavailable, LimitReached


class Multiplexed(ClientConnection):
    """A connection of any capacity whose peer is silent."""

    def __init__(self, pool: Pool, capacity: int) -> None:
        ours, self.peer = socket.socketpair()
        super().__init__(asyncio.get_running_loop(), ours, capacity)
        self._pool = pool

    def abort(self) -> None:
        if not self.closed or self._sock.fileno() >= 0:
            self.closed = True
            self._sock.close()
            self.peer.close()
            self._pool.lost(self)
            self._pool.closed(self)

    def shut(self) -> None:
        self.abort()


class Streams:
    """Streams of a pool, for a test to begin and to end."""

    def __init__(self, *, max_streams: int = 10, may_share: bool = True, max_idle: int = 5) -> None:
        self.pool = Pool(max_streams=max_streams, max_idle=max_idle, idle_timeout=60.0, may_share=may_share)
        self.connections: list[Multiplexed] = []

    async def begin(self) -> ClientConnection | None:
        """The connection of a new stream, None when it is to make one."""
        connection = self.pool.take()
        if connection is None and not self.pool.reserve():
            connection = await self.pool.wait(None)
        return connection

    def open(self, capacity: int) -> Multiplexed:
        connection = Multiplexed(self.pool, capacity)
        self.connections.append(connection)
        self.pool.opened(connection)
        return connection

    def close(self) -> None:
        for connection in self.connections:
            connection.abort()


@pytest.fixture
def made() -> Iterator[list[Streams]]:
    made: list[Streams] = []
    yield made
    for streams in made:
        streams.close()


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_streams_share_a_connection_up_to_its_capacity_and_then_open_another(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    first = streams.open(2)
    assert await streams.begin() is first
    assert (first.in_use, streams.pool.active) == (2, 2)
    assert await streams.begin() is None
    second = streams.open(2)
    assert (second.in_use, streams.pool.active) == (1, 3)
    streams.pool.release(first)
    assert {await streams.begin(), await streams.begin()} == {first, second}
    assert (first.in_use, second.in_use) == (2, 2)


async def test_streams_that_come_while_a_connection_is_made_share_it(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    waiting = [asyncio.ensure_future(streams.begin()) for _ in range(4)]
    await settle()
    assert streams.pool.waiting == 4
    first = streams.open(100)
    assert [await task for task in waiting] == [first] * 4
    assert (first.in_use, streams.pool.active) == (5, 5)


async def test_one_of_those_that_did_not_fit_makes_the_next(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    waiting = [asyncio.ensure_future(streams.begin()) for _ in range(4)]
    await settle()
    first = streams.open(2)
    await settle()
    assert [task.result() for task in waiting[:2]] == [first, None]
    assert not waiting[2].done()
    second = streams.open(2)
    await settle()
    assert [task.result() for task in waiting[2:]] == [second, None]
    streams.open(2)


async def test_nobody_waits_for_a_connection_that_turned_out_to_take_one_stream(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    waiting = [asyncio.ensure_future(streams.begin()) for _ in range(3)]
    await settle()
    streams.open(1)
    assert [await task for task in waiting] == [None] * 3
    assert await streams.begin() is None  # and the next does not wait either
    assert streams.pool.active == 5


async def test_who_waited_for_a_connection_that_failed_tries_for_himself(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    waiting = [asyncio.ensure_future(streams.begin()) for _ in range(3)]
    await settle()
    streams.pool.not_opened()
    streams.pool.free()
    assert [await task for task in waiting] == [None] * 3
    assert streams.pool.active == 3


@pytest.mark.parametrize("moment", ["queued", "told"])
async def test_a_stream_that_is_cancelled_while_it_waits_for_a_connection_keeps_nothing(
    moment: str, made: list[Streams]
) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    waiting = [asyncio.ensure_future(streams.begin()) for _ in range(2)]
    await settle()
    if moment == "queued":
        waiting[0].cancel()
    first = streams.open(10)
    if moment == "told":
        waiting[0].cancel()
    await asyncio.wait(waiting)
    assert waiting[1].result() is first
    assert (first.in_use, streams.pool.active) == (2, 2)


async def test_a_maker_that_is_cancelled_before_it_began_lets_the_next_make_one(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    waiting = [asyncio.ensure_future(streams.begin()) for _ in range(3)]
    await settle()
    first = streams.open(2)  # the second is to make another
    waiting[1].cancel()
    await settle()
    assert waiting[2].result() is None
    assert (first.in_use, streams.pool.active) == (2, 3)


async def test_the_limit_counts_streams_and_not_connections(made: list[Streams]) -> None:
    made.append(streams := Streams(max_streams=3))
    assert await streams.begin() is None
    first = streams.open(100)
    assert [await streams.begin() for _ in range(2)] == [first, first]
    assert streams.pool.take() is None
    assert not streams.pool.reserve()
    with pytest.raises(LimitReached):
        await streams.pool.wait(0.0)
    fourth = asyncio.ensure_future(streams.begin())
    await settle()
    assert not fourth.done()
    streams.pool.release(first)
    assert await fourth is first
    assert (first.in_use, streams.pool.active) == (3, 3)


async def test_a_connection_is_idle_when_its_last_stream_has_ended(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    first = streams.open(10)
    assert await streams.begin() is first
    streams.pool.release(first)
    assert (streams.pool.idle, streams.pool.active) == (0, 1)
    streams.pool.release(first)
    assert (streams.pool.idle, streams.pool.active) == (1, 0)
    assert [await streams.begin() for _ in range(2)] == [first, first]
    assert (streams.pool.idle, streams.pool.active) == (0, 2)
    await streams.pool.aclose()


async def test_a_capacity_that_grows_or_shrinks_is_heeded(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    first = streams.open(100)
    first.capacity = 1  # the peer has changed its mind
    streams.pool.changed(first)
    assert await streams.begin() is None
    waiting = asyncio.ensure_future(streams.begin())
    await settle()
    assert not waiting.done()
    first.capacity = 3
    streams.pool.changed(first)
    assert await streams.begin() is first
    streams.pool.not_opened()
    assert await waiting is first


async def test_a_connection_that_takes_no_more_is_left_to_its_streams(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    first = streams.open(10)
    assert await streams.begin() is first
    first.closed = True  # GOAWAY
    streams.pool.lost(first)
    assert await streams.begin() is None
    streams.open(10)
    streams.pool.release(first)
    assert (first.in_use, streams.pool.active, streams.pool.idle) == (1, 2, 0)
    streams.pool.release(first)
    assert (streams.pool.active, streams.pool.idle) == (1, 0)
    assert first.peer.fileno() < 0


async def test_a_retired_address_gets_no_more_streams(made: list[Streams]) -> None:
    made.append(streams := Streams())
    assert await streams.begin() is None
    first = streams.open(10)
    first.address = ("10.0.0.1", 80)
    streams.pool.retire({("10.0.0.1", 80)})
    assert await streams.begin() is None
    streams.open(10)
    streams.pool.release(first)
    assert (streams.pool.active, streams.pool.idle) == (1, 0) or first.expired


async def test_a_pool_that_closes_tells_those_that_wait(made: list[Streams]) -> None:
    made.append(streams := Streams(max_streams=1))
    assert await streams.begin() is None
    streams.open(1)
    waiting = asyncio.ensure_future(streams.begin())
    await settle()
    await streams.pool.aclose()
    with pytest.raises(DestinationUnavailable):
        await waiting
