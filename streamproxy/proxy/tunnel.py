"""The tunnel: a WebSocket after its handshake, as bytes in both directions.

Theory of operation. Both ends are `ByteStream`s, and a `Direction` passes on what one end reads. When the other end
holds more than it may, the reading end is paused until it has drained, so backpressure passes in each direction by
itself.

The tunnel is over when an end is lost, when both directions have ended, or a moment after Close frames have gone in
both (`_GRACE`; an end that never closes its connection must not keep it), or after `_PATIENCE` of silence when one end
has sent a Close and the other does not answer. It ended in good order if both Close frames have passed; otherwise the
end that went first is to blame.

Time-outs are the exchange's timer's: bytes of either direction are progress, a direction that is blocked waits to
WRITE. Pings have a timer of their own, armed once an interval and not per read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final

from streamproxy.errors import (
    ClientDisconnected,
    ExchangeError,
    ResponseIncomplete,
    StoppedByShutdown,
    UpstreamWriteTimeout,
    WriteTimeout,
)
from streamproxy.exchange.call import Call
from streamproxy.exchange.stream import ByteStream
from streamproxy.exchange.tally import Tally
from streamproxy.exchange.timer import CHUNK, WRITE
from streamproxy.proxy.direction import Direction, Directions
from streamproxy.wire.headers import Headers
from streamproxy.wire.websocket import CLOSE, GOING_AWAY, PING, close_payload

_GRACE: Final = 1.0  # seconds for the ends to close their connections, or to answer our Close frames
_ANSWER: Final = 5.0  # seconds for a client to answer the Close of an upstream that has ended its direction
_PATIENCE: Final = 10.0  # seconds of silence in which an end may answer a Close, as WebSocket clients wait themselves


@dataclass(frozen=True, slots=True)
class TunnelPlan:
    """What a route says of its WebSockets. ``ping`` is in seconds of silence, None for no pings."""

    ping: float | None
    buffer: int
    continue_on_disconnect: bool
    from_client: Tally
    from_upstream: Tally


class Tunnel(Directions):
    """Carries one WebSocket. ``run`` answers the handshake, and returns or raises at the end of the tunnel."""

    __slots__ = (
        "_call",
        "_client",
        "_done",
        "_down",
        "_fault",
        "_grace",
        "_loop",
        "_pinger",
        "_plan",
        "_silence",
        "_up",
        "_upstream",
        "_upstream_gone",
    )

    def __init__(self, call: Call, upstream: ByteStream, plan: TunnelPlan) -> None:
        self._call = call
        self._plan = plan
        self._upstream = upstream
        self._client: ByteStream | None = None
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._upstream_gone: asyncio.Future[None] = self._loop.create_future()
        self._fault: ExchangeError | None = None
        self._pinger: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None  # runs once a Close has come, which awaits an answer

    async def run(self, fields: Headers) -> None:
        """Answer with 101 and these fields, and carry bytes until the end.

        Raises ClientDisconnected or an UpstreamError when an end was lost before Close frames had gone both ways, and
        the exchange's own reason when it was ended from outside.
        """
        self._begin(fields)
        fault: BaseException | None = None
        try:
            try:
                await self._done
            except asyncio.CancelledError as error:
                fault = error
            if fault is not None and isinstance(self._call.exchange.interruption, StoppedByShutdown):
                await self._farewell()
            elif fault is not None:
                self._announce()
            elif fault is None and self._fault is None:
                await self._flush()
        finally:
            self._end()
        if fault is not None:
            raise self._reason(fault)
        if self._fault is not None:
            raise self._fault

    def _begin(self, fields: Headers) -> None:
        call, plan, upstream = self._call, self._plan, self._upstream
        exchange = call.exchange
        exchange.phase = "body"
        try:
            self._client = client = call.downstream.upgrade([*fields, (b"upgrade", b"websocket")])
        except OSError as error:
            raise ClientDisconnected() from error
        now = monotonic()
        exchange.first_byte_at = now
        call.timer.waits_for(CHUNK, now)
        client.set_write_limit(plan.buffer)
        upstream.set_write_limit(plan.buffer)
        self._up = up = Direction(self, call, client, upstream, plan.from_client, True)
        self._down = down = Direction(self, call, upstream, client, plan.from_upstream, False)
        client.start(up)
        upstream.start(down)
        if plan.ping is not None:
            self._pinger = self._loop.call_later(plan.ping, self._ping)

    # From the two directions.

    def closing(self) -> None:
        """A Close frame has come. Once both have, the ends have a moment to close their connections."""
        if not self._in_order:
            if self._silence is None:
                self._silence = self._loop.call_later(_PATIENCE, self._give_up)
        elif self._call.exchange.interruption is not None:
            self._finish(None)
        elif self._grace is None:
            self._grace = self._loop.call_later(_GRACE, partial(self._finish, None))

    def _give_up(self) -> None:
        """End the tunnel if an answer to a Close is still due and nothing passes any more; else look again."""
        left = self._last + _PATIENCE - monotonic()
        if left <= 0.0:
            self._finish(ClientDisconnected())
        else:
            self._silence = self._loop.call_later(max(left, 0.001), self._give_up)

    def ended(self, direction: Direction) -> None:
        """The source sends no more."""
        direction.has_ended = True
        fault = ClientDisconnected() if direction.masked else ResponseIncomplete()
        if not direction.walker.closed and self._fault is None:
            self._fault = fault
        direction.target.write_eof()
        if self._up.has_ended and self._down.has_ended:
            self._finish(ClientDisconnected() if self._call.downstream.gone else fault)
        elif direction.walker.closed and self._grace is None:
            # It waits for an answer no more; one may still be on its way.
            self._grace = self._loop.call_later(
                _GRACE if direction.masked else _ANSWER, partial(self._finish, ClientDisconnected())
            )

    def lost(self, direction: Direction) -> None:
        """The source has no connection any more."""
        if direction.masked:
            self._client_lost()
        else:
            self._upstream_lost()

    @property
    def _last(self) -> float:
        """The time of the last byte of either direction."""
        return max(self._up.last, self._down.last)

    @property
    def _in_order(self) -> bool:
        return self._up.walker.closed and self._down.walker.closed

    def _client_lost(self) -> None:
        downstream = self._call.downstream
        if self._plan.continue_on_disconnect and not self._in_order and not self._done.done():
            downstream.gone = True
            self._up.has_ended = True
            if self._down.has_ended:
                self._finish(ClientDisconnected())
        else:
            self._finish(ClientDisconnected())

    def _upstream_lost(self) -> None:
        if not self._upstream_gone.done():
            self._upstream_gone.set_result(None)
        self._finish(ResponseIncomplete())

    def _finish(self, fault: ExchangeError | None) -> None:
        """The tunnel is over; the first fault stands, and there is none when Close frames have gone both ways."""
        if self._done.done():
            return
        self._fault = None if self._in_order else self._fault or fault
        self._done.set_result(None)

    # Backpressure.

    def blocked(self, direction: Direction, now: float) -> None:
        """The target holds more than it may: read no more until it has drained."""
        direction.source.pause()
        direction.blocked_since = now
        direction.task = self._loop.create_task(self._unblock(direction))
        self._wait_for_write()

    async def _unblock(self, direction: Direction) -> None:
        await direction.target.drained()
        exchange, now = self._call.exchange, monotonic()
        if not direction.masked:
            exchange.backpressure += now - direction.blocked_since
        direction.blocked_since = 0.0
        direction.task = None
        direction.source.resume()
        self._wait_for_write()

    def _wait_for_write(self) -> None:
        """Tell the timer what is waited for: the direction that is blocked the longest, or bytes."""
        down, up = self._down.blocked_since, self._up.blocked_since
        self._call.exchange.blocked_since = down
        if down or up:
            self._call.timer.waits_for(WRITE, min(down or up, up or down))
        else:
            self._call.timer.waits_for(CHUNK, monotonic())

    # Pings.

    def _ping(self) -> None:
        """Ping both ends after silence, where a frame may stand; then look again."""
        interval = self._plan.ping
        assert interval is not None
        left = self._last + interval - monotonic()
        if left <= 0.0:
            left = interval
            for direction in (self._down, self._up):
                if not direction.target.pingable or self._silence is not None:
                    continue
                if direction.open and not (direction is self._down and self._call.downstream.gone):
                    direction.control(PING, b"")
        self._pinger = self._loop.call_later(max(left, 0.001), self._ping)

    # Ends.

    async def _farewell(self) -> None:
        """The proxy stops: both ends get a Close frame, and a moment to answer."""
        task = self._call.exchange.task
        if task is not None:
            task.uncancel()
        self._done = self._loop.create_future()
        self._down.close()
        self._up.close()
        if not self._in_order:
            await asyncio.wait([self._done], timeout=_GRACE)

    def _announce(self) -> None:
        """It is ended from outside: say so to both ends, if a frame may stand there now. Nobody's answer is awaited."""
        interruption = self._call.exchange.interruption
        if interruption is None or isinstance(interruption, ClientDisconnected):
            return
        for direction in (self._down, self._up):
            if direction.open:
                direction.control(CLOSE, close_payload(GOING_AWAY))

    async def _flush(self) -> None:
        """Let the upstream take what was written last, such as the client's Close, before its connection is closed."""
        if not self._upstream_gone.done():
            self._upstream.close()
            await asyncio.wait([self._upstream_gone], timeout=_GRACE)

    def _reason(self, fault: BaseException) -> BaseException:
        """Why it was ended from outside. The timer knows one `write`, and which end took nothing is known here."""
        exchange = self._call.exchange
        if isinstance(exchange.interruption, WriteTimeout) and not self._down.blocked_since:
            exchange.interruption = UpstreamWriteTimeout()
        if isinstance(exchange.interruption, StoppedByShutdown):
            return exchange.interruption
        return fault

    def _end(self) -> None:
        """Stop, and let go of the client's end; the upstream's is the response's."""
        for handle in (self._pinger, self._grace, self._silence):
            if handle is not None:
                handle.cancel()
        for direction in (self._down, self._up):
            direction.release()
        client = self._client
        if client is not None:
            if isinstance(self._call.exchange.interruption, WriteTimeout) and self._down.blocked_since:
                client.abort()
            else:
                client.close()
