"""The clocks, in seconds, and the Date field of responses.

The clocks are constants, since compiled code would look an imported function up at each call.
"""

from __future__ import annotations

import time
from typing import Final

from streamproxy.wire.date import format_date

monotonic: Final = time.monotonic
wall_clock: Final = time.time


class _Clock:
    """Caches the formatted date for the current second."""

    __slots__ = ("date", "since", "until")

    def __init__(self) -> None:
        self.since = self.until = 0.0
        self.date = b""


_clock: Final = _Clock()


def http_date() -> bytes:
    """Returns the value of a Date field (RFC 9110 section 6.6.1), which is formatted once a second."""
    now, clock = wall_clock(), _clock
    if not clock.since <= now < clock.until:  # cheaper than to make an integer of the time
        second = int(now)
        clock.since, clock.until, clock.date = float(second), second + 1.0, format_date(second)
    return clock.date
