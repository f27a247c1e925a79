"""The ASGI extension by which a server tells the proxy what plain ASGI has no word for.

``scope["extensions"]["streamproxy.connection"]`` is a `DownstreamConnection`. Our own servers offer it; on any other
the proxy does without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from streamproxy.errors import ExchangeError
from streamproxy.exchange.stream import ByteStream
from streamproxy.wire.headers import Headers

CONNECTION = "streamproxy.connection"


class Cancellable(Protocol):
    """What is needed of an asyncio task to interrupt what it does."""

    def cancel(self) -> bool:
        """Ask it to end."""
        ...

    def uncancel(self) -> int:
        """Take one such request back; returns how many are left."""
        ...


class DownstreamConnection:
    """A client's connection, for the time of one exchange.

    ``target`` is the request target as it was sent, ``has_body`` whether a body follows the head.
    ``on_disconnect`` is called once, at the moment the client leaves.
    ``disconnected`` says whether it has left, and ``fault`` why the request ended when the client has not left but
    sent a body that is malformed; the server has answered it then. ``task`` runs the application on this exchange, and
    is there only while it does. ``wants_websocket`` says whether the request is a WebSocket handshake.

    The response is a head (`begin`), chunks (`write` or `push`) and an end: the last `write`, or `finish`. Every step
    raises ClientLeft, an OSError, after the client left, RuntimeError when it is out of turn, and ValueError when a
    status or a field is not valid.
    """

    __slots__ = ("disconnected", "fault", "has_body", "on_disconnect", "target", "task", "wants_websocket")

    __deletable__ = ("task",)

    target: bytes
    has_body: bool
    on_disconnect: Callable[[], None] | None
    fault: ExchangeError | None
    disconnected: bool
    task: asyncio.Task[None]
    wants_websocket: bool

    # The request.

    async def receive(self) -> Any:
        """ASGI's receive, the one that came with the scope: to find out whether something is around it."""
        raise NotImplementedError

    def take_body(self) -> bytes | None:
        """What is left of the request's body, if all of it has come; then ``receive`` returns no more of it."""
        raise NotImplementedError

    @property
    def request_trailers(self) -> Headers:
        """The fields that came behind the request's body, once it has ended; none where they are dropped."""
        return []

    # The response.

    async def send(self, message: Any) -> None:
        """ASGI's send, the one that came with the scope: to find out whether something is around it."""
        raise NotImplementedError

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send a 1xx response before the head; never 100 or 101. Dropped where the client can't take it, or behind
        the head."""
        raise NotImplementedError

    def begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False, reason: bytes = b""
    ) -> None:
        """Send the head. ``whole`` says that the body follows at once, with no wait for anything.

        ``reason`` is the reason phrase, empty for the usual one; dropped where the protocol has none.
        """
        raise NotImplementedError

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Send some of the body, the last of it when there is no ``more``.

        Returns what to wait for, None for nothing. The wait raises ClientLeft too.
        """
        raise NotImplementedError

    def push(self, chunk: bytes, framed: bytes) -> bool:
        """Send one chunk of a body that goes on. Returns False when more waits for the client than may; the caller
        then awaits `drained`.

        ``framed`` is the same chunk in HTTP/1.1's chunked framing, or empty. Where the response is chunked it is
        written as it is.
        """
        raise NotImplementedError

    def drained(self) -> Awaitable[None]:
        """Wait until the client's side takes more. Raises ClientLeft when the client leaves meanwhile."""
        raise NotImplementedError

    @property
    def takes_trailers(self) -> bool:
        """Whether trailer fields would reach the client. Before the head: whether they may."""
        raise NotImplementedError

    def finish(self, trailers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None] | None:
        """End the body with trailer fields, which are dropped where `takes_trailers` is False. Returns as `write`."""
        raise NotImplementedError

    def abort(self) -> None:
        """Break the response off, so that it looks unfinished, and call ``on_disconnect``."""
        raise NotImplementedError

    def set_write_limit(self, high: int) -> None:
        """Let at most about ``high`` bytes wait for the client before the next step has to wait."""
        raise NotImplementedError

    def upgrade(self, headers: Iterable[tuple[bytes, bytes]]) -> ByteStream:
        """Answer a WebSocket handshake with 101 and these fields; from then on the connection is the stream's.

        The fields include those of the handshake (Upgrade, Connection, Sec-WebSocket-Accept). Raises RuntimeError
        behind the head, and where the request does not ask for it.
        """
        raise NotImplementedError
