"""The relay: one response to one client, chunk by chunk.

Theory of operation. Chunks are pulled: the relay asks the source for the next one only when the client's side has taken
the last, and that one rule is the backpressure from the client's socket to the upstream's. While nothing waits (no
chunk is queued, the client takes bytes) chunks are pushed instead, where both sides can: each is inspected, counted
and written to the client in the callback of the read that brought it. The first obstacle falls back to pull.

An exchange is in one of two states here: it waits for a chunk (CHUNK), or for the client to take one (WRITE); its
timer is told which.

A body that has come to its end before its head is sent goes out in one piece, together with the end of the response,
and so does the last piece of any other whose end came with it.

What passes is read by `streamproxy.proxy.reading`, the relay's base, and keepalives are written by
`streamproxy.proxy.keepalives`, the base of that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from typing import Any

from streamproxy.dialects.base import Dialect
from streamproxy.errors import ClientDisconnected, ClientError, EventLimitReached, ExchangeError
from streamproxy.exchange.call import Call
from streamproxy.exchange.clock import monotonic
from streamproxy.exchange.timer import CHUNK, WRITE
from streamproxy.formats.bom import BomFilter
from streamproxy.origins.base import OriginResponse
from streamproxy.proxy.early import EXPLAIN_TIMEOUT, EarlyHead
from streamproxy.proxy.plan import RelayPlan
from streamproxy.proxy.reading import Reading
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import EVENT_STREAM, NDJSON, STREAMING, media_type
from streamproxy.wire.response_fields import ResponseFields, passable_trailers


class Relay(Reading):
    """Carries one response: ``run`` takes all that it needs, and sends it to its end, or raises why it could not."""

    __slots__ = (
        "_blocked",
        "_fault",
        "_missing",
        "_response",
        "_source",
    )

    _blocked: bool  # a chunk was pushed, and the client's side holds more than it may
    _fault: BaseException | None  # what a push ran into
    _missing: ExchangeError | None  # why the body is incomplete, though it has ended; set by `_end`

    def run(
        self,
        call: Call,
        response: OriginResponse,
        fields: ResponseFields,
        plan: RelayPlan,
        dialect: Dialect,
        early: EarlyHead | None,
    ) -> Coroutine[Any, Any, None] | None:
        """Send the head with ``fields``, unless an ``early`` one has gone out; returns the coroutine that sends every
        chunk as it comes, and the end. None where all of that is done, for a body that was complete.

        It raises the ExchangeError of an upstream that does not finish, and OSError when a send finds that the client
        has left. Whatever it raises is for `fail`.
        """
        self._exchange = exchange = call.exchange
        self._downstream = downstream = call.downstream
        self._timer = timer = call.timer
        self._response = response
        self._source = response.body
        self._plan = plan
        self._dialect = dialect
        self._direct = downstream.direct
        self._inspector = None
        self._reads = False
        self._noted = -1
        self._keepalive_task = None
        self._bom = None
        self._blocked = False
        self._fault = None
        self._unread = b""
        self._over = False
        readable = self._classify(fields)
        exchange.phase = "body"
        timer.waits_for(CHUNK, exchange.head_at)
        if early is not None and early.sent:
            if readable:
                self._inspect(fields)
            self._bom = BomFilter()
            timer.kept_alive(early.last_at)
            return self._run(early.settle())
        held = response.complete or self._direct is not None  # `_run` has it written before it waits
        begun = downstream.begin(response.status, fields.kept, held, response.reason)
        at_once = begun is None and response.complete and plan.max_events is None
        whole = self._source.rest() if at_once else b""
        if readable:
            if whole and not self._reads:
                exchange.events = dialect.count_events(self._media, whole)
            if not exchange.events:
                self._inspect(fields)
        if not whole:
            return self._run(begun)
        waiting = self._end(whole)
        if waiting is not None or self._missing is not None:
            return self._run_out(waiting)
        return None

    def _classify(self, fields: ResponseFields) -> bool:
        """Find out what kind of stream it is, if one. Returns whether there is anything to read in the body."""
        self._media = media = media_type(fields.noted.get(b"content-type", b""))
        reads = self._dialect.reads_answers
        if media in STREAMING:
            self._exchange.streaming = True
            if self._plan.anti_buffering:
                fields.unbuffer()
        elif not reads:
            return False
        self._reads = reads and fields.plain
        return fields.plain

    def _inspect(self, fields: ResponseFields) -> None:
        """Have the body followed from its first byte on, with keepalives where they may be.

        A body that is all there is spared the inspector, if its dialect can count its events without.
        """
        exchange, response, plan = self._exchange, self._response, self._plan
        dialect, media = self._dialect, self._media
        has_length = b"content-length" in fields.noted
        if not exchange.streaming:
            self._inspector = dialect.inspector(response.status, media, has_length)
            return
        shared = response.inspector()
        inspector = dialect.inspector(response.status, media, fields.told_length) if shared is None else shared
        self._inspector = exchange.inspector = inspector
        may = plan.keepalive is not None and (media == EVENT_STREAM or (plan.ndjson and media in NDJSON))
        if may and response.status == 200 and not has_length and not response.complete:
            self._timer.keep_alive(self._keepalive, exchange.head_at)

    async def _run(self, begun: Awaitable[None] | None) -> None:
        exchange, timer, source, direct = self._exchange, self._timer, self._source, self._direct
        if begun is not None:
            await self._taken(begun, exchange.head_at)
        whole = source.rest() if self._response.complete and self._may_join() else b""
        while not whole:
            chunk = source.ready()
            if chunk is not None:
                if source.ended and self._may_join():
                    chunk += source.rest()
                    if source.ended:  # what it says is certain only now that nothing is ready
                        whole = chunk
                        break
                now = monotonic()
                waiting = self._pass(chunk, now)
                if waiting is not None:
                    now = await self._taken(waiting, now)
                timer.passed(now)
                if self._over:
                    raise EventLimitReached()
            elif source.ended:
                break
            elif direct is None:
                await source.change()
            elif not self._downstream.gone and source.pipe(self._push):
                direct.uncork()
                await source.change()
                source.pipe(None)
                if self._fault is not None:
                    raise self._fault
                if self._blocked:
                    self._blocked = False
                    timer.passed(await self._taken(direct.drained(), monotonic()))
            else:
                direct.uncork()
                await source.change()
        waiting = self._end(whole)
        if waiting is not None:
            await self._taken(waiting, monotonic())
        self._settle()

    async def _run_out(self, waiting: Awaitable[None] | None) -> None:
        """Wait for the client to take the end of the response."""
        if waiting is not None:
            await self._taken(waiting, monotonic())
        self._settle()

    def _settle(self) -> None:
        """After the end: no keepalive follows. Raises the error of a body that is incomplete."""
        if self._missing is not None:
            raise self._missing
        self._timer.stop_keepalives()
        if self._keepalive_task is not None:
            self._keepalive_task.cancel()

    def _pass(self, chunk: bytes, now: float) -> Awaitable[None] | None:
        """Send one chunk that was pulled; returns what to wait for, or None."""
        exchange, downstream = self._exchange, self._downstream
        chunk = self._count(chunk, now)
        if self._bom is not None:
            chunk = self._filter_bom(self._bom, chunk)
        if downstream.gone or not chunk:
            return None
        if not exchange.first_byte_at:
            exchange.first_byte_at = now
        if self._keepalive_task is not None:
            return self._write_after(self._keepalive_task, chunk)
        return downstream.write(chunk, True)

    def _push(self, chunk: bytes, framed: bytes) -> bool:
        """Send one chunk from within the read that brought it. Returns whether another may be pushed."""
        direct, exchange, now = self._direct, self._exchange, monotonic()
        assert direct is not None
        try:
            counted = self._count(chunk, now)
            if self._over:
                self._fault = EventLimitReached()
                chunk, framed = counted, b""
            if self._bom is not None:
                chunk, framed = self._filter_bom(self._bom, chunk), b""
            if chunk and not self._downstream.gone:
                self._blocked = not direct.push(chunk, framed)
                if not exchange.first_byte_at:
                    exchange.first_byte_at = now
        except Exception as error:  # it must not be raised into the transport of the other side
            self._fault = error
            return False
        self._timer.passed(now)
        return not self._blocked and not self._over

    def _filter_bom(self, bom: BomFilter, chunk: bytes) -> bytes:
        """The chunk without a byte order mark that has lost its place at the very start."""
        chunk = bom.feed(chunk)
        if bom.done:
            self._bom = None
        return chunk

    def _may_join(self) -> bool:
        """Whether what is there of a body that has ended may go out in one piece with the end of the response."""
        return self._bom is None and self._plan.max_events is None and self._keepalive_task is None

    def _end(self, whole: bytes) -> Awaitable[None] | None:
        """The body has ended in good order: end the response; with ``whole``, all that is left of it goes with the end.

        Returns what to wait for, or None.
        """
        exchange, downstream, now = self._exchange, self._downstream, monotonic()
        if self._unread:
            self._catch_up()
        if whole:
            self._add_up(whole, now)
            if self._inspector is not None:
                self._read(self._inspector, whole, now)
            if not (downstream.gone or exchange.first_byte_at):
                exchange.first_byte_at = now
            exchange.last_read_at = 0.0  # no silence has come before its end
        else:
            exchange.end_reads(now)
        self._missing = self._finish(self._inspector) if self._inspector is not None else None
        if downstream.gone:
            return None
        if self._missing is not None:  # its end must not look like one
            return downstream.write(whole, True) if whole else None
        rest = whole or (self._bom.finish() if self._bom is not None else b"")
        trailers = self._source.trailers
        if not trailers:
            return downstream.write(rest, False)
        return self._write_last(rest, trailers) if rest else downstream.finish(passable_trailers(trailers))

    async def _taken(self, waiting: Awaitable[None], since: float) -> float:
        """Wait for the client to take what was sent at ``since``; returns the time."""
        exchange, timer = self._exchange, self._timer
        timer.waits_for(WRITE, since)
        exchange.blocked_since = since
        try:
            await waiting
        except OSError:
            if not self._downstream.gone:
                raise
        finally:
            now = monotonic()
            exchange.backpressure += now - since
            exchange.blocked_since = 0.0
        timer.waits_for(CHUNK, now)
        return now

    async def _write_after(self, keepalive: asyncio.Task[None], chunk: bytes) -> None:
        await keepalive
        waiting = self._downstream.write(chunk, True)
        if waiting is not None:
            await waiting

    async def _write_last(self, rest: bytes, trailers: Headers) -> None:
        waiting = self._downstream.write(rest, True)
        if waiting is not None:
            await waiting
        waiting = self._downstream.finish(passable_trailers(trailers))
        if waiting is not None:
            await waiting

    # Ends.

    async def fail(self, fault: BaseException) -> None:
        """After ``run`` has raised ``fault``: read and send no more, and explain it to the client.

        Raises ClientDisconnected when the fault was that the client has left.
        """
        self._source.pipe(None)
        self._catch_up()
        self._stop_keepalives()
        if isinstance(fault, OSError):
            raise ClientDisconnected() from fault  # ASGI: send() after the client left
        if isinstance(fault, ExchangeError | asyncio.CancelledError):
            error = self._exchange.interruption or fault  # a time-out or a drain comes as a cancellation
            if isinstance(error, ExchangeError):
                await self._explain(error)

    async def _explain(self, error: ExchangeError) -> None:
        """Before the abort, tell the client what happened, if its route wants that and no event would be cut.

        Nothing comes behind a failure that the stream itself has reported.
        """
        inspector = self._inspector
        if (
            self._plan.error_event
            and self._exchange.failure is None
            and inspector is not None
            and inspector.between_events
            and self._timer.waits == CHUNK
            and not isinstance(error, ClientError)
        ):
            event = self._dialect.stream_error(error, self._exchange.request_id, self._media)
            if not event:
                return
            with contextlib.suppress(OSError, TimeoutError):  # the client left, or takes nothing
                waiting = self._downstream.write(event, True)
                if waiting is not None:
                    await asyncio.wait_for(waiting, EXPLAIN_TIMEOUT)
