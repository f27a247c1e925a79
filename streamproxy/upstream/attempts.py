"""One request in as many attempts as it may have.

Theory of operation. An attempt ends with a response or with an error; both are put before the rules
(`streamproxy.upstream.retry`). If they allow another attempt, its body is held and the budget has room, the response
is closed, the exchange waits for the pause, and the next endpoint is picked: one that was not tried, where there is
one. Otherwise the response goes on, or the error. Nothing has gone to the client before that.

Deadlines. ``total`` runs from the beginning of the exchange and so over all attempts. ``first_byte`` does from the
moment the first attempt begins: connects that fail, pauses and what Retry-After asks for count. The watch of the
exchange hears of one step only, which begins it; `_Progress` keeps the exchange's own facts from then on. While the
client owes a part of its body the upstream is not blamed, and each part that comes begins ``first_byte`` anew: a
request is ready to be sent when its last part is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from types import TracebackType
from typing import Protocol

from streamproxy.client.base import Response
from streamproxy.config.model import Retry
from streamproxy.errors import UpstreamError
from streamproxy.exchange.exchange import Exchange, Phase
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.opened import Opened, UpstreamRequest
from streamproxy.upstream.replay import Replay
from streamproxy.upstream.retry import CONNECT, Budget, decide, kind_of, pause, repeatable, retry_after


class Endpoints(Protocol):
    """What the attempts need of an upstream."""

    budget: Budget
    uniform: Callable[[], float]

    def has_untried(self, tried: list[Endpoint]) -> bool: ...

    def another(self, request: UpstreamRequest, exchange: Exchange, tried: list[Endpoint]) -> Endpoint: ...

    def attempt(self, endpoint: Endpoint, request: UpstreamRequest, exchange: Exchange) -> Opened: ...

    def readdress(self, request: UpstreamRequest, old: Endpoint, new: Endpoint) -> None: ...


class Attempts:
    """An asynchronous context manager of the response that is to be relayed."""

    __slots__ = ("_current", "_endpoint", "_exchange", "_progress", "_replay", "_request", "_settings", "_upstream")

    def __init__(
        self,
        upstream: Endpoints,
        endpoint: Endpoint,
        request: UpstreamRequest,
        exchange: Exchange,
        settings: Retry,
    ) -> None:
        self._upstream = upstream
        self._endpoint = endpoint
        self._exchange = exchange
        self._settings = settings
        self._progress = _Progress(exchange, request.extensions["progress"])
        self._replay = Replay(request.content, settings.buffer) if request.content is not None else None
        self._request = UpstreamRequest(
            request.method, request.headers, request.content, {**request.extensions, "progress": self._progress}
        )
        self._current: Opened | None = None

    async def __aenter__(self) -> Response:
        upstream, tried = self._upstream, [self._endpoint]
        upstream.budget.request(monotonic())
        while True:
            asked: float | None = None
            current = self._prepare()
            try:
                response = await current.__aenter__()
            except UpstreamError as error:
                if not self._again(len(tried), kind_of(error)):
                    raise
            else:
                if not self._again(len(tried), str(response.status_code)):
                    self._current = current
                    return response
                asked = retry_after(response.headers.raw, datetime.now(UTC))
                await current.__aexit__(None, None, None)
            self._exchange.retries += 1
            await self._move_on(tried, asked)

    def _prepare(self) -> Opened:
        if self._replay is not None:
            self._request.content = self._replay.attempt()
        self._progress.sent = False
        return self._upstream.attempt(self._endpoint, self._request, self._exchange)

    def _again(self, attempt: int, failure: str | None) -> bool:
        request, settings = self._request, self._settings
        return (
            decide(
                settings,
                attempt=attempt,
                failure=failure,
                sent=self._progress.sent and failure != CONNECT,
                repeatable=repeatable(request.method, request.headers, settings),
            )
            and (self._replay is None or self._replay.possible)
            and self._upstream.budget.spend(monotonic())
        )

    async def _move_on(self, tried: list[Endpoint], asked: float | None) -> None:
        """Wait, and pick the endpoint of the next attempt."""
        upstream, old = self._upstream, self._endpoint
        if upstream.has_untried(tried):
            asked = None  # it was one endpoint's wish, and another is asked now
        await asyncio.sleep(pause(self._settings, len(tried), asked, upstream.uniform))
        new = self._endpoint = upstream.another(self._request, self._exchange, tried)
        tried.append(new)
        if new is not old:
            upstream.readdress(self._request, old, new)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._current is not None
        await self._current.__aexit__(kind, error, trace)


class _Progress:
    """Follows one attempt after the other; ``sent`` says that the head of the present one is on its way."""

    __slots__ = ("_exchange", "sent")

    def __init__(self, exchange: Exchange, report: Callable[[Phase], None]) -> None:
        self._exchange = exchange
        self.sent = False
        report("request")  # the upstream owes a head from here on
        exchange.phase = "connect"

    def __call__(self, phase: Phase) -> None:
        exchange = self._exchange
        if phase != "connect":
            self.sent = True
        if phase == "head":
            exchange.sent_at = monotonic()
        if not exchange.head_at:  # an upstream may answer before it has the whole request
            exchange.phase = phase
