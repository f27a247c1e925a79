"""The demo's upstream on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn

from streamproxy.demo import DemoUpstream


@pytest.fixture
async def upstream_url() -> AsyncIterator[str]:
    """The upstream's base URL, under a stock uvicorn in the test's loop."""
    listener = socket.create_server(("127.0.0.1", 0))  # it listens before the server starts, so nobody has to wait
    config = uvicorn.Config(DemoUpstream(token_delay=0), lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server._serve(sockets=[listener]))  # serve() would take over the test's signals
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    await serving
    listener.close()
