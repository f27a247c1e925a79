"""What probes and readings of load have in common: a task for each endpoint, which asks it again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from streamproxy.client.base import Response
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.wire.headers import Headers

GRACE: Final = 0.5  # seconds for a request that is under way when all tasks are stopped


class EndpointWatch:
    """Runs a task for each endpoint passed to `watch`. Subclasses define what it does.

    ``kind`` names the tasks, ``host`` is the value of Host, or None for the endpoint's own authority, and ``uniform``
    returns random numbers in [0, 1).
    """

    def __init__(self, kind: str, host: bytes | None, uniform: Callable[[], float]) -> None:
        self._kind = kind
        self._host = host
        self._uniform = uniform
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()

    def watch(self, endpoint: Endpoint) -> None:
        """Starts an endpoint's task."""
        if endpoint not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(endpoint), name=f"{self._kind} {endpoint.url}")
            self._tasks[endpoint] = task

    def drop(self, endpoint: Endpoint) -> None:
        """Stops an endpoint's task."""
        if (task := self._tasks.pop(endpoint, None)) is not None:
            task.cancel()

    async def aclose(self) -> None:
        """Stops all tasks. A request that is under way has a moment to end.

        Clients such as httpx may lose a connection if they are cancelled while they open it.
        """
        self._closing.set()
        tasks = list(self._tasks.values())
        self._tasks.clear()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pause(self, seconds: float) -> None:
        """Waits between two requests. Does not return once the tasks are being stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        if self._closing.is_set():
            raise asyncio.CancelledError

    async def _run(self, endpoint: Endpoint) -> None:
        raise NotImplementedError

    def _get(
        self, endpoint: Endpoint, path: str, fields: Headers, limit: float
    ) -> AbstractAsyncContextManager[Response]:
        """A GET over the endpoint's own client, each part of which may take ``limit`` seconds."""
        extensions = {
            "target": path.encode(),
            # The pool's own wait is shorter, so its error is reported and not the caller's timeout.
            "timeout": {"connect": limit, "pool": limit * 0.9, "read": limit, "write": limit},
            "progress": _ignore,
        }
        headers: Headers = [(b"host", self._host or endpoint.authority), *fields]
        return endpoint.client.stream("GET", endpoint.url, headers=headers, content=None, extensions=extensions)


def _ignore(phase: str) -> None:
    pass
