"""One client's side of a stream that several clients may read. Chunks are pulled by the client, or pushed to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from streamproxy.client.base import ChunkSource, Sink
from streamproxy.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class StoredBody(ChunkSource):
    """The bytes of a stream from one position on, for one client. Must be closed.

    Subclasses define `ready` and `stirred`. Code that adds a chunk which no sink accepts must call `wake`. While a
    chunk with ids of ours is pushed it is ``passing``, and ``whole`` is `IdWriter.whole`.
    """

    __slots__ = ("_sink", "_waiter", "passing", "whole")

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.passing: bytes | None = None
        self.whole = 0

    @property
    def stirred(self) -> bool:
        """Whether there is nothing to wait for: a chunk is `ready`, or the body has ended or failed."""
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
        """Wakes the task that waits for a `change`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def finish(self) -> None:
        """Records that the stream has ended."""
        self._sink = None
        self.wake()

    def abandon(self) -> None:
        """Records that the client has left. Its exchange reads to the end, but no longer counts as a client."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the reading. Safe to call twice."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class QueuedBody(StoredBody):
    """A body whose chunks wait in memory until they are taken; ``held`` is the number of bytes waiting."""

    __slots__ = ("_chunks", "held")

    def __init__(self) -> None:
        super().__init__()
        self._chunks: deque[bytes] = deque()
        self.held = 0

    def put(self, chunk: bytes, framed: bytes = b"") -> None:
        """Passes a chunk to the client. ``framed`` is the same in HTTP/1.1's chunked framing, if it is available."""
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
        """Removes and returns the oldest waiting chunk. There must be one."""
        chunk = self._chunks.popleft()
        self.held -= len(chunk)
        return chunk

    def drop(self) -> None:
        """Drops the waiting chunks."""
        self._chunks.clear()
        self.held = 0
