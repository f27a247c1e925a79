"""Who may ask the admin application: whoever reaches it and has its token, if it has one, but no foreign web page.

A browser on the operator's machine reaches what the operator reaches. A foreign web page may use it in two ways, and
each is closed by what browsers say about themselves:

- It asks the admin listener's own address. The browser then names the page's origin, and keeps the answer from the
  page; a request that changes something must not come from another origin (`SameOrigin`).
- Its own name is made to lead to the listener's address after the page has been loaded (DNS rebinding), so that both
  are one origin for the browser. But the name is in the Host field, so that must be a name that nobody else can own,
  or one that is known here (`KnownHost`). Origin and Sec-Fetch-* don't help: a browser sends neither with a GET of such
  a page.

Programs may call the listener what they like where nothing that matters can be learned: scrapers and load balancers ask
for metrics and health by the name of a service, and without a token.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.admin.page import PAGE_HEADERS, page
from streamproxy.admin.problem import problem
from streamproxy.control import Control
from streamproxy.wire.hosts import Hosts, bare_host

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_SINGLE_LABEL = re.compile(rb"[A-Za-z0-9_-]+")


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


class TokenRequired:
    """Refuses a request without the admin token, where there is one (RFC 6750).

    A browser that navigates to the page can't send the token. The 401 that it gets is the page itself, which holds no
    data: it asks for the token and sends it with its own requests.
    """

    def __init__(self, app: ASGIApp, control: Control) -> None:
        self._app = app
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        tokens = _bearer_tokens(request)
        # More than one: which one counts would be anybody's guess.
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
        return Response(page(), 401, headers=PAGE_HEADERS | {"www-authenticate": challenge})
    why = "This is not the token of the admin listener" if invalid else "The admin listener asks for its token"
    return problem(401, why, {"www-authenticate": challenge})


def _asks_for_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
