"""Whether a peer has left, without reading from it.

A transport that doesn't read never sees the end of what it is sent, so a client that leaves while backpressure holds
its upload would stay unnoticed. The kernel knows: poll() tells of a received FIN or RST whatever is still unread
(POLLRDHUP, Linux), on TCP and on unix sockets alike. A FIN behind bytes that no longer fit into the receive buffer has
not arrived, and nobody can see it before somebody reads.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

INTERVAL = 0.05  # seconds

_HALF_CLOSED: int = getattr(select, "POLLRDHUP", 0)


def has_left(fd: int, half_close: bool = False) -> bool:
    """Whether the peer of a connected socket has closed or reset it, or half-closed it.

    With ``half_close`` a peer that sends no more has not left: only a reset says so, or, on a unix socket, a close.
    """
    poller = select.poll()
    poller.register(fd, 0 if half_close else _HALF_CLOSED)  # POLLHUP and POLLERR are always reported
    return bool(poller.poll(0))


class PeerWatch:
    """Looks every 50 ms whether the peer has left, from `start` until `stop`, and calls ``left`` once if so.

    Starting and stopping only sets a flag: the timer is armed at most once an interval, however often a transport is
    paused and resumed.
    """

    __slots__ = ("_fd", "_half_close", "_left", "_loop", "_on", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, left: Callable[[], None], half_close: bool = False
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._left = left
        self._half_close = half_close
        self._on = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._on = True
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._look)

    def stop(self) -> None:
        """Stop watching; the socket may be read again."""
        self._on = False

    def close(self) -> None:
        """Stop for good; before the socket is closed."""
        self._on = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._on:
            return
        if has_left(self._fd, self._half_close):
            self._on = False
            self._left()
        else:
            self._timer = self._loop.call_later(INTERVAL, self._look)
