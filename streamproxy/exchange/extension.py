"""The ASGI extension by which a server tells the proxy what plain ASGI has no word for.

``scope["extensions"]["streamproxy.connection"]`` is a `DownstreamConnection`. Our own HTTP/1.1 protocol offers it;
on any other server the proxy does without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from streamproxy.errors import BadRequest

CONNECTION = "streamproxy.connection"


class Cancellable(Protocol):
    """What is needed of an asyncio task to interrupt what it does."""

    def cancel(self) -> bool:
        """Ask it to end."""
        ...

    def uncancel(self) -> int:
        """Take one such request back; gives how many are left."""
        ...


class DownstreamConnection(Protocol):
    """A client's connection, for the time of one exchange."""

    target: bytes  # the request target as it was sent
    on_disconnect: Callable[[], None] | None  # called once, at the moment the client leaves
    fault: BadRequest | None  # why the request ended, when it has and the client has not left; the server has answered

    @property
    def disconnected(self) -> bool:
        """Whether the client has left already."""
        ...

    @property
    def task(self) -> Cancellable:
        """The task that runs the application on this exchange; only while it does."""
        ...

    def send(self, message: Any) -> Awaitable[None]:
        """ASGI's send: for who is to know whether the one that came with the scope is it, or something around it."""
        ...

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False) -> None:
        """Send the head, as by ``send``. ``whole`` says that the body follows at once, with no wait for anything."""
        ...

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Send some of the body, as by ``send``; gives what to wait for, or None when there is nothing."""
        ...

    def receive(self) -> Awaitable[Any]:
        """ASGI's receive, as ``send`` is ASGI's send."""
        ...

    def take_body(self) -> bytes | None:
        """What is left of the request's body, if all of it has come; then ``receive`` gives no more of it."""
        ...

    def set_write_limit(self, high: int) -> None:
        """Let at most about ``high`` bytes wait for the client before a send waits too."""
        ...
