"""Lends the parser of request heads to connections."""

from __future__ import annotations

from streamproxy.wire.request import RequestHead


class Heads:
    """The parser that the connections of a server share.

    A parser takes almost a KiB, and most heads arrive in a single read. So a connection has a parser of its own only
    while a part of a head is missing, and none during its response or while it is idle. ``max_size`` is in bytes.
    ``spare`` takes back a parser that has forgotten a complete head. One that has failed is not given back.
    """

    __slots__ = ("_max_fields", "_max_size", "spare")

    def __init__(self, max_size: int, max_fields: int) -> None:
        self._max_size = max_size
        self._max_fields = max_fields
        self.spare: RequestHead | None = None

    def take(self) -> RequestHead:
        """Returns a parser at the beginning of a head. The caller owns it until it makes it the ``spare`` one."""
        head, self.spare = self.spare, None
        return RequestHead(self._max_size, self._max_fields) if head is None else head
