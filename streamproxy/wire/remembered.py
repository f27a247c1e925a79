"""What was found out about bytes that a peer has chosen, remembered for the next time."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def remember(known: dict[bytes, T], key: bytes, value: T, longest: int, most: int) -> T:
    """Returns ``value``, and adds it to ``known`` unless ``key`` has more than ``longest`` bytes.

    ``known`` has ``most`` entries at most: it is emptied first when it is full, so that a peer that makes up keys costs
    the others a little time, and no memory.
    """
    if len(key) <= longest:
        if len(known) >= most:
            known.clear()
        known[key] = value
    return value
