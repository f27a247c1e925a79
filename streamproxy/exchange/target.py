"""The target of a request, byte for byte if the server provides it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final
from urllib.parse import quote

from streamproxy.exchange.extension import CONNECTION, DownstreamConnection
from streamproxy.wire.target import strip_prefix

Scope = dict[str, Any]  # as ASGI has it; compiled code reads a dictionary faster than any other mapping

_QUESTION_MARK: Final = ord("?")


class Target:
    """The raw path and query of a request as sent, without the mount's prefix.

    ``query`` is None without a question mark. ``climbs`` is whether the dot segments of the path lead above the route's
    prefix. There is no `__init__`, whose call would cost more than all the rest.
    """

    __slots__ = ("climbs", "path", "query")

    path: bytes
    query: bytes | None
    climbs: bool


def make_target(path: bytes, query: bytes | None) -> Target:
    """Returns a target of these parts."""
    target = Target()
    target.path = path
    target.query = query
    target.climbs = False
    return target


def plain(scope: MutableMapping[str, Any]) -> Scope:
    """Returns a scope as a dictionary, which it is under any server."""
    return scope if isinstance(scope, dict) else dict(scope)


def target_of(scope: Scope) -> Target:
    """Returns the target of a request, byte for byte if the server provides it."""
    target = Target()
    target.query = None
    target.climbs = False
    extensions = scope.get("extensions")
    connection: DownstreamConnection | None = extensions.get(CONNECTION) if extensions else None
    if connection is not None:
        target.path = sent = connection.target
        if _QUESTION_MARK in sent:
            target.path, _, target.query = sent.partition(b"?")
    else:
        raw_path: bytes = scope.get("raw_path") or quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode()
        target.path = raw_path.partition(b"?")[0]
        target.query = scope.get("query_string") or None
    root_path: str = scope.get("root_path", "")
    if root_path:
        target.path = strip_prefix(target.path, root_path.encode())
    return target
