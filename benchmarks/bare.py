"""streamproxy without what it does for bad days, to count what that costs a request on a route that uses none of it.

``python -m benchmarks.bare run -c FILE`` is `streamproxy run` whose upstreams hand each request straight to the client
of their only endpoint: nothing is picked, no stream is counted, nobody hears how a request went, and nothing could be
repeated, ejected or probed. Limits and access need no such switch: a route without them has no guard.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from streamproxy import cli, deployment
from streamproxy.client.base import Response
from streamproxy.config.model import Retry
from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream import Endpoint, Upstream, UpstreamRequest
from streamproxy.wire.headers import Headers


class Bare:
    """An upstream of one endpoint and nothing around it; what a request does not need is the real upstream's."""

    def __init__(self, upstream: Upstream) -> None:
        (self._endpoint,) = upstream.endpoints
        self._stream = self._endpoint.client.stream
        self._url = self._endpoint.url
        self._upstream = upstream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upstream, name)

    def pick(self, exchange: Exchange, headers: Headers) -> Endpoint:
        return self._endpoint

    def open(
        self, endpoint: Endpoint, request: UpstreamRequest, exchange: Exchange, retry: Retry | None = None
    ) -> AbstractAsyncContextManager[Response]:
        exchange.endpoint = self._url
        return self._stream(
            request.method, self._url, headers=request.headers, content=request.content, extensions=request.extensions
        )


def bare(build: Callable[..., Upstream]) -> Callable[..., Any]:
    """A function like `deployment.build_upstream` whose upstreams are bare."""
    return lambda *arguments: Bare(build(*arguments))


if __name__ == "__main__":
    setattr(deployment, "build_upstream", bare(deployment.build_upstream))  # noqa: B010 - mypy takes no other assignment
    cli.main()
