"""Time spans that mean something by themselves."""

from __future__ import annotations

from typing import Final

FOREVER: Final = float("inf")  # seconds: no limit
