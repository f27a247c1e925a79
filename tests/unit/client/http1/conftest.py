"""Every test here runs on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop

from streamproxy.client.http1 import NativeClient
from tests.doubles.leaks import LeakCheck
from tests.doubles.upstream import Upstream


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class MakeClient(Protocol):
    """Makes clients that the fixture closes."""

    def __call__(
        self, upstream: Upstream | str, *, tls: ssl.SSLContext | None = None, **options: Any
    ) -> NativeClient: ...


@pytest.fixture
async def native(leaks: LeakCheck) -> AsyncIterator[MakeClient]:
    """`client = native(upstream, max_connections=1)`; when the test is over nothing of it may be left."""
    clients: list[NativeClient] = []

    def make(upstream: Upstream | str, *, tls: ssl.SSLContext | None = None, **options: Any) -> NativeClient:
        url = upstream if isinstance(upstream, str) else upstream.url
        if isinstance(upstream, Upstream) and upstream.path is not None:
            options["socket"] = str(Path(upstream.path))
        client = NativeClient(url, ssl_context=tls, **options)
        leaks.gauge("places", lambda: client.active)
        leaks.gauge("idle connections", lambda: client.idle)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()
