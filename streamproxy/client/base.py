"""The interface between the forwarder and a client: the part of httpx's interface that is needed.

A client is any object with a method ``stream()`` that returns an asynchronous context manager of a response with
``status_code``, ``headers`` and ``aiter_raw()``. The forwarder calls it like this::

    async with client.stream(method, url, headers=headers, content=content, extensions=extensions) as response:
        response.status_code
        async for chunk in response.aiter_raw(): ...

``url`` is the endpoint's base URL. ``headers`` are (name, value) pairs of bytes, to be sent unchanged and in order.
They include ``Host``, and the client adds no others. ``content`` is None (no body) or an asynchronous iterator of
bytes; the body is chunked unless the headers contain ``Content-Length``. ``extensions`` are those of httpx, and some of
our own that a client may ignore:

- ``target``: bytes, the request target to send unchanged;
- ``timeout``: ``{"connect": seconds or None, "pool": seconds or None, "read": None, "write": None}``;
- ``progress``: called with ``"connect"`` when a new connection is being made, ``"request"`` when the head was sent and
  a body follows, ``"head"`` when the whole request was sent;
- ``informational``: called with the status and fields of each 1xx response except 100 and 101;
- ``buffer``: the maximum bytes of the response to hold for a slow reader, instead of the client's own limit;
- ``upgrade``: True if 101 (Switching Protocols) is a final response, whose connection is then `detach`-ed.

Leaving the ``async with`` early, by an exception or a cancellation, closes the connection. Leaving it after the last
chunk keeps the connection for the next request. Errors are those of `streamproxy.errors`;
`streamproxy.client.translate` translates the errors of foreign clients.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from streamproxy.subclassing import mypyc_attr
from streamproxy.wire.headers import Headers
from streamproxy.wire.response_fields import ResponseFields

# Takes a chunk in the callback of the read, and the same chunk in HTTP/1.1 framing if the read was exactly that (else
# empty). Returns whether it accepts another; it has accepted this one in any case.
Sink = Callable[[bytes, bytes], bool]


@mypyc_attr(allow_interpreted_subclasses=True)
class ChunkSource:
    """The body of a response: to be pulled, and pushed if the source supports it.

    Pulling suffices on its own: take what is `ready`. If nothing is, either the body has `ended`, or `change` must be
    awaited before trying again. A cancelled wait loses nothing.

    Pushing avoids the wait: after `pipe`, each chunk is passed to a sink in the callback of the read. Anything other
    than a chunk (the end, an error, a sink that accepts no more) ends the push and wakes `change`.
    """

    __slots__ = ()

    @property
    def ended(self) -> bool:
        """Whether the body has ended, if nothing is `ready`."""
        raise NotImplementedError

    @property
    def trailers(self) -> Headers:
        """The trailer fields after the body, once it has ended: lower-case names, unfiltered."""
        return []

    def ready(self) -> bytes | None:
        """Returns the next chunk, or None if none is available. Raises an ExchangeError if the body is incomplete."""
        raise NotImplementedError

    def rest(self) -> bytes:
        """Returns all that is `ready`, as one piece; empty if nothing is. Raises as `ready`."""
        body = self.ready() or b""
        while (chunk := self.ready()) is not None:
            body += chunk
        return body

    def change(self) -> Awaitable[None]:
        """Returns what to await before trying again, if nothing is `ready` and the body has not `ended`."""
        raise NotImplementedError

    async def read(self) -> bytes | None:
        """Returns the next chunk, or None at the end. Raises as `ready`."""
        while True:
            chunk = self.ready()
            if chunk is not None or self.ended:
                return chunk
            await self.change()

    def pipe(self, sink: Sink | None) -> bool:
        """Passes chunks to ``sink`` from now on; None stops it. Returns False if this source can only be pulled.

        May be called only while nothing is `ready`. The sink must not raise.
        """
        return False

    def release(self) -> bool:
        """Lets go of a response whose body has ended, in place of its context manager's exit.

        Returns False if that might wait: then nothing has happened, and the context manager is to be left.
        """
        return False


class IteratorSource(ChunkSource):
    """Wraps an asynchronous iterator of bytes as a source that can only be pulled."""

    __slots__ = ("_chunk", "_chunks", "_ended")

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk: bytes | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def ready(self) -> bytes | None:
        chunk, self._chunk = self._chunk, None
        return chunk

    async def change(self) -> None:
        self._chunk = await anext(self._chunks, None)
        self._ended = self._chunk is None

    async def aclose(self) -> None:
        """Closes a generator. Otherwise an unfinished one would be closed later by the garbage collector."""
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()


class Response(Protocol):
    """An upstream response whose head was read."""

    @property
    def status_code(self) -> int: ...

    @property
    def reason(self) -> bytes:
        """The reason phrase; empty if it is the standard one or missing."""
        ...

    @property
    def http_version(self) -> str:
        """The HTTP version of the response head: "1.0", "1.1" or "2"."""
        ...

    @property
    def raw(self) -> Headers:
        """The fields in the order of the wire, with lower-case names and duplicates apart."""
        ...

    def fields(self) -> ResponseFields:
        """Returns the fields to pass on, which the caller may change."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the whole body arrived with the head, so that reading it does not wait; False if unknown."""
        ...

    @property
    def source(self) -> ChunkSource:
        """The body without transfer coding and with its content coding."""
        ...


class Client(Protocol):
    """Sends requests upstream."""

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        content: AsyncIterator[bytes] | None,
        extensions: Mapping[str, Any],
    ) -> AbstractAsyncContextManager[Response]: ...

    async def aclose(self) -> None: ...
