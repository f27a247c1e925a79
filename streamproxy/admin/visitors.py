"""Access control of the admin application: clients need the token, if there is one; foreign web pages have no access.

A browser on the operator's machine can reach everything that the operator can. A foreign web page can abuse this in two
ways. Each is prevented by what browsers send:

- It sends requests to the address of the admin listener. The browser then adds the origin of the page, and hides the
  response from it. Requests that change something must not come from another origin (`SameOrigin`).
- It points its own name at the listener's address after the page was loaded (DNS rebinding), so that both have the same
  origin for the browser. But the Host field then contains that name. So Host must be a name that nobody else can own,
  or a configured one (`KnownHost`). Origin and Sec-Fetch-* do not help here: browsers omit both in such GET requests.

Health and metrics are served under any name and without a token, since they reveal nothing sensitive: scrapers and load
balancers request them by the name of a service.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.admin.page import PAGE
from streamproxy.admin.problem import problem
from streamproxy.control import Control
from streamproxy.wire.hosts import Hosts, bare_host

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_SINGLE_LABEL = re.compile(rb"[A-Za-z0-9_-]+")


class KnownHost:
    """Refuses a request whose Host is not an address, a single label, or one of the names in ``hosts``.

    Nobody can serve a page under a name without a dot, such as that of a container: the DNS has no addresses at its top
    level (RFC 7085). A Unix socket has no name and browsers cannot connect to it. Browsers always send Host.
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
    """Whether a host is an address or a single label."""
    bare = bare_host(host.encode("latin-1"))
    if _SINGLE_LABEL.fullmatch(bare):
        return True
    try:
        ipaddress.ip_address(bare.decode("latin-1").removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class SameOrigin:
    """Refuses requests from other origins that could change something.

    Browsers send Origin or Sec-Fetch-Site with every such request; other clients, such as curl, send neither.
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
    """Whether any field says that the request is from another origin; of two that differ, one does."""
    headers = request.headers
    return not {"none", "same-origin"}.issuperset(headers.getlist("sec-fetch-site")) or any(
        _is_foreign(origin, headers.get("host", "")) for origin in headers.getlist("origin")
    )


def _is_foreign(origin: str, host: str) -> bool:
    try:
        authority = urlsplit(origin).netloc
    except ValueError:
        return True
    return not authority or authority.lower() != host.lower()


class TokenRequired:
    """Refuses requests without the admin token, if one is configured (RFC 6750).

    A browser that navigates to the page cannot send the token, so its 401 response is the page itself, which contains
    no data: the page asks for the token and sends it with its own requests.
    """

    def __init__(self, app: ASGIApp, control: Control) -> None:
        self._app = app
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        tokens = _bearer_tokens(request)
        # Several credentials are ambiguous.
        if not self._control.needs_token or (len(tokens) == 1 and self._control.admits(tokens[0])):
            await self._app(scope, receive, send)
            return
        await _unauthorized(request, invalid=bool(tokens))(scope, receive, send)


def _bearer_tokens(request: Request) -> list[bytes]:
    fields = (value.split(None, 1) for value in request.headers.getlist("authorization"))
    return [words[1].strip().encode("latin-1") for words in fields if len(words) == 2 and words[0].lower() == "bearer"]


def _unauthorized(request: Request, *, invalid: bool) -> Response:
    # Without a credential there is no error code (RFC 6750 section 3.1).
    challenge = 'Bearer realm="streamproxy admin"' + (', error="invalid_token"' if invalid else "")
    if request["path"].removeprefix(request.scope.get("root_path", "")) in ("", "/") and _asks_for_html(request):
        return Response(PAGE.document, 401, headers=PAGE.headers | {"www-authenticate": challenge})
    why = "This is not the token of the admin listener" if invalid else "The admin listener asks for its token"
    return problem(401, why, {"www-authenticate": challenge})


def _asks_for_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
