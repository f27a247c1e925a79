"""The admin application: health, metrics, and the live streams as data and as a page, with a stop button.

It accesses the proxy through `Control`, and its only actions are to stop an exchange and to reload. Long responses are
built in pieces between which other tasks run: listing ten thousand streams must not delay those streams.

It listens on loopback by default and may require a token. `streamproxy.admin.visitors` decides which requests are
accepted.
"""

from __future__ import annotations

import asyncio
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from streamproxy.admin.feed import Feed, LiveResponse, parse_view
from streamproxy.admin.overview import Overviews
from streamproxy.admin.page import PAGE, make_page
from streamproxy.admin.problem import NO_STORE, problem
from streamproxy.admin.tries import Tries
from streamproxy.admin.update import DRAINING
from streamproxy.admin.visitors import KnownHost, SameOrigin, TokenRequired
from streamproxy.control import Control
from streamproxy.observe.access_log import record
from streamproxy.observe.json_line import encode

_BATCH = 100  # streams encoded at a time


class Admin(Starlette):
    """The admin application, for its own listener or mounted under a prefix. Errors are problem+json.

    Call `aclose` before stopping its server: the streams of the live view end only then.
    """

    def __init__(self, control: Control) -> None:
        self.feed = Feed(Overviews(control))
        self._view = _View(self.feed)
        super().__init__(
            routes=_routes(_Endpoints(control), self._view, _guard(control)),
            middleware=[Middleware(SameOrigin)],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
        )
        self.router.redirect_slashes = False

    def offer(self, tries: Tries) -> None:
        """Offers requests on the page from now on, as buttons."""
        self._view.shown = make_page(tries)

    async def aclose(self) -> None:
        """Ends all streams of the live view."""
        await self.feed.aclose()


def create_admin(control: Control) -> Admin:
    """Creates the admin application of a proxy."""
    return Admin(control)


def _guard(control: Control) -> list[Middleware]:
    return [Middleware(KnownHost, lambda: control.hosts), Middleware(TokenRequired, control)]


def _routes(endpoints: _Endpoints, view: _View, guard: list[Middleware]) -> list[Route]:
    return [
        # Under any Host and without a token: scrapers and load balancers use the name of a service.
        Route("/metrics", endpoints.metrics, methods=["GET"]),
        Route("/healthz", endpoints.healthz, methods=["GET"]),
        Route("/readyz", endpoints.readyz, methods=["GET"]),
        Route("/", view.page, methods=["GET"], middleware=guard),
        Route("/streams", endpoints.streams, methods=["GET"], middleware=guard),
        Route("/streams/live", view.live, methods=["GET"], middleware=guard),
        # A client's request id may contain slashes.
        Route("/streams/{id:path}", endpoints.stop, methods=["DELETE"], middleware=guard),
        Route("/config", endpoints.config, methods=["GET"], middleware=guard),
        Route("/reload", endpoints.reload, methods=["POST"], middleware=guard),
    ]


class _Endpoints:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def metrics(self, request: Request) -> Response:
        await self._control.refresh(streams=False)
        pieces, content_type = self._control.metrics.exposition(", ".join(request.headers.getlist("accept")))
        body = bytearray()
        for piece in pieces:
            body += piece
            await asyncio.sleep(0)
        return Response(bytes(body), headers={"content-type": content_type} | NO_STORE)

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok", headers=NO_STORE)

    async def readyz(self, request: Request) -> Response:
        await self._control.refresh(streams=False, predecessor=False)
        reasons = self._control.ready()
        status = 503 if reasons else 200
        body: dict[str, object] = {"ready": not reasons, "reasons": reasons}
        if problems := self._control.reload_problems:
            body["reload"] = list(problems)
        return JSONResponse(body, status, headers=NO_STORE)

    async def streams(self, request: Request) -> Response:
        await self._control.refresh(streams=True)
        rows: list[str] = []
        # In the order of their start; an exchange that ends meanwhile is left out.
        for live, marks in ((self._control.drained, DRAINING), (self._control.ledger.live, {})):
            ids = list(live)
            for start in range(0, len(ids), _BATCH):
                now = time.monotonic()
                for key in ids[start : start + _BATCH]:
                    exchange = live.get(key)
                    if exchange is not None:
                        rows.append(encode({"id": key} | record(exchange, now, live=True) | marks))
                await asyncio.sleep(0)
        body = "[" + ",\n".join(rows) + "]\n"
        return Response(body, media_type="application/json", headers=NO_STORE)

    async def stop(self, request: Request) -> Response:
        await self._control.refresh(streams=True)
        id = request.path_params["id"]
        if not self._control.stop(id):
            raise HTTPException(404, "No live exchange has this id")
        return JSONResponse({"id": id}, 202, headers=NO_STORE)

    async def config(self, request: Request) -> Response:
        return JSONResponse(self._control.config(), headers=NO_STORE)

    async def reload(self, request: Request) -> Response:
        result = await self._control.reload()
        if result is None:
            raise HTTPException(501, "This proxy was not started from a file that it could read again")
        if result.problems:
            return problem(422, "The configuration was not reloaded", problems=list(result.problems))
        body: dict[str, object] = {"result": "ok"}
        if result.restart:
            body["restart"] = list(result.restart)
        return JSONResponse(body, headers=NO_STORE)


class _View:
    """The page, and the stream of updates for the page and for `streamproxy top`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.shown = PAGE

    async def page(self, request: Request) -> Response:
        return Response(self.shown.document, headers=self.shown.headers)

    async def live(self, request: Request) -> Response:
        try:
            view, interval = parse_view(request.query_params)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        if self._feed.full:
            raise HTTPException(503, "Too many viewers, or the proxy is about to end")
        return LiveResponse(self._feed, view, interval)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, dict(error.headers or {}))


async def _internal_error(request: Request, error: Exception) -> Response:
    return problem(500, "The admin listener failed; the log says why")
