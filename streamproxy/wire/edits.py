"""Configured changes to header fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from streamproxy.wire.headers import Headers


class Edit(NamedTuple):
    """A route's configured changes to headers: ``remove`` and ``set`` replace, ``add`` appends."""

    set: Headers
    add: Headers
    remove: frozenset[bytes]

    @property
    def replaced(self) -> frozenset[bytes]:
        """The names that a message may have from nowhere else."""
        return self.remove | {name for name, _ in self.set}

    def apply(self, headers: Headers) -> Headers:
        gone = self.replaced
        return [pair for pair in headers if pair[0] not in gone] + self.set + self.add


NO_EDIT: Final = Edit([], [], frozenset())


def edit(set_: Mapping[str, str], add: Mapping[str, str], remove: Iterable[str]) -> Edit:
    """Compiles a route's header rules. Returns NO_EDIT if there are none, so that the hot path can skip them."""
    if not (set_ or add or remove):
        return NO_EDIT
    pairs = [[(name.lower().encode(), value.encode()) for name, value in rules.items()] for rules in (set_, add)]
    return Edit(pairs[0], pairs[1], frozenset(name.lower().encode() for name in remove))
