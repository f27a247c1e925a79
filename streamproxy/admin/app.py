"""The admin application: health, metrics, and the live streams with a stop button.

It reads what the proxy knows and changes nothing but by `Exchange.interrupt` and a reload. Long answers are made in
pieces with the event loop let go between them: whoever looks at ten thousand streams must not hold them up.

It has no credential of its own: it listens on loopback unless configured otherwise. So that no web page can
use an operator's browser against it, a request that changes something is refused when it comes from another origin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.errors import StoppedByOperator
from streamproxy.exchange import Ledger
from streamproxy.observe.access import encode, record
from streamproxy.observe.metrics import Metrics

_BATCH = 100  # streams encoded at a time: about a millisecond
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_NO_STORE = {"cache-control": "no-store"}


class Reloaded(NamedTuple):
    """How a reload went: what is wrong with the configuration, which then changed nothing, or the names of its keys
    that a restart is needed for."""

    problems: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class AdminState(Protocol):
    """What the admin application is told of the proxy."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def metrics(self) -> Metrics: ...

    def ready(self) -> list[str]:
        """Why the proxy is not ready, one phrase a reason; empty when it is."""
        ...

    def config(self) -> dict[str, Any]:
        """The configuration in force as plain data, secrets hidden."""
        ...

    @property
    def reload_problems(self) -> Sequence[str]:
        """What was wrong with the configuration when it was last read again; empty when it came into force."""
        ...

    async def reload(self) -> Reloaded | None:
        """Read the configuration again and put it into force; None where there is nothing to read it from."""
        ...


def create_admin(state: AdminState) -> Starlette:
    """The admin application; runs on a listener of its own or mounted under a prefix. Errors are problem+json."""
    endpoints = _Endpoints(state)
    app = Starlette(
        routes=[
            Route("/metrics", endpoints.metrics, methods=["GET"]),
            Route("/healthz", endpoints.healthz, methods=["GET"]),
            Route("/readyz", endpoints.readyz, methods=["GET"]),
            Route("/streams", endpoints.streams, methods=["GET"]),
            Route("/streams/{id:path}", endpoints.stop, methods=["DELETE"]),  # a client's request id may have slashes
            Route("/config", endpoints.config, methods=["GET"]),
            Route("/reload", endpoints.reload, methods=["POST"]),
        ],
        middleware=[Middleware(_SameOrigin)],
        exception_handlers={HTTPException: _http_error, Exception: _internal_error},
    )
    app.router.redirect_slashes = False
    return app


class _Endpoints:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def metrics(self, request: Request) -> Response:
        pieces, content_type = self._state.metrics.exposition(", ".join(request.headers.getlist("accept")))
        body = bytearray()
        for piece in pieces:
            body += piece
            await asyncio.sleep(0)
        return Response(bytes(body), headers={"content-type": content_type} | _NO_STORE)

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok", headers=_NO_STORE)

    async def readyz(self, request: Request) -> Response:
        reasons = self._state.ready()
        status = 503 if reasons else 200
        body: dict[str, object] = {"ready": not reasons, "reasons": reasons}
        if problems := self._state.reload_problems:
            body["reload"] = list(problems)
        return JSONResponse(body, status, headers=_NO_STORE)

    async def streams(self, request: Request) -> Response:
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
