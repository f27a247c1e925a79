"""The admin application: health, metrics, and the live streams with a stop button, as data and as a page.

It reads what the proxy knows and changes nothing but by `Exchange.interrupt` and a reload. Long answers are made in
pieces with the event loop let go between them: whoever looks at ten thousand streams must not hold them up.

It has no credential of its own: it listens on loopback unless configured otherwise. So that no web page can
use an operator's browser against it, a request that changes something is refused when it comes from another origin.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.admin.ended import Ended, Endings
from streamproxy.admin.feed import Feed, LiveResponse, parse_view
from streamproxy.admin.overview import Overviews
from streamproxy.admin.page import PAGE_HEADERS, page
from streamproxy.admin.state import AdminState, Reloaded
from streamproxy.errors import StoppedByOperator
from streamproxy.observe.access import encode, record

__all__ = ["Admin", "AdminState", "Reloaded", "create_admin"]

_BATCH = 100  # streams encoded at a time: about a millisecond
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_NO_STORE = {"cache-control": "no-store"}


class Admin(Starlette):
    """The admin application; runs on a listener of its own or mounted under a prefix. Errors are problem+json.

    Who stops its server calls `aclose` first: the streams of the live view end only then.
    """

    def __init__(self, state: AdminState, ended: Endings | None = None) -> None:
        if ended is None:
            ended = Ended()
            state.ledger.observers.append(ended.observe)
        self.feed = Feed(Overviews(state, ended))
        super().__init__(
            routes=_routes(_Endpoints(state), _Seen(self.feed)),
            middleware=[Middleware(_SameOrigin)],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
        )
        self.router.redirect_slashes = False

    async def aclose(self) -> None:
        """End the streams of everybody who looks at the live view."""
        await self.feed.aclose()


def create_admin(state: AdminState, ended: Endings | None = None) -> Admin:
    """The admin application of a proxy. ``ended`` is what to show of the exchanges that have ended, where that can't be
    learned from the ledger."""
    return Admin(state, ended)


def _routes(endpoints: _Endpoints, seen: _Seen) -> list[Route]:
    return [
        Route("/", seen.page, methods=["GET"]),
        Route("/metrics", endpoints.metrics, methods=["GET"]),
        Route("/healthz", endpoints.healthz, methods=["GET"]),
        Route("/readyz", endpoints.readyz, methods=["GET"]),
        Route("/streams", endpoints.streams, methods=["GET"]),
        Route("/streams/live", seen.live, methods=["GET"]),
        Route("/streams/{id:path}", endpoints.stop, methods=["DELETE"]),  # a client's request id may have slashes
        Route("/config", endpoints.config, methods=["GET"]),
        Route("/reload", endpoints.reload, methods=["POST"]),
    ]


class _Endpoints:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def metrics(self, request: Request) -> Response:
        await self._state.refresh(streams=False)
        pieces, content_type = self._state.metrics.exposition(", ".join(request.headers.getlist("accept")))
        body = bytearray()
        for piece in pieces:
            body += piece
            await asyncio.sleep(0)
        return Response(bytes(body), headers={"content-type": content_type} | _NO_STORE)

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok", headers=_NO_STORE)

    async def readyz(self, request: Request) -> Response:
        await self._state.refresh(streams=False)
        reasons = self._state.ready()
        status = 503 if reasons else 200
        body: dict[str, object] = {"ready": not reasons, "reasons": reasons}
        if problems := self._state.reload_problems:
            body["reload"] = list(problems)
        return JSONResponse(body, status, headers=_NO_STORE)

    async def streams(self, request: Request) -> Response:
        await self._state.refresh(streams=True)
        ledger = self._state.ledger
        ids = list(ledger.live)  # in the order of their beginning
        rows: list[str] = []
        for start in range(0, len(ids), _BATCH):
            now = time.monotonic()
            for key in ids[start : start + _BATCH]:
                exchange = ledger.live.get(key)
                if exchange is not None:
                    rows.append(encode({"id": key} | record(exchange, now, live=True)))
            await asyncio.sleep(0)
        body = "[" + ",\n".join(rows) + "]\n"
        return Response(body, media_type="application/json", headers=_NO_STORE)

    async def stop(self, request: Request) -> Response:
        await self._state.refresh(streams=True)
        key = request.path_params["id"]
        exchange = self._state.ledger.live.get(key)
        if exchange is None:
            raise HTTPException(404, "No live exchange has this id")
        exchange.interrupt(StoppedByOperator())
        return JSONResponse({"id": exchange.id}, 202, headers=_NO_STORE)

    async def config(self, request: Request) -> Response:
        return JSONResponse(self._state.config(), headers=_NO_STORE)

    async def reload(self, request: Request) -> Response:
        result = await self._state.reload()
        if result is None:
            raise HTTPException(501, "This proxy was not started from a file that it could read again")
        if result.problems:
            return _problem(422, "The configuration was not reloaded", problems=list(result.problems))
        body: dict[str, object] = {"result": "ok"}
        if result.restart:
            body["restart"] = list(result.restart)
        return JSONResponse(body, headers=_NO_STORE)


class _Seen:
    """The page, and the stream of updates that it shows; `streamproxy top` shows the same."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def page(self, request: Request) -> Response:
        return Response(page(), headers=PAGE_HEADERS)

    async def live(self, request: Request) -> Response:
        try:
            view, interval = parse_view(request.query_params)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        if self._feed.full:
            raise HTTPException(503, "Too many look at this already, or the proxy is about to end")
        return LiveResponse(self._feed, view, interval)


class _SameOrigin:
    """Refuses requests of other origins that could change something.

    Browsers send Origin with every such request, and Sec-Fetch-Site; curl and the like send neither.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS and _cross_origin(Request(scope)):
            response = _problem(403, "Requests of other origins may not change anything here")
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


def _problem(
    status: int, detail: str, headers: dict[str, str] | None = None, *, problems: list[str] | None = None
) -> JSONResponse:
    """RFC 9457, with ``problems`` as a member of our own."""
    problem: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    problem["detail"] = detail
    if problems is not None:
        problem["problems"] = problems
    return JSONResponse(problem, status, headers=_NO_STORE | (headers or {}), media_type="application/problem+json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, dict(error.headers or {}))


async def _internal_error(request: Request, error: Exception) -> Response:
    return _problem(500, "The admin listener failed; the log says why")
