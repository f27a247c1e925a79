"""A request body that can be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import ClientDisconnected
from streamproxy.upstream.replay import Replay
from tests.doubles.until import until


class Source:
    """A body whose reads may be cancelled: it waits where there is None, until `more` is called."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.chunks = list(chunks)
        self.gate = asyncio.Event()
        self.reads = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> bytes:
        if not self.chunks:
            raise StopAsyncIteration
        if self.chunks[0] is None:
            await self.gate.wait()
            self.chunks.pop(0)
        self.reads += 1
        chunk = self.chunks.pop(0)
        assert chunk is not None
        return chunk


async def whole(replay: Replay) -> bytes:
    return b"".join([chunk async for chunk in replay.attempt()])


async def part(replay: Replay, count: int) -> bytes:
    attempt = replay.attempt()
    return b"".join([await anext(attempt) for _ in range(count)])


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=8), st.lists(st.integers(0, 8), max_size=4))
def test_every_attempt_has_the_whole_body_whatever_the_earlier_ones_read(
    chunks: list[bytes], reads: Sequence[int]
) -> None:
    async def scenario() -> None:
        source = Source(*chunks)
        replay = Replay(source, 1000)
        for count in reads:
            assert await part(replay, min(count, len(chunks))) == b"".join(chunks[:count])
        assert await whole(replay) == await whole(replay) == b"".join(chunks)
        assert replay.possible
        assert source.reads == len(chunks)

    asyncio.run(scenario())


async def test_a_body_over_the_limit_passes_but_is_not_kept() -> None:
    replay = Replay(Source(b"1234", b"5678", b"9"), 7)
    assert await part(replay, 1) == b"1234"
    assert replay.possible
    assert await whole(replay) == b"123456789"
    assert not replay.possible
    assert replay._chunks == []


async def test_a_body_of_just_the_limit_is_kept() -> None:
    replay = Replay(Source(b"1234", b"567"), 7)
    assert await whole(replay) == await whole(replay) == b"1234567"
    assert replay.possible


async def test_a_read_that_was_cancelled_loses_nothing() -> None:
    source = Source(b"a", None, b"b", b"c")
    replay = Replay(source, 100)
    first = asyncio.create_task(whole(replay))
    await until(lambda: source.reads >= 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert replay.possible
    source.gate.set()
    assert await whole(replay) == b"abc"


async def test_a_generator_whose_read_was_cancelled_is_not_taken_for_a_whole_body() -> None:
    reading = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        reading.set()
        await asyncio.Event().wait()
        yield b"b"

    replay = Replay(source(), 100)
    first = asyncio.create_task(whole(replay))
    await reading.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not replay.possible


async def test_a_body_that_failed_is_not_replayed() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise ClientDisconnected()

    replay = Replay(source(), 100)
    with pytest.raises(ClientDisconnected):
        await whole(replay)
    assert not replay.possible
