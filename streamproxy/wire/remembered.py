"""What was found out about bytes that a peer has chosen, remembered for the next time."""

from __future__ import annotations

from typing import Final, TypeVar

T = TypeVar("T")

MOST_HEADS: Final = 256  # of messages, in each table
LONGEST_HEAD: Final = 2048  # bytes; longer ones carry cookies or tokens, and seldom come again


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


def note_head(once: set[bytes], head: bytes) -> None:
    """Adds a head to those that came ``once``, unless it is longer than LONGEST_HEAD.

    What is found out about a head is remembered when it comes again: most of those with a body or an identifier come
    once, and to remember them would cost more than the others gain. ``once`` is emptied when it has MOST_HEADS.
    """
    if len(head) <= LONGEST_HEAD:
        if len(once) >= MOST_HEADS:
            once.clear()
        once.add(head)
