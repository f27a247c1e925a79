"""One client's side of a stream that several may read: taken from when the client asks, or handed over as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from streamproxy.client.base import ChunkSource, Sink
from streamproxy.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class StoredBody(ChunkSource):
    """The bytes of a stream from one place on, for one client. Must be closed.

    Subclasses say what is `ready`, and whether there is something to look at (`stirred`); whoever hands the client
    something that is not taken by its sink calls `wake`.
    """

    __slots__ = ("_sink", "_waiter")

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def stirred(self) -> bool:
        """Whether a chunk is `ready`, or the body has ended or broken: there is nothing to wait for."""
        raise NotImplementedError

    def change(self) -> Awaitable[None]:
        waiter = self._waiter
        if waiter is None or waiter.done():
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            if self.stirred:
                waiter.set_result(None)
        return waiter

    def pipe(self, sink: Sink | None) -> bool:
        if sink is not None and self.stirred:
            return False
        self._sink = sink
        return True

    def wake(self) -> None:
        """There is something to look at."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def finish(self) -> None:
        """The stream has ended."""
        self._sink = None
        self.wake()

    def abandon(self) -> None:
        """The client has left; its exchange reads on to the end, and does not count as a client any more."""
        raise NotImplementedError

    def close(self) -> None:
        """The client reads no more. Safe to call twice."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class QueuedBody(StoredBody):
    """A body whose chunks wait in memory until they are asked for; ``held`` is how many bytes do."""

    __slots__ = ("_chunks", "held")

    def __init__(self) -> None:
        super().__init__()
        self._chunks: deque[bytes] = deque()
        self.held = 0

    def put(self, chunk: bytes, framed: bytes = b"") -> None:
        """Hand the client some bytes, and the same in HTTP/1.1's chunked framing where that is at hand."""
        sink = self._sink
        if sink is not None:
            if not sink(chunk, framed):
                self._sink = None
                self.wake()
            return
        self._chunks.append(chunk)
        self.held += len(chunk)
        self.wake()

    def take(self) -> bytes:
        """The chunk that has waited longest. There must be one."""
        chunk = self._chunks.popleft()
        self.held -= len(chunk)
        return chunk

    def drop(self) -> None:
        """Forget what waits."""
        self._chunks.clear()
        self.held = 0
