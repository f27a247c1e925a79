"""The Date field of responses."""

from __future__ import annotations

from time import time

from streamproxy.wire.date import format_date


class _Clock:
    """Caches the formatted date for the current second."""

    __slots__ = ("date", "second")

    def __init__(self) -> None:
        self.second = -1
        self.date = b""


_clock = _Clock()


def http_date() -> bytes:
    """Returns the value of a Date field (RFC 9110 section 6.6.1), which is formatted once a second."""
    now = int(time())
    clock = _clock
    if now != clock.second:
        clock.second, clock.date = now, format_date(now)
    return clock.date
