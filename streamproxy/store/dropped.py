"""The owners of streams that are no longer kept, for an hour, so that their cursors get 410 and nobody else's do."""

from __future__ import annotations

from typing import Final

from streamproxy.store.base import REMEMBERED
from streamproxy.store.expiry import Expiry

_NAMES: Final = 16_384  # names that are remembered; beyond that the oldest are forgotten


class DroppedOwners:
    """The owner digest of each dropped stream, by its name."""

    __slots__ = ("_names", "_owners")

    def __init__(self) -> None:
        self._owners: dict[str, bytes] = {}
        self._names: Expiry[str] = Expiry(REMEMBERED, self._forget)

    def add(self, name: str, owner: bytes) -> None:
        """Remembers the owner of a stream that is dropped now."""
        while len(self._names) >= _NAMES and (oldest := self._names.pop_oldest()) is not None:
            self._forget(oldest)
        self._owners[name] = owner
        self._names.add(name)

    def owner_of(self, name: str) -> bytes:
        """Returns the owner's digest; empty if the name is not remembered."""
        return self._owners.get(name, b"")

    def clear(self) -> None:
        """Forgets all of them, and cancels the timer."""
        self._names.clear()
        self._owners.clear()

    def _forget(self, name: str) -> None:
        self._owners.pop(name, None)
