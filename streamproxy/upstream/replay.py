"""A request body that can be sent again: what was read is kept, up to a limit, while it streams.

Theory of operation. Each attempt has an iterator of its own: first over what earlier attempts have read, then over
the source. What it reads is kept until that would be more than the limit; then everything is let go, and no further
attempt is possible. An attempt that fails may leave its iterator in the middle of a read. The source must bear
that its ``__anext__`` is cancelled and called again, which an asynchronous generator does not: cancelled, it counts
as finished, and a request would be repeated with half its body. So a generator as a source is not replayable any
more once a read of it was cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from inspect import isasyncgen


class Replay:
    """Keeps at most ``limit`` bytes of ``source``."""

    __slots__ = ("_chunks", "_ended", "_held", "_limit", "_source", "possible")

    def __init__(self, source: AsyncIterator[bytes], limit: int) -> None:
        self._source = source
        self._limit = limit
        self._chunks: list[bytes] = []
        self._held = 0
        self._ended = False
        self.possible = True  # another attempt can be given the whole body

    def attempt(self) -> AsyncIterator[bytes]:
        """The body from its beginning; for one attempt at a time, and only while `possible`."""
        return _Attempt(self)

    async def _at(self, index: int) -> bytes:
        if index < len(self._chunks):
            return self._chunks[index]
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self._ended = True
            raise
        except Exception:
            self.possible = False
            raise
        except BaseException:
            self.possible = self.possible and not isasyncgen(self._source)
            raise
        if self.possible:
            self._held += len(chunk)
            if self._held <= self._limit:
                self._chunks.append(chunk)
            else:
                self.possible = False
                self._chunks.clear()
        return chunk


class _Attempt:
    __slots__ = ("_index", "_replay")

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._index = 0

    def __aiter__(self) -> _Attempt:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._replay._at(self._index)
        self._index += 1
        return chunk
