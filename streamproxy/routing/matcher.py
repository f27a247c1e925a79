"""The conditions of one route: path, method, host and headers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from streamproxy.store.cursor import cursor_of
from streamproxy.wire.cors import is_preflight
from streamproxy.wire.headers import Headers, first
from streamproxy.wire.hosts import Hosts
from streamproxy.wire.target import climbs, normal_path

_CURSOR_METHODS = frozenset({"GET", "HEAD", "DELETE"})


class Matcher:
    """The conditions of one route, compiled for testing requests.

    A normal path is one of the route's paths if it begins with one of ``prefixes`` or is in ``exact``.
    """

    def __init__(
        self,
        paths: Collection[str],
        *,
        methods: Collection[str] = (),
        hosts: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        preflight: bool = False,
        cursors: bool = False,
    ) -> None:
        normal = [normal_path(path.encode()) for path in paths]
        self.exact = frozenset(path for path in normal if not path.endswith(b"/*"))
        self.prefixes = tuple(path[:-1] for path in normal if path.endswith(b"/*"))
        self._methods = frozenset(methods) | ({"HEAD"} if "GET" in methods else set())
        self._hosts = Hosts(hosts) if hosts else None
        self._cursors = cursors  # accept GET, HEAD and DELETE with a cursor, whatever the methods
        self._preflight = preflight  # accept the preflights of requests that the route accepts
        self._headers = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self.only_path = not (self._methods or hosts or self._headers)  # `rest` accepts anything

    def path(self, path: bytes) -> bool:
        """Whether a normal path is one of the route's paths, or below one of its prefixes."""
        return path.startswith(self.prefixes) or path in self.exact

    def climbs(self, path: bytes) -> bool:
        """Whether a normal path leads above the prefix that it matched."""
        if path in self.exact:
            return False
        return any(path.startswith(prefix) and climbs(path, prefix[:-1]) for prefix in self.prefixes)

    def rest(self, method: str, headers: Headers, query: bytes | None = None) -> bool:
        """Whether method, Host and headers match the route. The query may contain a cursor.

        A preflight has the Host of the request it is for and names its method, but not yet its headers.
        """
        if self._preflight and is_preflight(method, headers):
            method = (first(headers, b"access-control-request-method") or b"").decode("latin-1")
            wanted = not self._methods or method in self._methods or (self._cursors and method in _CURSOR_METHODS)
            return wanted and self._host(headers)
        if self._methods and method not in self._methods and not self._comes_back(method, headers, query):
            return False
        if not self._host(headers):
            return False
        for name, condition in self._headers:
            value = first(headers, name)
            if value is None or (condition != b"*" and value != condition):
                return False
        return True

    def _comes_back(self, method: str, headers: Headers, query: bytes | None) -> bool:
        return self._cursors and method in _CURSOR_METHODS and cursor_of(headers, query) is not None

    def why_not(self, path: bytes, method: str, headers: Headers, query: bytes | None = None) -> str:
        """The first condition that a request does not meet, in words; empty when it meets them all."""
        if not self.path(path):
            return "the path is not one of its own"
        if self.only_path or self.rest(method, headers, query):
            return ""
        if not self._host(headers):
            return f"the host {(first(headers, b'host') or b'').decode('latin-1')!r} is not one of its own"
        if self._preflight and is_preflight(method, headers):
            return f"it takes only {', '.join(sorted(self._methods))}, and the preflight is for another method"
        if self._methods and method not in self._methods and not self._comes_back(method, headers, query):
            return f"it takes only {', '.join(sorted(self._methods))}"
        for name, wanted in self._headers:
            value = first(headers, name)
            if value is None:
                return f"it needs the header {name.decode()}"
            if wanted not in (b"*", value):
                return f"it needs another value of the header {name.decode()}"
        return ""

    def _host(self, headers: Headers) -> bool:
        return self._hosts is None or self._hosts.match(first(headers, b"host") or b"")
