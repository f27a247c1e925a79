"""Every test of the protocol on sockets runs on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from tests.doubles.leaks import LeakCheck
from tests.unit.server.harness import Serving, serving

Start = Callable[..., Awaitable[Serving]]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def nameless_pairs() -> set[str]:
    """The inodes of nameless pairs of unix sockets, of which uvloop makes one for signals each time it is run."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            link = os.readlink(f"/proc/self/fd/{number}")
            if link.startswith("socket:["):
                with socket.socket(fileno=os.dup(int(number))) as one:
                    if one.family == socket.AF_UNIX and not one.getsockname() and not one.getpeername():
                        found.add(link[8:-1])
    return found


class LoopLeakCheck(LeakCheck):
    """Does not count the loop's own sockets."""

    def left(self) -> list[str]:
        self._sockets |= nameless_pairs()
        return super().left()


@pytest.fixture
async def leaks() -> AsyncIterator[LeakCheck]:
    check = LoopLeakCheck()
    yield check
    await check.verify()


@pytest.fixture(autouse=True)
def quiet_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The event loop has nothing to complain of: no exception in a callback, nothing never retrieved."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"] == []


@pytest.fixture
async def start(leaks: LeakCheck) -> AsyncIterator[Start]:
    """`server = await start(app, head_timeout=0.05)`: the protocol on a real socket, with these limits."""
    async with AsyncExitStack() as stack:

        async def one(app: Any, **options: Any) -> Serving:
            server = await stack.enter_async_context(serving(app, **options))
            leaks.gauge("connections", lambda: server.state.connections)
            leaks.gauge("tasks", lambda: server.state.tasks)
            return server

        yield one
