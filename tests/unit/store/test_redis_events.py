"""Events of Redis, without one."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection

from streamproxy.store.redis_events import PubSubEvents


class Flood:
    """A connection on which so many messages have come already."""

    def __init__(self, messages: int) -> None:
        self.left = messages

    async def read_response(self) -> list[Any]:
        if not self.left:
            raise ConnectionError
        self.left -= 1
        return [b"message", b"news", b"x"]


async def test_messages_that_come_faster_than_they_are_handed_out_stop_nothing_else() -> None:
    events = PubSubEvents("redis://127.0.0.1:1/0", lambda: None)
    flood = Flood(100_000)
    reading = asyncio.create_task(events._subscription._read(cast("AbstractConnection", flood)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < flood.left < 100_000
    with pytest.raises(ConnectionError):
        await reading
