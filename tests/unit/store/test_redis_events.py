"""Events of Redis, without one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, cast

import pytest
from redis.asyncio.connection import AbstractConnection

from streamproxy.store.redis_events import PubSubEvents
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until


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


class Sparing:
    """A server that leaves each connection's PING unanswered until it is told to, and takes down what it is sent."""

    def __init__(self) -> None:
        self.pong = asyncio.Event()
        self.commands: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                count = int((await reader.readuntil(b"\r\n"))[1:])
                words = list[bytes]()
                for _ in range(count):
                    length = int((await reader.readuntil(b"\r\n"))[1:])
                    words.append((await reader.readexactly(length + 2))[:-2])
                self.commands.append(words)
                if words[0] == b"PING":
                    await self.pong.wait()
                    writer.write(b"+PONG\r\n")
                elif words[0] == b"SUBSCRIBE":
                    writer.write(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(words[1]), words[1]))
                else:
                    writer.write(b"+OK\r\n")
        writer.close()


async def test_a_lost_subscription_is_reported_with_its_redis_and_without_the_password(
    leaks: LeakCheck, caplog: pytest.LogCaptureFixture
) -> None:
    redis = Sparing()
    redis.pong.set()
    async with await asyncio.start_server(redis.serve, "127.0.0.1", 0) as server:
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        events = PubSubEvents(f"redis://:hunter2@{where}", lambda: None)
        with caplog.at_level(logging.INFO, "streamproxy"):
            events.start()
            await until(lambda: events.connected)
            assert caplog.messages == []
            redis.writers[-1].close()
            await until(lambda: len(caplog.messages) == 2)
        assert caplog.messages[0].startswith(f"the subscription to Redis at redis://{where} is lost: ")
        assert caplog.messages[1] == f"the subscription to Redis at redis://{where} is back"
        assert "hunter2" not in caplog.text
        await events.aclose()


async def test_a_client_that_comes_while_the_connection_is_made_is_subscribed_too(leaks: LeakCheck) -> None:
    redis = Sparing()
    async with await asyncio.start_server(redis.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        events = PubSubEvents(f"redis://127.0.0.1:{port}/0", lambda: None)
        events.start()
        redis.pong.set()
        await until(lambda: events.connected)
        redis.pong.clear()
        redis.writers[-1].close()
        await until(lambda: redis.commands.count([b"PING"]) == 2)
        body = await events.subscribe(b"late", 1000)
        redis.pong.set()
        await until(lambda: [b"SUBSCRIBE", b"late"] in redis.commands)
        assert await events.subscribe(b"late", 1000) is not body  # and it is confirmed
        await events.aclose()
