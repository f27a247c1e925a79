"""Detects whether a peer has left, without reading from it.

A transport that does not read never sees the end of the peer's data, so a client that leaves while its upload is paused
would stay unnoticed. The kernel knows: poll() reports a received FIN or RST even if there is unread data (POLLRDHUP,
Linux), on TCP and on Unix sockets. A FIN behind data that does not fit into the receive buffer has not arrived, and
cannot be seen before the data is read.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

INTERVAL = 0.05  # seconds

_HALF_CLOSED: int = getattr(select, "POLLRDHUP", 0)


def has_left(fd: int, half_close: bool = False) -> bool:
    """Whether the peer of a connected socket has closed, reset or half-closed it.

    With ``half_close``, a peer that has only stopped sending has not left: a reset counts, and a close on a Unix
    socket.
    """
    poller = select.poll()
    poller.register(fd, 0 if half_close else _HALF_CLOSED)  # POLLHUP and POLLERR are always reported
    return bool(poller.poll(0))


class PeerWatch:
    """Checks every 50 ms from `start` until `stop` whether the peer has left; if so, calls ``left`` once.

    Starting and stopping only sets a flag, so the timer is armed at most once per interval, however often a transport
    is paused and resumed.
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
        """Starts watching."""
        self._on = True
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._look)

    def stop(self) -> None:
        """Stops watching, because the socket is read again."""
        self._on = False

    def close(self) -> None:
        """Stops permanently. Must be called before the socket is closed."""
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
