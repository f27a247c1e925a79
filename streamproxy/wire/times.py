"""Special values of time spans."""

from __future__ import annotations

from typing import Final

FOREVER: Final = float("inf")  # seconds: no limit
LONGEST_TIMER: Final = 31_536_000.0  # seconds: no limit for a timer of an event loop, which does not accept infinity
