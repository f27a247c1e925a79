"""Several attempts at a request: at the endpoints of its upstream, then at those of its fallbacks.

Theory of operation. An attempt ends with a response or with an error. Both are put before the rules
(`streamproxy.upstream.retry`). If they allow another attempt, the request's body is still held and the budget has room,
the response is closed, and the next endpoint is picked: after a pause one of the same upstream that was not tried,
where there is one; once the attempts at that upstream are spent, one of the next fallback, at once. Otherwise the
response goes on, or the error. Nothing has gone to the client before that.

The gate (``retry.until: first_event``) holds a response back until its stream has said something. What fails before
that is a failed attempt like any other: the stream reports an error, ends short, or says nothing in time.

Deadlines. ``total`` runs from the beginning of the exchange and so over all attempts. ``first_byte`` does from the
moment the first attempt begins: connects that fail, pauses and what Retry-After asks for count. The timer of the
exchange hears of one step only, which begins it; `_Progress` keeps the exchange's own facts from then on. Each part of
the body that comes begins ``first_byte`` anew: a request is ready to be sent when its last part is there. Behind the
gate ``idle`` holds. ``first_event`` is each attempt's own: `_Attempts.say_nothing` cancels what the attempt waits for,
and `_Attempts._reason` tells that cancellation from all others. Without the gate, and where no other attempt is
possible, its passing is counted and logged, and the request waits on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from streamproxy.config.model import Retry
from streamproxy.errors import HeadTimeout, ResponseIncomplete, UpstreamError, UpstreamReportedError
from streamproxy.exchange.call import Call
from streamproxy.exchange.exchange import Exchange, Phase
from streamproxy.exchange.tally import Tally
from streamproxy.exchange.timer import CHUNK, HEAD, Timer
from streamproxy.origins.base import Origin, OriginResponse
from streamproxy.origins.gate import GatePlan, hold_back
from streamproxy.origins.upstream import UpstreamOrigin, UpstreamRequest, UpstreamResponse, switched
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.retry import (
    CONNECT,
    ERROR_EVENT,
    FIRST_EVENT,
    RESET,
    decide,
    kind_of,
    pause,
    repeatable,
    retry_after,
)

logger = logging.getLogger("streamproxy.upstream")

_STOP: Final = 0
_AGAIN: Final = 1
_FALL_BACK: Final = 2


@dataclass(frozen=True, slots=True)
class Fallback:
    """An upstream that takes over from the one before it; ``taken`` counts how often it did."""

    name: str
    origin: UpstreamOrigin
    taken: Tally


class RetryingOrigin(Origin):
    """Sends the requests of one route to its upstream as often as ``retry`` says, then to its fallbacks in order."""

    __slots__ = ("_fallbacks", "_first", "_gate", "_retry")

    def __init__(
        self, first: UpstreamOrigin, retry: Retry, fallbacks: Sequence[Fallback] = (), gate: GatePlan | None = None
    ) -> None:
        self._first = first
        self._retry = retry
        self._fallbacks = fallbacks
        self._gate = gate

    @property
    def fallbacks(self) -> list[str]:
        """The names of the upstreams that are asked after the first one."""
        return [fallback.name for fallback in self._fallbacks]

    async def open(self, call: Call) -> OriginResponse:
        chosen = await _Attempts(call, self._first, self._retry, self._fallbacks, self._gate).open()
        key = call.downstream.websocket_key
        return chosen if key is None else await switched(chosen, key)


class _Attempts:
    """The attempts of one request."""

    __slots__ = (
        "_alarm",
        "_body",
        "_call",
        "_decided",
        "_endpoint",
        "_exchange",
        "_fallbacks",
        "_gate",
        "_origin",
        "_progress",
        "_request",
        "_response",
        "_retry",
        "_tried",
    )

    def __init__(
        self, call: Call, origin: UpstreamOrigin, retry: Retry, fallbacks: Sequence[Fallback], gate: GatePlan | None
    ) -> None:
        self._call = call
        self._exchange = call.exchange
        self._origin = origin
        self._retry = retry
        self._fallbacks = list(fallbacks)  # that were not asked yet
        self._gate = gate
        self._endpoint: Endpoint | None = None  # None before one of this upstream was picked
        self._request: UpstreamRequest | None = None
        self._response: UpstreamResponse | None = None  # of this attempt; still to be closed
        self._tried: list[Endpoint] = []  # of this upstream
        self._alarm: asyncio.TimerHandle | None = None
        self._decided = _STOP  # what follows from the time-out that has cancelled this attempt
        self._body = call.downstream.body
        if self._body is not None:
            self._body.hold(retry.buffer)
        self._progress = _Progress(self)

    async def open(self) -> UpstreamResponse:
        """The response that is to be relayed. Raises the last attempt's error."""
        self._origin.upstream.budget.request(monotonic())
        while True:
            fault = await self._attempt()
            response = self._response
            step = self._decided or self._next(_failure(fault, response))
            self._decided = _STOP
            if step == _STOP and fault is None:
                assert response is not None
                if self._body is not None:
                    self._body.release()
                return response
            asked: float | None = None
            if response is not None:
                asked = retry_after(response.fields.kept, datetime.now(UTC))
                await response.aclose(fault)
            if step == _STOP:
                assert fault is not None
                if isinstance(fault, UpstreamReportedError):
                    fault.retry_after = asked
                raise fault
            await self._move_on(step, asked)

    async def _attempt(self) -> BaseException | None:
        """One attempt. Returns why it failed; None when ``_response`` is an answer, whatever its status."""
        self._response = None
        body, exchange, upstream = self._body, self._exchange, self._origin.upstream
        if self._endpoint is None:
            try:
                self._endpoint = endpoint = await self._origin.pick(self._call)
            except UpstreamError as error:
                return error
            self._tried = [endpoint]
            self._request = self._origin.request(self._call, endpoint)
            self._request.extensions["progress"] = self._progress
        assert self._request is not None
        self._progress.begin()
        exchange.attempts += 1
        attempt = UpstreamResponse()
        request, content = self._request, body.attempt() if body is not None else None
        stream = attempt.begin(self._endpoint, upstream.roster, exchange, request.headers, request.extensions, content)
        fault: BaseException | None = None
        try:
            response = await stream.__aenter__()
        except BaseException as error:
            fault = self._reason(error)
            attempt.failed(fault)
        else:
            attempt.opened(response)
            self._response = attempt
            gate = self._gate
            if gate is not None:
                if not gate.held:
                    attempt.alarm, self._alarm = self._alarm, None
                    return None
                fault = await self._hold_back(attempt, gate)
        self._disarm()
        return fault

    async def _hold_back(self, attempt: UpstreamResponse, gate: GatePlan) -> BaseException | None:
        """Wait for the response to say something. Returns why it failed before it did."""
        now = monotonic()
        self._exchange.head_at = now
        self._call.timer.waits_for(CHUNK, now)
        try:
            await hold_back(attempt, gate)
        except BaseException as error:
            return self._reason(error)
        return None

    def _next(self, failure: str | None) -> int:
        """What follows when an attempt came to ``failure``: one of the steps above."""
        retry, endpoint, request = self._retry, self._endpoint, self._request
        again = endpoint is not None and len(self._tried) < retry.attempts
        if failure is None or not (again or self._fallbacks):
            return _STOP
        headers = self._call.downstream.headers if request is None else request.headers
        allowed = (
            decide(
                retry,
                failure=failure,
                sent=self._progress.sent and failure != CONNECT,
                repeatable=repeatable(self._exchange.method, headers, retry),
            )
            and (self._body is None or self._body.repeatable)
            and self._origin.upstream.budget.spend(monotonic())
        )
        if not allowed:
            return _STOP
        return _AGAIN if again else _FALL_BACK

    async def _move_on(self, step: int, asked: float | None) -> None:
        """Make ready for the next attempt; the same upstream is given a pause."""
        exchange, now = self._exchange, monotonic()
        if exchange.head_at:
            self._call.timer.waits_for(HEAD, now)
        if step == _FALL_BACK:
            fallback = self._fallbacks.pop(0)
            exchange.fall_back(fallback.name, now)
            fallback.taken.add()
            self._origin = fallback.origin
            self._endpoint = self._request = None
            self._progress.sent = False
            return
        exchange.retries += 1
        exchange.abandon_attempt(now)
        upstream, old, request = self._origin.upstream, self._endpoint, self._request
        assert old is not None
        assert request is not None
        if upstream.has_untried(self._tried):
            asked = None  # it was one endpoint's wish, and another is asked now
        await asyncio.sleep(pause(self._retry, len(self._tried), asked, upstream.uniform))
        new = self._endpoint = upstream.another(request.headers, exchange, self._tried)
        self._tried.append(new)
        if new is not old:
            request.headers = upstream.readdress(request.headers, old, new)

    # The time-out of an attempt's first event.

    def request_sent(self) -> None:
        """The upstream owes an event from here on."""
        gate = self._gate
        if gate is not None and gate.first_event is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(gate.first_event, self.say_nothing)

    def say_nothing(self) -> None:
        """The time-out has passed: leave the attempt if there can be another, else wait on."""
        exchange, gate = self._exchange, self._gate
        if exchange.interruption is not None or exchange.task is None or gate is None or _spoke(exchange):
            return
        step = self._next(FIRST_EVENT) if gate.held else _STOP
        after = "" if step else ", and the request waits on"
        logger.warning("exchange %s: no event from %s in time%s", exchange.request_id, exchange.endpoint, after)
        if step:
            self._decided = step
            exchange.task.cancel()
        elif (late := gate.late.get(exchange.upstream)) is not None:
            late.add()

    def _reason(self, error: BaseException) -> BaseException:
        """What ``error`` stands for: HeadTimeout where it is the cancellation that `say_nothing` asked for."""
        if not self._decided:
            return error
        exchange = self._exchange
        left = exchange.task.uncancel() if exchange.task is not None else 0
        if isinstance(error, asyncio.CancelledError) and exchange.interruption is None and not left:
            return HeadTimeout("The upstream said nothing in time")
        self._decided = _STOP  # somebody else has ended the exchange in the same moment
        return error

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def _spoke(exchange: Exchange) -> bool:
    """Whether an exchange whose response is being relayed waits for no first event any more, or never did."""
    inspector = exchange.inspected()
    return exchange.phase == "body" and (not exchange.streaming or inspector is None or inspector.spoke)


def _failure(fault: BaseException | None, response: UpstreamResponse | None) -> str | None:
    """Which of ``retry.on`` an attempt came to, if any."""
    if fault is None:
        return str(response.status) if response is not None else None
    if isinstance(fault, UpstreamReportedError):
        return ERROR_EVENT
    if isinstance(fault, ResponseIncomplete):
        return RESET
    return kind_of(fault) if isinstance(fault, UpstreamError) else None


class _Progress:
    """Follows one attempt after the other; ``sent`` says that the head of the present one is on its way."""

    __slots__ = ("_attempts", "_exchange", "sent")

    def __init__(self, attempts: _Attempts) -> None:
        self._attempts = attempts
        self._exchange: Exchange = attempts._exchange
        self.sent = False
        timer: Timer = attempts._call.timer
        timer.progress("request")  # the upstream owes a head from here on

    def begin(self) -> None:
        """An attempt begins."""
        self.sent = False
        self._exchange.phase = "connect"

    def __call__(self, phase: Phase) -> None:
        exchange = self._exchange
        if phase != "connect":
            self.sent = True
            connected = self._attempts._call.on_connected
            if connected is not None:
                connected()
        if phase == "head":
            exchange.sent_at = monotonic()
            self._attempts.request_sent()
        if not exchange.head_at:  # an upstream may answer before it has the whole request
            exchange.phase = phase
