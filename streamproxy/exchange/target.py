"""The target of a request, byte for byte if the server provides it."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from starlette.types import Scope

from streamproxy.exchange.extension import CONNECTION
from streamproxy.wire.target import strip_prefix

_QUESTION_MARK: Final = ord("?")


class Target:
    """The raw path and query of a request as sent, without the mount's prefix."""

    __slots__ = ("climbs", "path", "query")

    def __init__(self, path: bytes, query: bytes | None) -> None:
        self.path = path
        self.query = query  # None without a question mark
        self.climbs = False  # whether its dot segments lead above the route's prefix


def target_of(scope: Scope) -> Target:
    """Returns the target of a request, byte for byte if the server provides it."""
    extensions = scope.get("extensions")
    connection = extensions.get(CONNECTION) if extensions else None
    if connection is not None:
        path = connection.target
        if _QUESTION_MARK in path:
            path, _, query = path.partition(b"?")
            target = Target(path, query)
        else:
            target = Target(path, None)
    else:
        raw_path: bytes = scope.get("raw_path") or quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode()
        target = Target(raw_path.partition(b"?")[0], scope.get("query_string") or None)
    root_path: str = scope.get("root_path", "")
    if root_path:
        target.path = strip_prefix(target.path, root_path.encode())
    return target
