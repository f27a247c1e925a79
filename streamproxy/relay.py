"""The relay: one upstream response to one client, chunk by chunk.

Theory of operation. Chunks are pulled: the relay asks the upstream for the next one only when the client's side has
taken the last, and that one rule is the backpressure from the client's socket to the upstream's. One chunk is in one
of two places: being waited for (CHUNK) or being sent (WRITE); the exchange's watch reads that and its time.

Only one writer sends at a time. A keepalive is sent while the relay waits for a chunk, by a task of its own that
lives as long as the send; the pending read is never touched, and a chunk that arrives meanwhile waits for the
keepalive to be out. So a keepalive stands exactly where the tracker says that nothing is cut.

What is counted per chunk is counted in the exchange's own slots.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator
from time import monotonic
from typing import NamedTuple

from streamproxy.downstream import Downstream
from streamproxy.errors import ClientDisconnected, ClientError, ExchangeError
from streamproxy.exchange import TIME_BUCKETS, Exchange
from streamproxy.watch import CHUNK, FOREVER, WRITE, Watch
from streamproxy.wire.headers import ResponseFields
from streamproxy.wire.media import EVENT_STREAM, NDJSON, STREAMING, media_type
from streamproxy.wire.problem import error_event
from streamproxy.wire.sse import KeepaliveShape, LineCounter, SseTracker

EXPLAIN_TIMEOUT = 1.0  # seconds for a client to take the last event of a stream that is aborted


class RelaySettings(NamedTuple):
    """What a route says of its responses, bound when the configuration is loaded."""

    keepalive: KeepaliveShape | None
    anti_buffering: bool
    error_event: bool


class Relay:
    """Carries one response. ``run`` sends it to its end, or raises why it could not."""

    __slots__ = ("_downstream", "_exchange", "_pending", "_settings", "_tracker", "_watch")

    def __init__(self, exchange: Exchange, downstream: Downstream, watch: Watch, settings: RelaySettings) -> None:
        self._exchange = exchange
        self._downstream = downstream
        self._watch = watch
        self._settings = settings
        self._tracker: SseTracker | LineCounter | None = None
        self._pending: asyncio.Task[None] | None = None  # a keepalive on its way

    def _classify(self, status: int, fields: ResponseFields) -> None:
        """Find out what kind of stream it is, if one."""
        media = media_type(fields.noted.get(b"content-type", b""))
        if media not in STREAMING:
            return
        self._exchange.streaming = True
        if fields.plain:
            if media == EVENT_STREAM:
                self._tracker = self._exchange.tracker = SseTracker()
                keepalive = self._settings.keepalive
                if keepalive is not None and status == 200 and b"content-length" not in fields.noted:
                    self._watch.on_idle = self._keepalive
                    self._watch.keepalive_since = monotonic()
            elif media in NDJSON:
                self._tracker = LineCounter()
        if self._settings.anti_buffering:
            fields.unbuffer()

    async def run(self, status: int, fields: ResponseFields, chunks: AsyncIterator[bytes]) -> None:
        """Send the head, then every chunk as it comes, then the end.

        Raises the ExchangeError of an upstream that does not finish, and ClientDisconnected when the server says so
        on a send.
        """
        self._classify(status, fields)
        exchange, watch, downstream = self._exchange, self._watch, self._downstream
        exchange.phase = "body"
        watch.waits, watch.since = WRITE, monotonic()
        try:
            waiting = downstream.begin(status, fields.kept)
            if waiting is not None:
                await waiting
            watch.since = monotonic()
            watch.waits = CHUNK
            await self._chunks(chunks)
            watch.waits, watch.since = WRITE, monotonic()
            if isinstance(self._tracker, LineCounter):
                self._tracker.finish()
                exchange.events = self._tracker.events
            if not downstream.gone:
                waiting = downstream.write(b"", False)
                if waiting is not None:
                    await waiting
        except BaseException as fault:
            # A generator that is left in the middle would be closed by the garbage collector, in a task of its own.
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
            if isinstance(fault, OSError):
                raise ClientDisconnected() from fault  # ASGI: send() after the client left
            raise
        finally:
            watch.keepalive_since = FOREVER
            if self._pending is not None:
                self._pending.cancel()

    async def _chunks(self, chunks: AsyncIterator[bytes]) -> None:
        exchange, watch, downstream, tracker = self._exchange, self._watch, self._downstream, self._tracker
        write = downstream.write
        gaps: list[int] | None = None
        idles = watch.keepalive_since != FOREVER
        async for chunk in chunks:
            now = monotonic()
            if exchange.last_read_at and exchange.streaming:
                if gaps is None:
                    gaps = exchange.gap_counts = [0] * (len(TIME_BUCKETS) + 1)
                gap = now - exchange.last_read_at
                gaps[bisect_left(TIME_BUCKETS, gap)] += 1
                exchange.gap_sum += gap
            exchange.last_read_at = now
            exchange.chunks += 1
            exchange.response_bytes += len(chunk)
            if tracker is not None:
                tracker.feed(chunk)
                exchange.events = tracker.events
            if downstream.gone:
                watch.since = now
                continue
            watch.waits, watch.since = WRITE, now
            if self._pending is not None:
                await self._pending
            try:
                waiting = write(chunk, True)
                if waiting is not None:
                    await waiting
            except OSError:
                if not downstream.gone:
                    raise
            after = monotonic()
            exchange.backpressure += after - now
            if not exchange.first_byte_at:
                exchange.first_byte_at = after
            watch.since = after
            if idles:
                watch.keepalive_since = after
            watch.waits = CHUNK

    def _keepalive(self) -> None:
        """Called by the watch when nothing went downstream for the interval, while a chunk is waited for."""
        now = monotonic()
        tracker = self._tracker
        self._watch.keepalive_since = now
        shape = self._settings.keepalive
        if (
            shape is None
            or self._pending is not None
            or self._downstream.gone
            or not isinstance(tracker, SseTracker)
            or not tracker.between_events
        ):
            return
        self._pending = asyncio.get_running_loop().create_task(self._send_keepalive(shape.render(tracker.saw_id)))

    async def _send_keepalive(self, comment: bytes) -> None:
        try:
            waiting = self._downstream.write(comment, True)
            if waiting is not None:
                await waiting
            self._exchange.keepalives += 1
        except OSError:
            pass  # the client left; the exchange hears of it by itself
        finally:
            self._pending = None

    async def explain(self, error: ExchangeError) -> None:
        """Before the abort, tell an SSE client what happened, if its route wants that and no event would be cut."""
        if (
            self._settings.error_event
            and isinstance(self._tracker, SseTracker)
            and self._tracker.between_events
            and self._watch.waits == CHUNK
            and not isinstance(error, ClientError)
        ):
            event = error_event(error, self._exchange.request_id)
            with contextlib.suppress(OSError, TimeoutError):  # the client left, or takes nothing
                async with asyncio.timeout(EXPLAIN_TIMEOUT):
                    waiting = self._downstream.write(event, True)
                    if waiting is not None:
                        await waiting
