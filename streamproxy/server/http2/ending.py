"""The streams that are to be reset once what was queued of them has gone.

A reset that overtakes what was queued before it would take an error event, or a whole early answer, from the client. A
stream whose client does not take what is queued is reset when its time is up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from streamproxy.wire.http2.session import Session


class _Ending(NamedTuple):
    code: int
    end_alone: bool
    until: float


def _nothing() -> None:
    pass


class EndingStreams:
    """Those of one connection; ``linger`` is the most seconds that a reset waits, ``flush`` writes what can be sent."""

    __slots__ = ("_endings", "_flush", "_linger", "_loop", "_session", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, session: Session, linger: float, flush: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._session = session
        self._linger = linger
        self._flush = flush
        self._endings: dict[int, _Ending] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Whether there are some."""
        return bool(self._endings)

    def add(self, stream: int, code: int, end_alone: bool) -> None:
        """Reset a stream with this code when its queue has gone.

        ``end_alone`` says that its end of body is a frame for itself, which nothing in the queue shows.
        """
        self._endings[stream] = _Ending(code, end_alone, self._loop.time() + self._linger)
        if self._timer is None:
            self._timer = self._loop.call_later(self._linger, self._force)

    def discard(self, stream: int) -> None:
        """The stream is closed."""
        if self._endings:
            self._endings.pop(stream, None)

    def clear(self) -> None:
        """The connection is gone."""
        self._endings.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """The connection is lost: drop the reference to it."""
        self.clear()
        self._flush = _nothing

    def settle(self) -> bool:
        """All is written that could be: reset those whose queue has gone. Returns whether there were some."""
        if not self._endings:
            return False
        session = self._session
        return self._reset(
            [
                stream
                for stream, ending in self._endings.items()
                if not session.queued(stream) and (not ending.end_alone or session.can_send(stream))
            ]
        )

    def _force(self) -> None:
        """Reset those whose time is up."""
        self._timer = None
        now = self._loop.time()
        self._reset([stream for stream, ending in self._endings.items() if ending.until <= now])
        if self._endings:
            self._timer = self._loop.call_later(self._linger, self._force)
        self._flush()

    def _reset(self, streams: list[int]) -> bool:
        for stream in streams:
            self._session.reset(stream, self._endings.pop(stream).code)
        return bool(streams)
