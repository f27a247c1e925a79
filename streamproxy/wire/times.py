"""Special values of time spans."""

from __future__ import annotations

from typing import Final

FOREVER: Final = float("inf")  # seconds: no limit
