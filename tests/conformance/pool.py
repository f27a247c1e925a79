"""Several scripted backends behind one upstream, and what tests ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.conftest import Connect
from tests.doubles.client import RawClient, fetch
from tests.doubles.stack import Config, RunningStack
from tests.doubles.upstream import Conn, Script, Upstream, response, stream_head


class Backend:
    """A scripted backend: its ``answer`` to requests and to probes may change while it runs.

    ``/stream`` is an endless stream of its name, of which ``beat`` sends one more event.
    """

    def __init__(self, name: str, start: Callable[[Script], Awaitable[Upstream]]) -> None:
        self.name = name
        self.status = "200 OK"
        self.health = "200 OK"
        self.streams: list[Conn] = []
        self.targets: list[bytes] = []
        self.upstream: Upstream
        self._start = start

    async def start(self) -> Backend:
        self.upstream = await self._start(self._script)
        return self

    @property
    def url(self) -> str:
        return self.upstream.url

    async def _script(self, conn: Conn) -> None:
        while True:
            head, _ = await conn.read_request()
            self.targets.append(head.target)
            if head.target == b"/health":
                await conn.send(response(status=self.health))
            elif head.target == b"/stream" and self.status == "200 OK":
                self.streams.append(conn)
                await conn.send(stream_head())
                await self._beat(conn)
                await conn.wait_ended()
            else:
                await conn.send(response(self.name.encode(), status=self.status))

    async def beat(self) -> None:
        """Send an event on every stream."""
        for conn in self.streams:
            await self._beat(conn)

    async def _beat(self, conn: Conn) -> None:
        await conn.send_chunk(b"data: %s\n\n" % self.name.encode())


def pool(*backends: Backend, **keys: Any) -> Config:
    """The section of an upstream of these endpoints."""
    return {"upstreams": {"pool": {"endpoints": [one.url for one in backends], **keys}}}


async def names(proxy: RunningStack, count: int, *headers: tuple[str, str]) -> list[str]:
    """The names of the backends that answered so many requests, one after the other."""
    return [(await fetch(proxy.url, headers=headers)).body.decode() for _ in range(count)]


@asynccontextmanager
async def streams(proxy: RunningStack, dial: Connect, count: int) -> AsyncIterator[list[tuple[RawClient, str]]]:
    """So many open streams, each with the name of its backend."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            client = await stack.enter_async_context(await dial(proxy.url))
            await client.request("/stream")
            await client.read_head()
            opened.append((client, (await client.read_body_until(b"\n\n"))[6:-2].decode()))
        yield opened


def up(proxy: RunningStack, backend: Backend) -> float:
    return proxy.metric("streamproxy_endpoint_up", upstream="pool", endpoint=backend.url)
