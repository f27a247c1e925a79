"""The seam between the forwarder and whatever speaks to the upstream: httpx's shape, and nothing more.

A client is anything with ``stream()`` that gives an asynchronous context manager of a response with
``status_code``, ``headers`` and ``aiter_raw()``. The forwarder calls it like this::

    async with client.stream(method, url, headers=headers, content=content, extensions=extensions) as response:
        response.status_code
        async for chunk in response.aiter_raw(): ...

``url`` is the endpoint's base URL. ``headers`` are (name, value) pairs of bytes to be sent as they are, in order,
``Host`` among them, and no others. ``content`` is None (no body) or an asynchronous iterator of bytes; the body is
chunked unless the headers carry ``Content-Length``. ``extensions`` are httpx's, and some of our own that a client may
ignore:

- ``target``: bytes, the request target to send as it is;
- ``timeout``: ``{"connect": seconds or None, "pool": seconds or None, "read": None, "write": None}``;
- ``progress``: called with ``"connect"`` when a new connection is being made, ``"request"`` when the head has been
  sent and a body follows, ``"head"`` when the whole request has been sent;
- ``informational``: called with the status and the fields of each 1xx response but 100 and 101;
- ``buffer``: the most bytes of the response to hold for a slow reader, instead of the client's own limit;
- ``upgrade``: True where 101 (Switching Protocols) is a final response, whose connection is then `detach`-ed.

Leaving the ``async with`` early, by an exception or a cancellation, closes the connection; leaving it after the last
chunk keeps it for the next request. Errors are `streamproxy.errors`; a foreign client's are translated by
`streamproxy.client.translate`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from streamproxy.wire.headers import Headers

# Takes a chunk in the read itself, and the same chunk in HTTP/1.1 framing where the read was exactly that (else
# empty). Returns whether it takes another; it has taken this one in any case.
Sink = Callable[[bytes, bytes], bool]


class ChunkSource:
    """The body of a response as it comes: pull, and push where the source can.

    Pull is complete by itself: take what is `ready`; when that is nothing, the body has `ended`, or `change` is to be
    awaited before the next look. A cancelled wait loses nothing.

    Push spares the wait: after `pipe`, each chunk is handed to a sink in the callback of the read that brought it. The
    first thing that is no chunk (the end, a fault, a sink that takes no more) ends the push and wakes `change`.
    """

    __slots__ = ()

    @property
    def ended(self) -> bool:
        """Whether there will be no more, when nothing is `ready`."""
        raise NotImplementedError

    @property
    def trailers(self) -> Headers:
        """The trailer fields that came behind the body, once it has ended: lower-case names, unfiltered."""
        return []

    def ready(self) -> bytes | None:
        """The next chunk, None while there is none. Raises an ExchangeError when the body ends short."""
        raise NotImplementedError

    def change(self) -> Awaitable[None]:
        """What to await before looking again, when nothing is `ready` and the body has not `ended`."""
        raise NotImplementedError

    async def read(self) -> bytes | None:
        """The next chunk, None at the end. Raises as `ready`."""
        while True:
            chunk = self.ready()
            if chunk is not None or self.ended:
                return chunk
            await self.change()

    def pipe(self, sink: Sink | None) -> bool:
        """Hand chunks to ``sink`` from now on; None takes it back. Returns whether this source does; if not, pull.

        Only while nothing is `ready`. The sink must not raise.
        """
        return False


class IteratorSource(ChunkSource):
    """Any asynchronous iterator of bytes as a source; it can't push."""

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
        """Close a generator: one that is left in the middle would be closed by the garbage collector, later."""
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()


class RawHeaders(Protocol):
    """What `Response.headers` must offer: the pairs as they came over the wire, their names in lower case."""

    @property
    def raw(self) -> Headers: ...


class Response(Protocol):
    """One upstream response, whose head has been read."""

    @property
    def status_code(self) -> int: ...

    @property
    def reason(self) -> bytes:
        """The reason phrase, empty where it is the status's own or there is none."""
        ...

    @property
    def http_version(self) -> str:
        """The version of HTTP that the head was sent in: "1.0", "1.1" or "2"."""
        ...

    @property
    def headers(self) -> RawHeaders: ...

    @property
    def complete(self) -> bool:
        """Whether all of the body has come with the head, so that reading it waits for nothing; False if unknown."""
        ...

    @property
    def source(self) -> ChunkSource:
        """The body as it comes, transfer coding removed and content coding kept."""
        ...


class Client(Protocol):
    """What sends a request upstream."""

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
