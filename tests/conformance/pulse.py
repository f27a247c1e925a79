"""A stream that is silent beside the one that is tested, to tell by its keepalives that an interval has passed."""

from __future__ import annotations

from typing import Self

from tests.conftest import Connect
from tests.doubles.stack import RunningStack
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head


async def silent_stream(conn: Conn) -> None:
    await conn.read_head()
    await conn.send(stream_head())
    await conn.wait_ended()


class Pulse:
    """A stream of the same proxy that is silent, so that it is sent a keepalive at every interval."""

    def __init__(self, proxy: RunningStack) -> None:
        (self._exchange,) = proxy.app.ledger.live.values()

    @classmethod
    async def start(cls, proxy: RunningStack, dial: Connect) -> Self:
        client = await dial(proxy.url)
        await client.request("/silent")
        await client.read_head()
        return cls(proxy)

    async def intervals(self, count: int = 3) -> None:
        """Wait for so many more keepalives: whatever was due on another stream before the last of them is done."""
        goal = self._exchange.keepalives + count
        await until(lambda: self._exchange.keepalives >= goal, "keepalives on the silent stream")
