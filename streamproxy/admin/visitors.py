"""Who may ask the admin application: whoever reaches it, but no web page that uses an operator's browser against it.

The application has no credential, and a browser on the operator's machine reaches what the operator reaches. Two ways
lead a page of somebody else's there, and each is closed by what browsers say of themselves:

- It asks the admin listener's own address. The browser then names the page's origin, and keeps the answer from the
  page; what changes something must not come from another origin (`SameOrigin`).
- Its own name is made to lead to the listener's address after the page has been loaded (DNS rebinding), so that both
  are one origin for the browser. But the name is in the Host, so that must be one that nobody else can own, or that is
  known here (`KnownHost`). Origin and Sec-Fetch-* don't tell: a browser sends neither with a GET of such a page.

Programs may call the listener what they like where nothing can be learned that matters: a scraper and a load balancer
ask for metrics and health by the name of a service.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.admin.problem import problem
from streamproxy.config import Config
from streamproxy.wire.hosts import Hosts, bare_host

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_LOCAL = ("localhost", "*.localhost")  # names that never leave the machine (RFC 6761, section 6.3)
_SINGLE_LABEL = re.compile(rb"[A-Za-z0-9_-]+")


def known_hosts(config: Config) -> Hosts:
    """The names of the admin application: those that the configuration lists, and those that it listens on."""
    listens = (*config.admin.listen, *(config.server.listen if config.admin.mount else ()))
    return Hosts((*_LOCAL, *config.admin.hosts, *(address.host for address in listens if address.host)))


class KnownHost:
    """Refuses a request whose Host is neither an address, nor a single label, nor one of the names of ``hosts``.

    Nobody can have a page under a name without a dot, such as that of a container: the DNS has no addresses at its
    top (RFC 7085). A unix socket has no name, and no browser asks it. A request without a Host is no browser's either.
    """

    def __init__(self, app: ASGIApp, hosts: Callable[[], Hosts]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Request(scope).headers.get("host")
        if host is None or _is_unix(scope) or _is_own(host) or self._hosts().match(host.encode("latin-1")):
            await self._app(scope, receive, send)
            return
        detail = f"{host} is no name of this listener: ask it by its address or as localhost, or add to admin.hosts"
        await problem(403, detail)(scope, receive, send)


def _is_unix(scope: Scope) -> bool:
    server = scope.get("server")
    return server is None or server[1] is None


def _is_own(host: str) -> bool:
    """Whether it is an address or a single label."""
    bare = bare_host(host.encode("latin-1"))
    if _SINGLE_LABEL.fullmatch(bare):
        return True
    try:
        ipaddress.ip_address(bare.decode("latin-1").removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class SameOrigin:
    """Refuses requests of other origins that could change something.

    Browsers send Origin with every such request, and Sec-Fetch-Site; curl and the like send neither.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS and _cross_origin(Request(scope)):
            response = problem(403, "Requests of other origins may not change anything here")
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _cross_origin(request: Request) -> bool:
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("origin")
    if origin is None:
        return False
    try:
        authority = urlsplit(origin).netloc
    except ValueError:
        return True
    return not authority or authority.lower() != request.headers.get("host", "").lower()
