"""An ASGI extension through which a server provides what plain ASGI lacks.

``scope["extensions"]["streamproxy.connection"]`` is a `DownstreamConnection`. Our own servers provide it; the proxy
also works without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from streamproxy.errors import ExchangeError
from streamproxy.exchange.stream import ByteStream
from streamproxy.wire.headers import Headers, KnownFields, RequestFields

CONNECTION: Final = "streamproxy.connection"
# Extensions of ASGI.
EARLY_HINT: Final = "http.response.early_hint"
TRAILERS: Final = "http.response.trailers"


class Cancellable(Protocol):
    """The methods of an asyncio task that are needed to interrupt it."""

    def cancel(self) -> bool:
        """Requests cancellation."""
        ...

    def uncancel(self) -> int:
        """Withdraws one cancellation request; returns the number of remaining ones."""
        ...


class DownstreamConnection:
    """A client's connection during one exchange.

    ``target`` is the request target as sent, and ``has_body`` whether a body follows the head. ``on_disconnect`` is
    called once, when the client leaves. ``disconnected`` is whether it has left. ``fault`` is why the request ended if
    the client sent a malformed body instead of leaving; the server has then already answered. ``task`` runs the
    application for this exchange and is set only during it. ``wants_websocket`` is whether the request is a WebSocket
    handshake. ``known`` are the request's fields as they came, if the server remembers them from an equal head.

    The response consists of a head (`begin`), chunks (`write` or `push`) and an end: the last `write`, or `finish`.
    Every step raises ClientLeft, an OSError, after the client has left, RuntimeError if called out of order, and
    ValueError for an invalid status or field.
    """

    __slots__ = ("disconnected", "fault", "has_body", "known", "on_disconnect", "target", "task", "wants_websocket")

    __deletable__ = ("task",)

    target: bytes
    has_body: bool
    on_disconnect: Callable[[], None] | None
    fault: ExchangeError | None
    disconnected: bool
    task: asyncio.Task[None]
    wants_websocket: bool
    known: KnownFields | None

    # The request.

    async def receive(self) -> Any:
        """ASGI's receive from the scope. Comparing it shows whether middleware wraps it."""
        raise NotImplementedError

    def take_body(self) -> bytes | None:
        """Returns the rest of the request's body if all of it has arrived; ``receive`` then returns none of it."""
        raise NotImplementedError

    @property
    def request_trailers(self) -> Headers:
        """Returns the trailer fields of the request once its body has ended; none if the server drops them."""
        return []

    # The response.

    async def send(self, message: Any) -> None:
        """ASGI's send from the scope. Comparing it shows whether middleware wraps it."""
        raise NotImplementedError

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends a 1xx response before the head, except 100 and 101.

        Dropped if the client cannot accept it, or after the head.
        """
        raise NotImplementedError

    def begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False, reason: bytes = b""
    ) -> None:
        """Sends the head. ``whole`` means that the body follows without any wait, or `uncork` before one.

        ``reason`` is the reason phrase; empty for the standard one, and dropped if the protocol has none.
        """
        raise NotImplementedError

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Sends a part of the body, the last one if ``more`` is False.

        Returns an awaitable that may raise ClientLeft, or None if there is nothing to wait for.
        """
        raise NotImplementedError

    def push(self, chunk: bytes, framed: bytes) -> bool:
        """Sends one chunk of a body that continues.

        Returns False if too much data waits for the client; the caller then awaits `drained`.

        ``framed`` is the same chunk in HTTP/1.1's chunked framing, or empty. A chunked response writes it unchanged.
        """
        raise NotImplementedError

    def uncork(self) -> None:
        """Writes a head that waits for its body, with what was sent of it, now: the next part is not there yet."""

    def drained(self) -> Awaitable[None]:
        """Waits until the client accepts more data. Raises ClientLeft if it leaves meanwhile."""
        raise NotImplementedError

    @property
    def takes_trailers(self) -> bool:
        """Whether trailer fields would reach the client; before the head, whether they might."""
        raise NotImplementedError

    def finish(self, trailers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None] | None:
        """Ends the body with trailer fields, which are dropped if `takes_trailers` is False. Returns as `write`."""
        raise NotImplementedError

    def abort(self) -> None:
        """Aborts the response, so that it looks unfinished, and calls ``on_disconnect``."""
        raise NotImplementedError

    def set_write_limit(self, high: int) -> None:
        """Limits the data waiting for the client to about ``high`` bytes; beyond it, the next step waits."""
        raise NotImplementedError

    def upgrade(self, headers: Iterable[tuple[bytes, bytes]]) -> ByteStream:
        """Answers a WebSocket handshake with 101 and these fields; the stream then owns the connection.

        The fields must include those of the handshake (Upgrade, Connection, Sec-WebSocket-Accept). Raises RuntimeError
        after the head, and if the request is not a handshake.
        """
        raise NotImplementedError


def fields_of(scope: dict[str, Any]) -> RequestFields:
    """Returns what the proxy reads in a request's fields; of a head that comes again and again, they are read once."""
    extensions, headers = scope.get("extensions"), scope["headers"]
    connection: DownstreamConnection | None = extensions.get(CONNECTION) if extensions else None
    known = connection.known if connection is not None else None
    return RequestFields().prepare(headers) if known is None else known.read(headers)
