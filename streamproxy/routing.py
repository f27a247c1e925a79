"""A configured route as one of Starlette's: matches the raw path, and hands the request to its forwarder.

Starlette's own routes match the decoded path, where ``%2F`` and ``/`` are the same; a proxy must not mix them up.
Routes are tried in order and the first that matches serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import quote

from starlette.routing import BaseRoute, Match, NoMatchFound, Router
from starlette.types import Receive, Scope, Send

from streamproxy.cors import is_preflight
from streamproxy.extension import CONNECTION
from streamproxy.wire.headers import Headers, first
from streamproxy.wire.hosts import Hosts
from streamproxy.wire.target import climbs, normal_path, strip_prefix

_DOT: Final = ord(".")

Served = Coroutine[Any, Any, None]
Handler = Callable[["Target", Scope, Receive, Send], Served]


class Target:
    """What a request asks for: the raw path and the query as they came, both without the mount's prefix."""

    __slots__ = ("climbs", "path", "query")

    def __init__(self, path: bytes, query: bytes | None) -> None:
        self.path = path
        self.query = query  # None when there is no question mark
        self.climbs = False  # its dot segments lead above the route's prefix


def target_of(scope: Scope) -> Target:
    """The target of a request, byte for byte where the server tells it."""
    extensions = scope.get("extensions")
    connection = extensions.get(CONNECTION) if extensions else None
    if connection is not None:
        path, question, query = connection.target.partition(b"?")
        target = Target(path, query if question else None)
    else:
        raw_path: bytes = scope.get("raw_path") or quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode()
        target = Target(raw_path.partition(b"?")[0], scope.get("query_string") or None)
    root_path: str = scope.get("root_path", "")
    if root_path:
        target.path = strip_prefix(target.path, root_path.encode())
    return target


class Matcher:
    """The conditions of one route, in the form that a request is tested with."""

    def __init__(
        self,
        paths: Collection[str],
        *,
        methods: Collection[str] = (),
        hosts: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        preflight: bool = False,
    ) -> None:
        normal = [normal_path(path.encode()) for path in paths]
        self._exact = frozenset(path for path in normal if not path.endswith(b"/*"))
        self._prefixes = tuple(path[:-1] for path in normal if path.endswith(b"/*"))
        self._methods = frozenset(methods) | ({"HEAD"} if "GET" in methods else set())
        self._hosts = Hosts(hosts) if hosts else None
        self._preflight = preflight  # take the preflights of browsers for what the route takes
        self._headers = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self.only_path = not (self._methods or hosts or self._headers)  # `rest` takes anything

    def path(self, path: bytes) -> bool:
        """Whether a normal path is one of the route's, or below one of its prefixes."""
        return path.startswith(self._prefixes) or path in self._exact

    def climbs(self, path: bytes) -> bool:
        """Whether a normal path leads above the prefix that it matched."""
        if path in self._exact:
            return False
        return any(path.startswith(prefix) and climbs(path, prefix[:-1]) for prefix in self._prefixes)

    def rest(self, method: str, headers: Headers) -> bool:
        """Whether method, Host and headers are the route's.

        A preflight has the Host of the request it is for, and says its method; its headers are not there yet.
        """
        if self._preflight and is_preflight(method, headers):
            method = (first(headers, b"access-control-request-method") or b"").decode("latin-1")
            return (not self._methods or method in self._methods) and self._host(headers)
        if self._methods and method not in self._methods:
            return False
        if not self._host(headers):
            return False
        for name, wanted in self._headers:
            value = first(headers, name)
            if value is None or (wanted != b"*" and value != wanted):
                return False
        return True

    def _host(self, headers: Headers) -> bool:
        return self._hosts is None or self._hosts.match(first(headers, b"host") or b"")


class Route(BaseRoute):
    """One route: ``matcher`` decides, ``handler`` serves."""

    def __init__(self, name: str, matcher: Matcher, handler: Handler) -> None:
        self.name = name
        self.handler = handler
        self._matcher = matcher

    def takes(self, target: Target, path: bytes, scope: Scope) -> bool:
        """Whether a request is this route's; ``path`` is the normal form of its target's."""
        matcher = self._matcher
        if not (matcher.path(path) and (matcher.only_path or matcher.rest(scope["method"], scope["headers"]))):
            return False
        if _DOT in path:
            target.climbs = matcher.climbs(path)
        return True

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        target = target_of(scope)
        if not self.takes(target, normal_path(target.path), scope):
            return Match.NONE, {}
        return Match.FULL, {"streamproxy.target": target}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handler(scope["streamproxy.target"], scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)


class ProxyRouter(Router):
    """Starlette's router, with a short way to our own routes.

    Its general way through matches, child scopes and handlers costs each request 4 µs more, and each chunk the
    resumption of three more coroutines. So what is called here only picks the coroutine that serves, and is none.
    """

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Served:
        if scope["type"] == "http":
            target = target_of(scope)
            path = normal_path(target.path)
            for route in self.routes:
                if type(route) is Route:
                    if route.takes(target, path, scope):
                        handler = route.handler
                        return handler(target, scope, receive, send)
                elif route.matches(scope)[0] is Match.FULL:
                    break
        return super().__call__(scope, receive, send)
