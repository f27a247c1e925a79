"""The line between a process that drains and the one that has taken over: what is seen and done through it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.access_log import record
from streamproxy.process import predecessor
from streamproxy.process.handover import decode, encode
from streamproxy.process.predecessor import TakenOver
from streamproxy.process.successor import Successor
from streamproxy.store.base import StopResult
from tests.doubles.until import until
from tests.unit.admin.proxy import SeenProxy

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Keeper(SeenProxy):
    """It keeps one resumable stream in memory."""

    async def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        return "stopped" if (stream, owner) == ("kept", b"mine") else await super().stop_kept(stream, owner)


class Task:
    """The task of an exchange that is only told to end."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> bool:
        self.cancelled = True
        return True


@asynccontextmanager
async def line() -> AsyncIterator[tuple[Stream, Stream]]:
    ends = [await asyncio.open_unix_connection(sock=end, limit=1 << 20) for end in socket.socketpair()]
    try:
        yield ends[0], ends[1]
    finally:
        for _, writer in ends:
            writer.close()
            with suppress(OSError):  # the other end was closed first
                await writer.wait_closed()


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def following(end: Stream, new: SeenProxy) -> AsyncIterator[TakenOver]:
    """``new`` has taken over from who is at the other end."""
    before = new.predecessor = TakenOver(4711, *end, new)
    async with running(before.follow()):
        yield before


@asynccontextmanager
async def taken_over(old: SeenProxy, new: SeenProxy) -> AsyncIterator[TakenOver]:
    """``new`` has taken over from ``old``, which drains."""
    async with line() as (ours, theirs), following(ours, new) as before:
        successor = Successor(*theirs, old)
        async with running(successor.answer()):
            await successor.report()
            await until(lambda: before._answers, "the first report")
            yield before


def with_task(exchange: Exchange) -> Task:
    exchange.task = task = Task()
    return task


async def test_every_stream_is_seen_from_the_last_process_and_can_be_stopped_there() -> None:
    oldest, old, new = Keeper(), SeenProxy(), SeenProxy()
    first = with_task(oldest.stream("first", events=7, size=700))
    for number in range(250):  # more than one piece
        old.stream(f"id-{number}", events=number)
    task, untouched = with_task(old.ledger.live["id-3"]), with_task(new.begin("id-3"))
    async with taken_over(oldest, old), taken_over(old, new):
        await new.refresh(streams=True)
        now = time.monotonic()
        assert [record(seen, now, live=True) for seen in new.drained.values()] == [
            record(seen, now, live=True) for seen in (oldest.ledger.live["first"], *old.ledger.live.values())
        ]
        (renamed,) = (id for id, seen in new.drained.items() if seen.request_id == "id-3")
        assert renamed != "id-3"
        old.ledger.live["id-4"].events = 1000
        old.ledger.close(old.ledger.live["id-5"])
        await new.refresh(streams=True)
        assert (renamed in new.drained, "id-5" in new.drained) == (True, False)
        assert new.drained["id-4"].events == 1000
        for id in (renamed, "first"):
            assert new.stop(id)
        await until(lambda: task.cancelled and first.cancelled, "the streams to be stopped")
        assert not untouched.cancelled
        results = [await new.stop_kept(*key) for key in (("kept", b"mine"), ("kept", b"x"), ("other", b"mine"))]
        assert results == ["stopped", "unknown", "unknown"]


async def test_whoever_reads_the_numbers_sees_what_the_other_process_has_counted_by_then() -> None:
    """Its admin listener may answer somebody for the last time after it has sent its numbers."""
    oldest, old, new = SeenProxy(), SeenProxy(), SeenProxy()
    async with taken_over(oldest, old), taken_over(old, new) as before:
        for count in (2, 4):
            for proxy in (oldest, old):
                proxy.ledger.close(proxy.stream(f"id-{count}"))
            await new.refresh(streams=False)
            assert sum(new.metrics.finished().requests.values()) == count
        assert (new.drained, before._asked) == ({}, {})


async def test_nothing_is_asked_of_an_earlier_version() -> None:
    new = SeenProxy()
    async with line() as (ours, (reader, writer)):
        before = new.predecessor = TakenOver(4711, *ours, new)
        writer.write(encode(totals={"requests": [["chat", "GET", 200, 3]]}))
        assert await before.confirmed(5.0)
        assert new.metrics.finished().requests == {("chat", "GET", 200): 3}
        await new.refresh(streams=True)
        assert await new.stop_kept("kept", b"mine") == "unknown"
        before._writer.close()
        assert await reader.read() == encode(serving=True)


async def test_one_that_hangs_keeps_nobody_and_its_late_answer_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(predecessor, "PATIENCE", 0.01)
    old, new = SeenProxy(), SeenProxy()
    old.stream("one")
    async with line() as (ours, theirs), following(ours, new) as before:
        successor = Successor(*theirs, old)
        await successor.report()
        await until(lambda: before._answers, "the first report")
        with caplog.at_level(logging.WARNING):
            await new.refresh(streams=False)
            for _ in range(3):
                await new.refresh(streams=True)
            async with asyncio.timeout(0):
                await new.refresh(streams=False, predecessor=False)
            assert await new.stop_kept("kept", b"mine") == "unknown"
        assert [entry.getMessage() for entry in caplog.records] == [
            "process 4711, which was taken over, does not answer; its streams may be others"
        ]
        # One question for the streams, whoever asks; the others are given up.
        await until(lambda: set(before._asked) == {2}, "what is still asked")
        async with running(successor.answer()):
            await until(lambda: "one" in new.drained, "the late answer")


@pytest.mark.parametrize(
    "rows",
    [
        [{}, 7, None, ["id"]],
        [{"id": "a", "started_at": "x"}, {"id": "b", "started_at": 1.0, "usage": 3}],
        [{"id": "a", "started_at": 1.0, "path": ["x"]}],
    ],
)
async def test_what_makes_no_sense_is_left_out(rows: list[Any]) -> None:
    old, new = SeenProxy(), SeenProxy()
    async with line() as (ours, (reader, writer)), following(ours, new) as before:
        await Successor(reader, writer, old).report()
        await until(lambda: before._answers, "the first report")
        asking = asyncio.create_task(new.refresh(streams=True))
        number = decode(await reader.readline())["ask"]
        good = {"id": "good", "started_at": 5.0, "later": [1]}
        for message in ({"answer": number, "streams": [*rows, good], "more": False}, {"later": 1}, {"answer": [1]}):
            writer.write(encode(**message))
        await asking
        assert list(new.drained) == ["good"]


async def test_the_streams_of_a_process_that_has_ended_are_gone_and_its_counts_stay() -> None:
    old, new = SeenProxy(), SeenProxy()
    old.ledger.close(old.stream("ended"))
    old.stream("one")
    async with line() as (ours, theirs), following(ours, new) as before:
        successor = Successor(*theirs, old)
        await successor.report()
        await until(lambda: before._answers, "the first report")
        asking = asyncio.create_task(new.refresh(streams=True))
        await successor.aclose()  # without an answer
        await asking
        await until(lambda: not before._answers, "the end")
        assert not new.drained
        assert await new.stop_kept("kept", b"mine") == "unknown"
        assert sum(new.metrics.finished().requests.values()) == 1
