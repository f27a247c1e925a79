"""When what is new in a stream is copied to Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamproxy.store import redis_copy
from streamproxy.store.base import StoreSettings, StreamHead
from streamproxy.store.memory import MemoryStore
from streamproxy.store.redis_copy import Copies, RedisStream
from streamproxy.store.redis_link import Done, Link
from streamproxy.store.redis_protocol import Word
from tests.doubles.until import until
from tests.unit.store.streams import OWNER, Stopped, event

HOUR = 3600.0


class AcceptingLink(Link):
    """A Redis that accepts everything at once. ``added`` are the bytes of each entry."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.up = True
        self.added: list[Word] = []
        self.received = asyncio.Event()

    def send(self, *command: Word, done: Done | None = None) -> None:
        if command[0] == "XADD" and command[3] == "b":
            self.added.append(command[4])
            self.received.set()
        if done is not None:
            asyncio.get_running_loop().call_soon(done, b"OK")


def begin(copies: Copies) -> RedisStream:
    head = StreamHead(OWNER, b"text/event-stream", "sse")
    stream = RedisStream(MemoryStore(StoreSettings()), copies, head, Stopped())
    copies.begin(stream)
    return stream


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_came_between_two_rounds_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_copy, "FLUSH", HOUR)
    link = AcceptingLink()
    copies = Copies(link, "me")
    stream = begin(copies)
    for number in range(40):
        stream.append(event(number))
    assert link.added == []
    copies.flush()
    assert link.added == [b"".join(map(event, range(40)))]


async def test_a_stream_that_another_process_reads_is_copied_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_copy, "FLUSH", HOUR)
    link = AcceptingLink()
    copies = Copies(link, "me")
    alone, read = begin(copies), begin(copies)
    alone.append(event(1))
    read.read_elsewhere(b"other", now() + HOUR)
    read.append(event(2))  # brings the round forward that the other stream waits for
    await asyncio.wait_for(link.received.wait(), 10)
    assert link.added == [event(1), event(2)]
    read.left_elsewhere(b"other")
    await asyncio.sleep(0)
    link.received.clear()
    read.append(event(3))
    assert copies._due > now() + HOUR / 2
    copies.flush()
    assert link.added[2:] == [event(3)]


async def test_the_end_of_a_stream_follows_its_last_bytes() -> None:
    link = AcceptingLink()
    sent: list[tuple[Any, ...]] = []
    send = link.send

    def record(*command: Word, done: Done | None = None) -> None:
        sent.append(command)
        send(*command, done=done)

    link.send = record  # type: ignore[method-assign]
    copies = Copies(link, "me")
    stream = begin(copies)
    stream.append(b"data: unfinis")
    stream.end(None)
    copies.flush()
    await until(lambda: not copies.live, "the stream to be copied")
    entries = [command[2:] for command in sent if command[0] == "XADD"]
    assert entries == [("1-0", "b", b"data: unfinis", "n", 0), ("1-13", "n", 0, "e", b"complete", "u", 1)]
