"""A head that does not wait for the upstream's: ``keepalive.before_headers``.

Theory of operation. A client that asks for events gets a 200 of the proxy's own when there is no response head in time,
and comments from then on. Whatever goes on behind that (the queue, retries, fallbacks, the gate, a wait for an
endpoint) knows nothing of it: the timer of the exchange calls `EarlyHead` beside what it waits for. `stop` ends the
comments when the upstream has answered or failed. If the head had gone out by then, the relay goes on behind it
(`settle`, `last_at`) with a response that it fits (`mismatch`); everything else is told in an error event (`explain`),
and the response is broken off.

The client's side has one writer at a time. Where the server has to be waited for, a task waits, and no further comment
is begun while it does; whoever takes over waits for that task first. A comment that the client has not taken counts for
the ``write`` time-out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from time import monotonic
from typing import Any, Final

from streamproxy.dialects.base import Dialect
from streamproxy.errors import ClientError, ExchangeError, UpstreamReportedError
from streamproxy.exchange.call import Call
from streamproxy.exchange.clock import http_date
from streamproxy.exchange.timer import CHUNK
from streamproxy.formats.sse import KeepaliveShape
from streamproxy.origins.base import Origin, OriginResponse, is_event_stream
from streamproxy.wire.edits import NO_EDIT, Edit
from streamproxy.wire.media import EVENT_STREAM, accepts_event_stream
from streamproxy.wire.response_fields import ResponseFields

EXPLAIN_TIMEOUT: Final = 1.0  # seconds for a client to take the last event of a response that is aborted
_LARGEST: Final = 64 << 10  # bytes of an upstream's error that are read to be passed on


class EarlyPlan:
    """What a route says of its early heads."""

    __slots__ = ("anti_buffering", "buffer", "edit", "shape")

    def __init__(self, shape: KeepaliveShape, edit: Edit, buffer: int, anti_buffering: bool) -> None:
        self.shape = shape
        self.edit = edit
        self.buffer = buffer
        self.anti_buffering = anti_buffering


def wants_events(call: Call, dialect: Dialect) -> bool:
    """Whether a request asks for an event stream: by its Accept, or as its API does, by the target or the body."""
    downstream = call.downstream
    if downstream.method == "HEAD" or downstream.websocket_key is not None:
        return False
    if accepts_event_stream(downstream.fields.noted.get(b"accept", b"")):
        return True
    target = downstream.target
    return dialect.asks_for_events(target.path, target.query, call.peeked.stream if call.peeked else None)


class EarlyHead:
    """The early head of one request, which is due from the beginning on.

    ``sent`` says that it has been begun, ``opening`` is the origin that is waited for: a head that goes out in the
    queue, before there is one, does not name the stream.
    """

    __slots__ = ("_call", "_dialect", "_plan", "_task", "last_at", "opening", "sent")

    def __init__(self, call: Call, plan: EarlyPlan, dialect: Dialect) -> None:
        self._call = call
        self._plan = plan
        self._dialect = dialect
        self._task: asyncio.Task[None] | None = None
        self.sent = False
        self.opening: Origin | None = None
        self.last_at = 0.0  # when the last comment went out
        call.timer.early(self._due)

    def _due(self) -> None:
        """Send the head with a first comment, or the next comment."""
        timer, now = self._call.timer, monotonic()
        timer.sent_early(now)
        if self._task is not None:
            return
        begins, self.sent, self.last_at = not self.sent, True, now
        direct = self._call.downstream.direct
        if direct is None:
            self._begin(self._write(begins), now)
            return
        try:
            if begins:
                self._open()
            taken = direct.push(self._comment(), b"")
        except OSError:
            return  # the client left; the exchange hears of it by itself
        self._call.exchange.keepalives += 1
        if not taken:
            self._begin(self._await_room(), now)

    def _comment(self) -> bytes:
        shape = self._plan.shape
        return b"\n" if shape.auto and self._dialect.keepalive == "blank" else shape.render(saw_id=False)

    def _open(self) -> Any:
        """Send the head; returns what to wait for, or None."""
        call, plan = self._call, self._plan
        origin, named = self.opening, []
        if origin is not None and not origin.replays(call):
            named = origin.early_fields(call)
        fields = ResponseFields().prepare([(b"content-type", EVENT_STREAM), *named])
        if plan.anti_buffering:
            fields.unbuffer()
        fields.pass_on(call.exchange.request_id.encode(), http_date())
        headers = fields.kept if plan.edit is NO_EDIT else plan.edit.apply(fields.kept)
        call.downstream.hold(plan.buffer)
        return call.downstream.begin(200, headers, False)

    def _begin(self, work: Coroutine[Any, Any, None], now: float) -> None:
        self._call.timer.got_stuck(now)
        self._task = asyncio.get_running_loop().create_task(work)

    async def _write(self, begins: bool) -> None:
        try:
            if begins:
                begun = self._open()
                if begun is not None:
                    await begun
            waiting = self._call.downstream.write(self._comment(), True)
            if waiting is not None:
                await waiting
            self._call.exchange.keepalives += 1
        except OSError:
            pass  # the client left; the exchange hears of it by itself
        finally:
            self._over()

    async def _await_room(self) -> None:
        direct = self._call.downstream.direct
        assert direct is not None
        try:
            await direct.drained()
        except OSError:
            pass
        finally:
            self._over()

    def _over(self) -> None:
        self._task = None
        self._call.timer.got_unstuck()

    # Whoever takes over.

    def stop(self) -> bool:
        """Send no more. Returns whether the head has gone out."""
        self._call.timer.stop_early()
        return self.sent

    async def settle(self) -> None:
        """Wait until the client's side is free for others."""
        if self._task is not None:
            await self._task

    async def mismatch(self, response: OriginResponse) -> ExchangeError | None:
        """Why the head does not fit a response; None where it does. Reads the body of an error, to pass it on."""
        if is_event_stream(response):
            return None
        status = response.status
        if status < 400:
            return UpstreamReportedError("The upstream answered with something else than a stream of events")
        self._call.timer.waits_for(CHUNK, monotonic())
        payload = await _beginning(response) if response.fields.plain else b""
        return UpstreamReportedError(f"The upstream answered with status {status}", payload=payload)

    async def explain(self, error: ExchangeError) -> None:
        """Tell the client in an event why there is no stream, behind the head; not one that has left."""
        if isinstance(error, ClientError):
            return
        with contextlib.suppress(OSError, TimeoutError):  # the client left, or takes nothing
            await asyncio.wait_for(self._say(error), EXPLAIN_TIMEOUT)

    async def _say(self, error: ExchangeError) -> None:
        await self.settle()
        event = self._dialect.stream_error(error, self._call.exchange.request_id, EVENT_STREAM)
        waiting = self._call.downstream.write(event, True)
        if waiting is not None:
            await waiting

    def close(self) -> None:
        """Leave nothing running."""
        self.stop()
        if self._task is not None:
            self._task.cancel()


async def _beginning(response: OriginResponse) -> bytes:
    """The body of an error, or nothing where it is too long or its upstream does not finish it."""
    source, read, size = response.body, [], 0
    while size <= _LARGEST:
        try:
            chunk = source.ready()
        except ExchangeError:
            return b""
        if chunk is not None:
            read.append(chunk)
            size += len(chunk)
        elif source.ended:
            return b"".join(read)
        else:
            await source.change()
    return b""
