"""What the responses of our own clients have in common: the shape of httpx, on top of a `ChunkSource`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from streamproxy.client.base import ChunkSource
from streamproxy.wire.headers import Headers
from streamproxy.wire.response_fields import ResponseFields


class ResponseStream(ChunkSource):
    """A response that is its own headers, its own body and the iterator of it.

    It is everything at once because it is created for each request, and one more object has a cost.
    """

    __slots__ = ("complete", "http_version", "raw", "reason", "status_code")

    status_code: int
    reason: bytes
    http_version: str
    raw: Headers
    complete: bool

    @property
    def headers(self) -> Self:
        """An object whose ``raw`` contains the fields, in the order of the wire, with lower-case names."""
        return self

    def fields(self) -> ResponseFields:
        """Returns the fields to pass on, which the caller may change."""
        return ResponseFields().prepare(self.raw)

    @property
    def source(self) -> ChunkSource:
        """The body, read without a coroutine for each chunk."""
        return self

    def aiter_raw(self) -> Self:
        """Yields the body as it arrives, one chunk for each read if the reader keeps up.

        Raises ResponseIncomplete if it is incomplete, and any exception of the request's ``content``. A cancelled wait
        loses nothing. A second iterator continues where the first one stopped.
        """
        return self

    def __aiter__(self) -> Self:
        return self

    # A coroutine, because an asynchronous generator costs the same and must be closed.
    async def __anext__(self) -> bytes:
        while True:
            chunk = self.ready()
            if chunk is not None:
                return chunk
            if self.ended:
                raise StopAsyncIteration
            await self.change()


def timeout_of(extensions: Mapping[str, Any], name: str) -> float | None:
    """Returns one of the time-outs of a request's extensions, in seconds; None for none."""
    timeouts = extensions.get("timeout")
    return timeouts.get(name) if timeouts else None
