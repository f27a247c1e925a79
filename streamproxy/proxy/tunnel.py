"""The tunnel: a WebSocket after its handshake, as bytes in both directions.

Theory of operation. Both ends are `ByteStream`s. What one end reads is written to the other in the callback of that
read; when the other end holds more than it may, the reading end is paused until it has drained, so backpressure passes
in each direction by itself. A `FrameWalker` follows each direction; where it stands between two frames a control frame
of our own may stand. A direction's states::

    OPEN ──its reader has no more──▶ ENDED (the other end is told by `write_eof`)
      └────the proxy is stopping────▶ CLOSED at the end of the frame (our own Close is the last that goes)

The tunnel is over when an end is lost, when both directions have ended, or a moment after Close frames have gone in
both (`_GRACE`; an end that never closes its connection must not keep it), or after `_PATIENCE` of silence when one end
has sent a Close and the other does not answer. It ended in good order if both Close frames have passed; otherwise the
end that went first is to blame.

Time-outs are the exchange's timer's: bytes of either direction are progress, a direction that is blocked waits to
WRITE. Pings have a timer of their own, armed once an interval and not per read.
"""

from __future__ import annotations

import asyncio
import os
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
from streamproxy.wire.headers import Headers
from streamproxy.wire.websocket import (
    CLOSE,
    GOING_AWAY,
    PING,
    SERVICE_RESTART,
    FrameWalker,
    close_payload,
    control_frame,
)

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


class _Direction:
    """One direction: what is read at ``source`` and written to ``target``; ``masked`` where the client sends."""

    __slots__ = (
        "blocked_since",
        "closing",
        "ended",
        "masked",
        "source",
        "stopped",
        "tally",
        "target",
        "task",
        "walker",
    )

    def __init__(self, source: ByteStream, target: ByteStream, tally: Tally, masked: bool) -> None:
        self.source = source
        self.target = target
        self.tally = tally
        self.masked = masked
        self.walker = FrameWalker(masked=masked)
        self.blocked_since = 0.0  # the target holds more than it may since then; 0.0 while it does not
        self.task: asyncio.Task[None] | None = None  # waits for the target to drain
        self.ended = False  # the source sends no more
        self.closing = False  # our Close is to stand behind the present frame
        self.stopped = False  # nothing of the source goes on any more

    def control(self, opcode: int, payload: bytes) -> None:
        """Send a control frame of our own."""
        self.target.write(control_frame(opcode, payload, os.urandom(4) if self.masked else b""))

    @property
    def open(self) -> bool:
        """Whether another control frame may stand here, now."""
        walker = self.walker
        return walker.between_frames and not (walker.closed or self.ended or self.stopped or self.blocked_since)

    def close(self) -> None:
        """Send our Close as the last frame, once the present one is over."""
        self.closing = True
        if self.walker.between_frames and not (self.walker.closed or self.stopped or self.ended):
            self._send_close()

    def _send_close(self) -> None:
        self.stopped = True
        self.control(CLOSE, close_payload(GOING_AWAY if self.masked else SERVICE_RESTART))

    def last_frame(self, data: bytes) -> None:
        """Pass on what still belongs to the present frame, then our Close; follow the rest for the peer's own."""
        walker = self.walker
        if not self.stopped:
            size = walker.feed_frame(data)
            self.target.write(data[:size])
            data = data[size:]
            if walker.between_frames and not walker.closed:
                self._send_close()
        if data:
            walker.feed(data)


class Tunnel:
    """Carries one WebSocket. ``run`` answers the handshake, and returns or raises at the end of the tunnel."""

    __slots__ = (
        "_call",
        "_client",
        "_done",
        "_down",
        "_fault",
        "_grace",
        "_last",
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
        self._last = 0.0  # the last byte of either direction
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
        now = self._last = monotonic()
        exchange.first_byte_at = now
        call.timer.waits_for(CHUNK, now)
        client.set_write_limit(plan.buffer)
        upstream.set_write_limit(plan.buffer)
        self._up = up = _Direction(client, upstream, plan.from_client, True)
        self._down = down = _Direction(upstream, client, plan.from_upstream, False)
        client.start(self._from_client, partial(self._ended, up), self._client_lost)
        upstream.start(self._from_upstream, partial(self._ended, down), self._upstream_lost)
        if plan.ping is not None:
            self._pinger = self._loop.call_later(plan.ping, self._ping)

    # From the two ends.

    def _from_client(self, data: bytes) -> None:
        self._call.exchange.request_bytes += len(data)
        self._pass(self._up, data)

    def _from_upstream(self, data: bytes) -> None:
        exchange = self._call.exchange
        exchange.response_bytes += len(data)
        exchange.chunks += 1
        self._pass(self._down, data)
        exchange.events = self._down.walker.messages

    def _pass(self, direction: _Direction, data: bytes) -> None:
        """Write what was read, and count it."""
        now = self._last = monotonic()
        timer, walker = self._call.timer, direction.walker
        if timer.waits == CHUNK:
            timer.passed(now)
        before = walker.messages
        if direction.closing:
            direction.last_frame(data)
        else:
            # A client that has left while its route reads on is not written to.
            taken = (direction is self._down and self._call.downstream.gone) or direction.target.write(data)
            walker.feed(data)
            if not taken and not direction.blocked_since:
                self._block(direction, now)
        direction.tally.value += walker.messages - before
        if walker.closed:
            self._closing()

    def _closing(self) -> None:
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

    def _ended(self, direction: _Direction) -> None:
        """The source sends no more."""
        direction.ended = True
        fault = ClientDisconnected() if direction.masked else ResponseIncomplete()
        if not direction.walker.closed and self._fault is None:
            self._fault = fault
        direction.target.write_eof()
        if self._up.ended and self._down.ended:
            self._finish(ClientDisconnected() if self._call.downstream.gone else fault)
        elif direction.walker.closed and self._grace is None:
            # It waits for an answer no more; one may still be on its way.
            self._grace = self._loop.call_later(
                _GRACE if direction.masked else _ANSWER, partial(self._finish, ClientDisconnected())
            )

    @property
    def _in_order(self) -> bool:
        return self._up.walker.closed and self._down.walker.closed

    def _client_lost(self) -> None:
        downstream = self._call.downstream
        if self._plan.continue_on_disconnect and not self._in_order and not self._done.done():
            downstream.gone = True
            self._up.ended = True
            if self._down.ended:
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

    def _block(self, direction: _Direction, now: float) -> None:
        """The target holds more than it may: read no more until it has drained."""
        direction.source.pause()
        direction.blocked_since = now
        direction.task = self._loop.create_task(self._unblock(direction))
        self._wait_for_write()

    async def _unblock(self, direction: _Direction) -> None:
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
            if direction.task is not None:
                direction.task.cancel()
        client = self._client
        if client is not None:
            if isinstance(self._call.exchange.interruption, WriteTimeout) and self._down.blocked_since:
                client.abort()
            else:
                client.close()
