"""Every test here runs on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop

from streamproxy.client.native import NativeClient
from tests.doubles.leaks import LeakCheck
from tests.doubles.upstream import Upstream


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def socket_pairs() -> set[str]:
    """The inodes of nameless pairs of unix sockets: uvloop makes one for signals each time it is run."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            link = os.readlink(f"/proc/self/fd/{number}")
            if link.startswith("socket:["):
                with socket.socket(fileno=os.dup(int(number))) as sock:
                    if sock.family == socket.AF_UNIX and not sock.getsockname() and not sock.getpeername():
                        found.add(link[8:-1])
    return found


class LoopLeakCheck(LeakCheck):
    """Does not count the loop's own sockets."""

    def left(self) -> list[str]:
        self._sockets |= socket_pairs()
        return super().left()


@pytest.fixture
async def leaks() -> AsyncIterator[LeakCheck]:
    check = LoopLeakCheck()
    yield check
    await check.verify()


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
