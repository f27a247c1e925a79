"""Configured routes as Starlette routes: they match the raw path and pass the request to their handler.

Starlette's own routes match the decoded path, in which ``%2F`` and ``/`` are the same; a proxy must distinguish them.
Routes are tried in order, and the first match serves the request.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from starlette.routing import BaseRoute, Match, NoMatchFound, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.exchange.target import Target, plain, target_of
from streamproxy.routing.matcher import Matcher
from streamproxy.wire.target import PERCENT, normal_path

_DOT: Final = ord(".")
_ALL: Final = b"*"  # the target of OPTIONS for the server as a whole (RFC 9112 section 3.2.4)

Served = Coroutine[Any, Any, None]
Handler = Callable[[Target, dict[str, Any], Receive, Send], Served]


class Route(BaseRoute):
    """One route: ``matcher`` decides whether it serves a request, ``handler`` serves it."""

    def __init__(self, name: str, matcher: Matcher, handler: Handler) -> None:
        self.name = name
        self.handler = handler
        self.matcher = matcher

    def takes(self, target: Target, path: bytes, scope: Scope) -> bool:
        """Whether the route matches a request; ``path`` is the normal form of its target's path."""
        matcher = self.matcher
        if not (path.startswith(matcher.prefixes) or path in matcher.exact):  # as `Matcher.path`, whose call costs
            return False
        if not (matcher.only_path or matcher.rest(scope["method"], scope["headers"], target.query)):
            return False
        if _DOT in path:
            target.climbs = matcher.climbs(path)
        return True

    def note_climb(self, target: Target, path: bytes) -> None:
        """Sets whether a target that the route takes climbs, after other routes have looked at it."""
        if _DOT in path:
            target.climbs = self.matcher.climbs(path)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        target = target_of(plain(scope))
        if not self.takes(target, matched_path(target), scope):
            return Match.NONE, {}
        return Match.FULL, {"streamproxy.target": target}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handler(scope["streamproxy.target"], plain(scope), receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)


def matched_path(target: Target) -> bytes:
    """Returns the path that routes match. ``OPTIONS *`` matches only the prefix of everything, ``/*``."""
    return b"/*" if target.path == _ALL else normal_path(target.path)


class ProxyRouter(Router):
    """Starlette's router with a short path to our own routes.

    The general path passes through matches, child scopes and handlers, and makes each chunk resume three more
    coroutines. So the router here only returns the coroutine that serves the request, and is not a coroutine itself.
    ``application`` is the one whose router it is, which only the general path tells those it calls.
    """

    application: ASGIApp | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Served:
        if scope["type"] == "http":
            request = plain(scope)
            target = target_of(request)
            path = target.path
            if PERCENT in path or path == _ALL:
                path = matched_path(target)
            for route in self.routes:
                if type(route) is Route:
                    if route.takes(target, path, request):
                        handler = route.handler
                        return handler(target, request, receive, send)
                elif route.matches(scope)[0] is Match.FULL:
                    break
        if self.application is not None:
            scope["app"] = self.application
        return super().__call__(scope, receive, send)
