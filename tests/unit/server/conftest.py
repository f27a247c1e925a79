"""Every test of the protocol on sockets runs on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
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
