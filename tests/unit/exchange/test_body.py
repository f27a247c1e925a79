"""A request's body: whatever was peeked at, held or let go, each attempt has it from its beginning or is not made."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import BodyTooLarge, ClientDisconnected
from streamproxy.exchange.body import RequestBody
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import SharedTimer, TimeLimits, Timer
from tests.doubles.until import until


class Source:
    """ASGI's receive for these chunks. It waits where there is None, until ``gate`` is set."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.chunks = list(chunks)
        self.gate = asyncio.Event()
        self.reads = 0

    async def __call__(self) -> Any:
        if self.chunks and self.chunks[0] is None:
            await self.gate.wait()
            self.chunks.pop(0)
        self.reads += 1
        if not self.chunks:
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.request", "body": self.chunks.pop(0), "more_body": True}


def body_of(source: Any, limit: int | None = None) -> RequestBody:
    exchange, limits = Exchange("r", "r", "u", "POST", "/"), TimeLimits()
    return RequestBody(source, exchange, Timer(limits, exchange, SharedTimer(limits)), limit)


async def all_of(body: RequestBody) -> bytes:
    return b"".join([chunk async for chunk in body.attempt()])


async def part(body: RequestBody, count: int) -> bytes:
    """What an attempt has read after so many pieces, or at the end if there are not as many."""
    attempt = body.attempt()
    return b"".join([await anext(attempt, b"") for _ in range(count)])


CHUNKS = st.lists(st.binary(min_size=1, max_size=5), max_size=8)


@given(CHUNKS, st.lists(st.integers(0, 8), max_size=4), st.none() | st.integers(0, 50))
def test_every_attempt_has_the_whole_body_whatever_was_read_before(
    chunks: list[bytes], reads: Sequence[int], peek: int | None
) -> None:
    async def scenario() -> None:
        source, data = Source(*chunks), b"".join(chunks)
        body = body_of(source)
        body.hold(1000)
        if peek is not None:
            assert await body.peek(peek) == (data if len(data) <= peek else None)
        for count in reads:
            if body.whole() is None:
                begun = await part(body, min(count, len(chunks)))
                assert data.startswith(begun)  # held pieces are joined
                assert len(begun) >= len(b"".join(chunks[:count]))
        assert await all_of(body) == await all_of(body) == data
        assert body.repeatable
        assert body.whole() == data
        assert source.reads == len(chunks) + 1

    asyncio.run(scenario())


@given(CHUNKS, st.integers(0, 12), st.integers(0, 12))
def test_a_body_passes_whole_however_little_of_it_may_be_held(chunks: list[bytes], keep: int, peek: int) -> None:
    async def scenario() -> None:
        data = b"".join(chunks)
        body = body_of(Source(*chunks))
        body.hold(keep)
        await body.peek(peek)
        assert await all_of(body) == data
        assert body.repeatable == (len(data) <= keep)
        assert body.held <= keep

    asyncio.run(scenario())


async def test_a_body_that_came_whole_is_taken_at_once_and_forgotten() -> None:
    body = body_of(Source())
    body.came_whole(b"data")
    attempt = body.attempt()
    assert attempt.take_whole() == b"data"
    assert [chunk async for chunk in attempt] == []
    assert body.held == 0
    assert not body.repeatable


async def test_a_body_that_came_whole_is_kept_for_another_attempt_if_it_may_be() -> None:
    body = body_of(Source())
    body.came_whole(b"data")
    body.hold(4)
    assert body.attempt().take_whole() == b"data"
    assert await all_of(body) == b"data"
    assert body.repeatable
    body.release()
    assert body.held == 0


async def test_a_read_that_was_cancelled_loses_nothing() -> None:
    source = Source(b"a", None, b"b", b"c")
    body = body_of(source)
    body.hold(100)
    first = asyncio.create_task(all_of(body))
    await until(lambda: source.reads)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert body.repeatable
    source.gate.set()
    assert await all_of(body) == b"abc"


async def test_a_body_whose_client_left_is_not_repeated() -> None:
    messages = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    body = body_of(receive)
    body.hold(100)
    with pytest.raises(ClientDisconnected):
        await all_of(body)
    assert not body.repeatable


async def test_a_body_over_its_limit_is_refused_where_it_is_read() -> None:
    body = body_of(Source(b"1234", b"5678"), 7)
    with pytest.raises(BodyTooLarge):
        await body.peek(100)
    assert not body.repeatable


@pytest.mark.parametrize("reads", ["peek", "attempt", "both"])
async def test_tiny_pieces_that_are_held_cost_no_more_than_their_bytes(reads: str) -> None:
    data = b"".join(b"%05d" % number for number in range(20_000))
    body = body_of(Source(*(data[at : at + 5] for at in range(0, len(data), 5))))
    body.hold(len(data))
    if reads != "attempt":
        assert await body.peek(50_000) is None
        assert len(body._chunks) <= 5
    if reads != "peek":
        assert await all_of(body) == data
        assert len(body._chunks) <= 14
    assert await all_of(body) == data
    assert body.repeatable
