"""The Date field of responses."""

from __future__ import annotations

from time import time

from streamproxy.wire.date import format_date


class _Clock:
    """Caches the formatted date for the current second."""

    __slots__ = ("date", "since", "until")

    def __init__(self) -> None:
        self.since = self.until = 0.0
        self.date = b""


_clock = _Clock()


def http_date() -> bytes:
    """Returns the value of a Date field (RFC 9110 section 6.6.1), which is formatted once a second."""
    now, clock = time(), _clock
    if not clock.since <= now < clock.until:  # cheaper than to make an integer of the time
        second = int(now)
        clock.since, clock.until, clock.date = float(second), second + 1.0, format_date(second)
    return clock.date
