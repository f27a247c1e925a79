"""What was found out about bytes that a peer has chosen, remembered for the next time."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

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


class KnownHeads(Generic[T]):
    """What was found out about heads that came twice, byte for byte, for those that are equal to one.

    ``known`` has it, by head. Most heads with a body or an identifier come once, and to remember them would cost more
    than the others gain, so they are only noted in ``once``. Either has MOST_HEADS at most, and is emptied when full.
    """

    __slots__ = ("known", "once")

    def __init__(self) -> None:
        self.known: dict[bytes, T] = {}
        self.once: set[bytes] = set()

    def came_before(self, head: bytes) -> bool:
        """Whether a head has come before. If not, it is noted, unless it is longer than LONGEST_HEAD."""
        once = self.once
        if head in once:
            return True
        if len(head) <= LONGEST_HEAD:
            if len(once) >= MOST_HEADS:
                once.clear()
            once.add(head)
        return False

    def remember(self, head: bytes, found: T) -> None:
        """Remembers what was found out about a head that came before."""
        remember(self.known, head, found, LONGEST_HEAD, MOST_HEADS)

    def clear(self) -> None:
        """Forgets all heads."""
        self.known.clear()
        self.once.clear()
