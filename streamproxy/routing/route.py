"""A configured route as one of Starlette's: matches the raw path, and hands the request to its handler.

Starlette's own routes match the decoded path, where ``%2F`` and ``/`` are the same; a proxy must not mix them up.
Routes are tried in order and the first that matches serves.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from starlette.routing import BaseRoute, Match, NoMatchFound, Router
from starlette.types import Receive, Scope, Send

from streamproxy.exchange.target import Target, target_of
from streamproxy.routing.matcher import Matcher
from streamproxy.wire.target import normal_path

_DOT: Final = ord(".")
_ALL: Final = b"*"  # the target of OPTIONS for the server as a whole (RFC 9112 section 3.2.4)

Served = Coroutine[Any, Any, None]
Handler = Callable[[Target, Scope, Receive, Send], Served]


class Route(BaseRoute):
    """One route: ``matcher`` decides, ``handler`` serves."""

    def __init__(self, name: str, matcher: Matcher, handler: Handler) -> None:
        self.name = name
        self.handler = handler
        self.matcher = matcher

    def takes(self, target: Target, path: bytes, scope: Scope) -> bool:
        """Whether a request is this route's; ``path`` is the normal form of its target's."""
        matcher = self.matcher
        if not (
            matcher.path(path) and (matcher.only_path or matcher.rest(scope["method"], scope["headers"], target.query))
        ):
            return False
        if _DOT in path:
            target.climbs = matcher.climbs(path)
        return True

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        target = target_of(scope)
        if not self.takes(target, matched_path(target), scope):
            return Match.NONE, {}
        return Match.FULL, {"streamproxy.target": target}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handler(scope["streamproxy.target"], scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)


def matched_path(target: Target) -> bytes:
    """The path that routes are matched on. ``OPTIONS *`` belongs to the prefix of everything, ``/*``."""
    return b"/*" if target.path == _ALL else normal_path(target.path)


class ProxyRouter(Router):
    """Starlette's router, with a short way to our own routes.

    Its general way goes through matches, child scopes and handlers, and has each chunk resume three more coroutines.
    So what is called here only picks the coroutine that serves, and is none.
    """

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Served:
        if scope["type"] == "http":
            target = target_of(scope)
            path = matched_path(target)
            for route in self.routes:
                if type(route) is Route:
                    if route.takes(target, path, scope):
                        handler = route.handler
                        return handler(target, scope, receive, send)
                elif route.matches(scope)[0] is Match.FULL:
                    break
        return super().__call__(scope, receive, send)
