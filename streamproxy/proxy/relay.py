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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import Any

from streamproxy.client.base import Response
from streamproxy.client.http1 import Stream
from streamproxy.dialects.http import error_event
from streamproxy.errors import ClientDisconnected, ClientError, ExchangeError
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import TIME_BUCKETS, Exchange
from streamproxy.exchange.timer import CHUNK, FOREVER, WRITE, Watch
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import KeepaliveShape, SseTracker
from streamproxy.wire.headers import ResponseFields
from streamproxy.wire.media import EVENT_STREAM, NDJSON, STREAMING, media_type

EXPLAIN_TIMEOUT = 1.0  # seconds for a client to take the last event of a stream that is aborted


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What a route says of its responses, bound when the configuration is loaded."""

    keepalive: KeepaliveShape | None
    anti_buffering: bool
    error_event: bool


class Relay:
    """Carries one response. ``run`` sends it to its end, or raises why it could not."""

    __slots__ = ("_chunks", "_downstream", "_exchange", "_pending", "_settings", "_tracker", "_watch")

    def __init__(self, exchange: Exchange, downstream: Downstream, watch: Watch, settings: RelaySettings) -> None:
        self._exchange = exchange
        self._downstream = downstream
        self._watch = watch
        self._settings = settings
        self._tracker: SseTracker | LineCounter | None = None
        self._pending: asyncio.Task[None] | None = None  # a keepalive on its way
        self._chunks: AsyncIterator[bytes] | None = None

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
                    self._watch.keepalive_since = self._exchange.head_at
            elif media in NDJSON:
                self._tracker = LineCounter()
        if self._settings.anti_buffering:
            fields.unbuffer()

    def run(
        self, response: Response, fields: ResponseFields, chunks: AsyncIterator[bytes]
    ) -> Coroutine[Any, Any, None]:
        """Send the head; gives the coroutine that sends every chunk as it comes, and the end.

        It raises the ExchangeError of an upstream that does not finish, and OSError when a send finds that the client
        has left. Whatever it raises is for `fail`.
        """
        status = response.status_code
        self._chunks = chunks
        self._classify(status, fields)
        self._exchange.phase = "body"
        watch = self._watch
        watch.waits, watch.since = CHUNK, self._exchange.head_at
        return self._run(self._downstream.begin(status, fields.kept, response.complete), chunks)

    async def _run(self, begun: Awaitable[None] | None, chunks: AsyncIterator[bytes]) -> None:
        exchange, watch, downstream, tracker = self._exchange, self._watch, self._downstream, self._tracker
        write, streaming, idles = downstream.write, exchange.streaming, watch.keepalive_since != FOREVER
        if begun is not None:
            await self._taken(begun, exchange.head_at)
        stream = chunks if isinstance(chunks, Stream) else None
        while True:
            if stream is None:
                chunk = await anext(chunks, None)
            else:
                chunk = stream.ready()
                while chunk is None and not stream.ended:
                    await stream.change()
                    chunk = stream.ready()
            if chunk is None:
                break
            now = monotonic()
            if streaming and exchange.last_read_at:
                self._count_gap(now - exchange.last_read_at)
            exchange.last_read_at = now
            exchange.chunks += 1
            exchange.response_bytes += len(chunk)
            if tracker is not None:
                tracker.feed(chunk)
                exchange.events = tracker.events
            if downstream.gone:
                watch.since = now
                continue
            waiting = write(chunk, True) if self._pending is None else self._write_after(self._pending, chunk)
            if waiting is not None:
                now = await self._taken(waiting, now)
            if not exchange.first_byte_at:
                exchange.first_byte_at = now
            watch.since = now
            if idles:
                watch.keepalive_since = now
        if tracker is not None:
            tracker.finish()
            exchange.events = tracker.events
        waiting = write(b"", False) if not downstream.gone else None
        if waiting is not None:
            await self._taken(waiting, monotonic())
        self._stop_keepalives()

    def _count_gap(self, gap: float) -> None:
        exchange = self._exchange
        if exchange.gap_counts is None:
            exchange.gap_counts = [0] * (len(TIME_BUCKETS) + 1)
        exchange.gap_counts[bisect_left(TIME_BUCKETS, gap)] += 1
        exchange.gap_sum += gap

    async def _taken(self, waiting: Awaitable[None], since: float) -> float:
        """Wait for the client to take what was sent at ``since``; gives the time."""
        exchange, watch = self._exchange, self._watch
        watch.waits, watch.since = WRITE, since
        try:
            await waiting
        except OSError:
            if not self._downstream.gone:
                raise
        now = watch.since = monotonic()
        exchange.backpressure += now - since
        watch.waits = CHUNK
        return now

    async def _write_after(self, keepalive: asyncio.Task[None], chunk: bytes) -> None:
        await keepalive
        waiting = self._downstream.write(chunk, True)
        if waiting is not None:
            await waiting

    def _stop_keepalives(self) -> None:
        self._watch.keepalive_since = FOREVER
        if self._pending is not None:
            self._pending.cancel()

    async def fail(self, fault: BaseException) -> None:
        """After ``run`` has raised ``fault``: read and send no more, and explain it to the client.

        Raises ClientDisconnected when the fault was that the client has left.
        """
        self._stop_keepalives()
        # A generator that is left in the middle would be closed by the garbage collector, in a task of its own.
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()
        if isinstance(fault, OSError):
            raise ClientDisconnected() from fault  # ASGI: send() after the client left
        if isinstance(fault, ExchangeError | asyncio.CancelledError):
            error = self._exchange.interruption or fault  # a time-out or a drain comes as a cancellation
            if isinstance(error, ExchangeError):
                await self._explain(error)

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

    async def _explain(self, error: ExchangeError) -> None:
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
                waiting = self._downstream.write(event, True)
                if waiting is not None:
                    await asyncio.wait_for(waiting, EXPLAIN_TIMEOUT)
