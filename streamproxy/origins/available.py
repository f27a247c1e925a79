"""Waiting for an endpoint that takes the request: ``timeouts.available``.

Theory of operation. A request that no endpoint takes (all refuse connections, or none is up) stands in the `Line` of
its route and upstream. Only the first in line tries: at once when the upstream says that an endpoint is there again,
and else every so often, since there may be no probes. As soon as it has a connection, or leaves, the next one tries. So
endpoints that come back are given the requests in the order in which they came, and as many as wait cost no more
connects than one. A request that comes while others wait stands behind them.

The wait is inside the request's place in the limits of its route. Nothing of it was sent, so its method does not
matter; of its body nothing was read that is not held (``retry.buffer``).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from streamproxy.errors import ConnectionRefused, DestinationUnavailable, UpstreamError
from streamproxy.exchange.call import Call
from streamproxy.exchange.timer import NOTHING
from streamproxy.origins.base import Origin, OriginResponse
from streamproxy.upstream.upstream import Upstream

SOONEST: Final = 0.25  # seconds until the first in line tries again
LATEST: Final = 1.0  # what these grow to


class Place:
    """One request's place in a line. ``turn`` is what it waits for, None while it does not."""

    __slots__ = ("turn",)

    def __init__(self) -> None:
        self.turn: asyncio.Future[bool] | None = None

    def call(self, go: bool) -> None:
        """End the wait: with True to try, with False since the time is over."""
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(go)


class Line:
    """The requests that wait for an endpoint of one upstream, in order."""

    __slots__ = ("_delay", "_places", "_timer", "_upstream")

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._places: dict[Place, None] = {}
        self._delay = SOONEST
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._places)

    def join(self, place: Place) -> None:
        """Stand in line, for one that does not yet."""
        if not self._places:
            self._delay = SOONEST
            self._upstream.watch(self.wake)
        self._places[place] = None

    def leave(self, place: Place) -> None:
        """Leave the line; the next one is called. Leaving twice changes nothing."""
        if place not in self._places:
            return
        first = self._first() is place
        del self._places[place]
        if not self._places:
            self._upstream.unwatch(self.wake)
            self._disarm()
        elif first:
            self._first().call(True)

    async def turn(self, place: Place, deadline: float) -> bool:
        """Wait until it is this one's turn to try; False at ``deadline``, in seconds of the monotonic clock."""
        loop, now = asyncio.get_running_loop(), monotonic()
        place.turn = loop.create_future()
        expiry = loop.call_later(max(deadline - now, 0.0), place.call, False)
        if self._first() is place:
            self._disarm()
            self._timer = loop.call_later(self._delay, self._try)
            self._delay = min(2.0 * self._delay, LATEST)
        try:
            return await place.turn
        finally:
            place.turn = None
            expiry.cancel()

    def wake(self) -> None:
        """An endpoint is there again."""
        self._delay = SOONEST
        self._try()

    def _try(self) -> None:
        self._disarm()
        if self._places:
            self._first().call(True)

    def _first(self) -> Place:
        return next(iter(self._places))

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class AvailableOrigin(Origin):
    """Opens what ``inner`` does, and waits up to ``patience`` seconds while no endpoint of ``upstream`` takes it.

    Of a request's body up to ``buffer`` bytes are held for that.
    """

    __slots__ = ("_buffer", "_inner", "_patience", "line")

    def __init__(self, inner: Origin, upstream: Upstream, patience: float, buffer: int) -> None:
        self._inner = inner
        self._patience = patience
        self._buffer = buffer
        self.line = Line(upstream)

    async def open(self, call: Call) -> OriginResponse:
        body, line = call.downstream.body, self.line
        if body is not None:
            body.hold(self._buffer)
        opened = await self._attempt(call) if not len(line) else None
        if opened is None:
            place, deadline = Place(), monotonic() + self._patience
            line.join(place)
            try:
                opened = await self._wait(call, place, deadline)
            finally:
                call.on_connected = None
                line.leave(place)
        if body is not None:
            body.release()
        return opened

    async def _wait(self, call: Call, place: Place, deadline: float) -> OriginResponse:
        line = self.line
        opened: OriginResponse | None = None
        while opened is None:
            if not await line.turn(place, deadline):
                raise DestinationUnavailable("No upstream endpoint became available in time")
            call.on_connected = _Leaving(line, place).leave
            opened = await self._attempt(call)
            if opened is None and place not in line._places:
                line.join(place)  # it had a connection and lost it
        return opened

    async def _attempt(self, call: Call) -> OriginResponse | None:
        """The response; None when no endpoint takes the request, which may be sent again."""
        exchange, body = call.exchange, call.downstream.body
        upstream, abandoned = exchange.upstream, len(exchange.abandoned or ())
        refused: UpstreamError
        try:
            return await self._inner.open(call)
        except (ConnectionRefused, DestinationUnavailable) as error:
            refused = error
        if body is not None and not body.intact:
            raise refused
        call.timer.waits_for(NOTHING, monotonic())
        exchange.phase = "connect"
        exchange.upstream = upstream
        if exchange.abandoned is not None:
            del exchange.abandoned[abandoned:]  # no attempt was made
        return None


class _Leaving:
    """A place that leaves its line."""

    __slots__ = ("_line", "_place")

    def __init__(self, line: Line, place: Place) -> None:
        self._line = line
        self._place = place

    def leave(self) -> None:
        self._line.leave(self._place)
