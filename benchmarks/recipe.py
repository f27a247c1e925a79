"""The usual recipe for a streaming proxy in Python, to compare with: Starlette's StreamingResponse over httpx.

Written as tutorials and answers write it, with two differences that help it: no time-out, and no limit on connections.
Run by stock uvicorn (uvloop, httptools). ``$BENCH_UPSTREAM`` is the URL of the upstream.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=os.environ["BENCH_UPSTREAM"], timeout=None, limits=limits) as client:
        app.state.client = client
        yield


async def forward(request: Request) -> StreamingResponse:
    client: httpx.AsyncClient = request.app.state.client
    url = httpx.URL(path=request.url.path, query=request.url.query.encode())
    upstream = client.build_request(request.method, url, headers=request.headers.raw, content=request.stream())
    response = await client.send(upstream, stream=True)
    return StreamingResponse(
        response.aiter_raw(),
        status_code=response.status_code,
        headers=response.headers,
        background=BackgroundTask(response.aclose),
    )


app = Starlette(
    routes=[Route("/{path:path}", forward, methods=["GET", "POST", "PUT", "DELETE", "PATCH"])], lifespan=lifespan
)
