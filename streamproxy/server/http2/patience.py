"""How long a connection over HTTP/2 is waited for.

One timer serves three ends: what has begun to come (the preface, a frame, a header block) has the time of a head to
come whole; a connection that is busy with no stream may be idle for a while; and one that has ended gives its client a
moment to hear of it. What has begun to come goes before idleness, and a busy connection that is between two frames has
no end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamproxy.server.flow import NEVER, Deadline
from streamproxy.wire.http2.frames import NOTHING


class Patience:
    """The timer of one connection. ``slow`` is whether it watches something that has begun to come."""

    __slots__ = ("_deadline", "_head_timeout", "_idle_until", "_loop", "_since", "slow")

    def __init__(self, loop: asyncio.AbstractEventLoop, head_timeout: float, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._head_timeout = head_timeout
        self._deadline = Deadline(loop, expired)
        self._idle_until = 0.0
        self._since = NOTHING  # when that began to come which is not whole
        self.slow = False

    def idle(self, seconds: float) -> None:
        """The connection is busy with nothing, and may stay so for these seconds."""
        self._idle_until = self._loop.time() + seconds
        if not self.slow:
            self._deadline.set(seconds)

    def watch(self, since: float, busy: bool, now: float) -> None:
        """After a read: ``since`` is when that began to come which is not whole, or NOTHING."""
        if since != self._since:
            self._since = since
            self.slow = since != NOTHING
            if self.slow:
                self._deadline.set(self._head_timeout)
                return
            self._deadline.at = NEVER
            if not busy:
                self._deadline.set(self._idle_until - now)
        elif busy and not self.slow:
            self._deadline.at = NEVER

    def linger(self, seconds: float) -> None:
        """The connection has ended: wait no longer than these seconds."""
        self._deadline.set(seconds)

    def close(self) -> None:
        """Stop the timer for good."""
        self._deadline.close()
