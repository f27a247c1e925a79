"""The origin of routes with ``reconnect``: asks again for an event stream that its upstream broke.

Theory of operation. Only whole events are passed on, as the bytes that they came in: what has come of an unfinished one
is held, and dropped when the stream breaks, since it comes whole from the next answer. While nothing is held and a read
is whole events, it is passed on in the read itself.

A body is in one of these states::

    reads ──breaks, and the last event had an id──▶ pauses ──▶ asks ──an event stream──▶ reads (or skips)
                                                      ▲          │
                                                      └─refused──┘   until the attempts are used up: then it is cut

An answer that begins with an id that was sent already is skipped up to the last one that was sent. Asking again runs in
the wait for the next chunk, so that it ends when the exchange does, and keepalives and the idle time-out go on over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final

from streamproxy.client.base import ChunkSource, Sink
from streamproxy.errors import BadResponse, ExchangeError, ResponseIncomplete, UpstreamError
from streamproxy.exchange.call import Call
from streamproxy.exchange.timer import CHUNK
from streamproxy.formats.bom import BOM
from streamproxy.formats.sse import blocks_of
from streamproxy.origins.base import Origin, OriginResponse, OwnResponse, is_event_stream
from streamproxy.wire.headers import RequestFields

_LONGEST: Final = 1 << 20  # bytes of an unfinished event that are held
_KNOWN: Final = 4096  # ids that are remembered


@dataclass(frozen=True, slots=True)
class ReconnectPlan:
    """What a route says of reconnecting, bound when the configuration is loaded; seconds."""

    attempts: int
    backoff: float
    on_end: bool


class EventLog:
    """What has to be known of the events that were passed on. ``last_id`` is None where the last one had none."""

    __slots__ = ("_ids", "_passes", "_skips_to", "last_id", "passed", "retry", "starts")

    def __init__(self) -> None:
        self.last_id: bytes | None = None
        self.retry = 0.0  # seconds, as the stream asked for
        self.passed = 0
        self._ids: dict[bytes, None] = {}
        self.starts = True  # the next event is the first of an answer
        self._skips_to: bytes | None = None
        self._passes = True  # whether the last block was passed on

    @property
    def skips(self) -> bool:
        """Whether events are left out until the last one that was sent."""
        return self._skips_to is not None

    def restart(self) -> None:
        """Another answer begins."""
        self.starts = True
        self._skips_to = None

    def take(self, block: bytes) -> bool:
        """Take note of a block of lines. Returns whether it is to be passed on."""
        if block != b"\n":  # the LF of a CR LF that was split goes where its CR went
            self._passes = self._judge(block)
        return self._passes

    def _judge(self, block: bytes) -> bool:
        id, retry, is_event = _fields(block)
        if self.starts and (is_event or id is not None):
            self.starts = False
            if id is not None and id in self._ids:
                self._skips_to = self.last_id
        if self._skips_to is not None:
            if id == self._skips_to:
                self._skips_to = None
            return False
        if retry is not None:
            self.retry = retry
        if id is not None:
            self.last_id = id or None
            if id:
                self._remember(id)
        elif is_event:
            self.last_id = None
        self.passed += is_event
        return True

    def _remember(self, id: bytes) -> None:
        self._ids.pop(id, None)
        self._ids[id] = None
        if len(self._ids) > _KNOWN:
            # The first one stays: an upstream that knows no ids begins with it again.
            _first, second = (key for key, _ in zip(self._ids, range(2), strict=False))
            del self._ids[second]


def _fields(block: bytes) -> tuple[bytes | None, float | None, bool]:
    """The id and the reconnection time (in seconds) of a block, None without; and whether it is an event."""
    id: bytes | None = None
    retry: float | None = None
    is_event = False
    for line in block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            is_event = True
        elif name == b"id" and b"\0" not in value:
            id = value
        elif name == b"retry" and value.isdigit() and len(value) < 9:
            retry = int(value) / 1000
    return id, retry, is_event


class ReconnectedBody(ChunkSource):
    """The events of one stream, from one answer after the other."""

    __slots__ = (
        "_again",
        "_broken",
        "_ended",
        "_failures",
        "_fault",
        "_held",
        "_log",
        "_plan",
        "_response",
        "_sink",
        "_too_long",
    )

    def __init__(
        self, plan: ReconnectPlan, response: OriginResponse, again: Callable[[bytes], Awaitable[OriginResponse]]
    ) -> None:
        self._plan = plan
        self._response: OriginResponse | None = response  # None while there is none
        self._broken: OriginResponse | None = None  # one that has to be let go of
        self._again = again
        self._log = EventLog()
        self._held = b""
        self._too_long = False
        self._failures = 0  # in a row, without an event between
        self._ended = False
        self._fault: ExchangeError | None = None  # why the last answer broke
        self._sink: Sink | None = None

    @property
    def ended(self) -> bool:
        return self._ended

    def ready(self) -> bytes | None:
        while (response := self._response) is not None and not self._too_long:
            try:
                chunk = response.body.ready()
            except UpstreamError as fault:
                self._broke(fault)
                break
            if chunk is None:
                if not response.body.ended:
                    return None
                self._came_to_end()
                break
            whole = self._whole_events(chunk)
            if whole:
                return whole
        if self._ended:
            rest, self._held = self._held, b""
            return rest or None
        if self._too_long:
            raise BadResponse("An event of the stream is too long to be asked for again")
        if self._fault is not None and not self._may_ask():
            raise self._fault
        return None

    async def change(self) -> None:
        response = self._response
        if response is None:
            await self._reconnect()
            return
        fault: UpstreamError | None = None
        try:
            await response.body.change()
        except UpstreamError as error:
            fault = error
        if fault is not None:
            self._broke(fault)

    def pipe(self, sink: Sink | None) -> bool:
        self._sink = sink
        response = self._response
        if response is None:
            return False
        return response.body.pipe(self._take if sink is not None else None)

    async def aclose(self, fault: BaseException | None) -> None:
        """Let go of the answer that is being read."""
        broken, self._broken = self._broken, None
        response, self._response = self._response, None
        failure: BaseException | None = None
        try:
            if broken is not None:
                await broken.aclose(self._fault)
        except BaseException as error:
            failure = error
        if response is not None:
            await response.aclose(fault)
        if failure is not None:
            raise failure

    def _take(self, chunk: bytes, framed: bytes) -> bool:
        whole = self._whole_events(chunk)
        if not whole or self._sink is None:
            return not self._too_long
        return self._sink(whole, framed if whole is chunk else b"")

    def _whole_events(self, chunk: bytes) -> bytes:
        """What is to be passed on now that this chunk has come: whole events, the chunk itself where it is that."""
        log, passed = self._log, self._log.passed
        data = self._held + chunk if self._held else chunk
        if log.starts:
            data = data.removeprefix(BOM)
        end, left_out, kept = 0, False, []
        for begin, end in blocks_of(data):
            block = data[begin:end]
            if log.take(block):
                kept.append(block)
            else:
                left_out = True
        self._held = data[end:]
        self._too_long = len(self._held) > _LONGEST
        if log.passed > passed:
            self._failures = 0
        if left_out:
            return b"".join(kept)
        return data if end == len(data) else data[:end]

    def _came_to_end(self) -> None:
        """The answer has ended in good order."""
        if self._log.skips:
            self._broke(ResponseIncomplete(note="the upstream began again, and did not come to where it was"))
            self._failures = self._plan.attempts
        elif self._plan.on_end and self._may_ask():
            self._broke(None)
        else:
            self._ended = True

    def _may_ask(self) -> bool:
        return self._log.last_id is not None and self._failures < self._plan.attempts

    def _broke(self, fault: ExchangeError | None) -> None:
        self._fault = fault
        self._held = b""
        self._broken, self._response = self._response, None

    async def _reconnect(self) -> None:
        """One attempt: pause and ask."""
        last_id = self._log.last_id
        assert last_id is not None
        self._failures += 1
        broken, self._broken = self._broken, None
        if broken is not None:
            await broken.aclose(self._fault)
        await asyncio.sleep(max(self._plan.backoff, self._log.retry))
        try:
            response = await self._again(last_id)
        except UpstreamError as fault:
            self._refused(fault)
            return
        if response.status == 204:
            self._ended = True
        elif is_event_stream(response):
            self._log.restart()
            self._fault = None
            self._response = response
            return
        else:
            self._refused(ResponseIncomplete(note=f"the upstream answered {response.status} when asked again"))
            if response.status < 500:
                self._failures = self._plan.attempts
        await response.aclose(None)

    def _refused(self, fault: ExchangeError) -> None:
        """An attempt has failed. A stream that had ended in good order still has."""
        if self._fault is not None:
            self._fault = fault
        elif self._failures >= self._plan.attempts:
            self._ended = True


class ReconnectedResponse(OwnResponse):
    """A response whose body is asked for again when it breaks."""

    __slots__ = ("_events",)

    def __init__(self, inner: OriginResponse, body: ReconnectedBody) -> None:
        super().__init__(inner.status, inner.fields, body)
        self.reason = inner.reason
        self.version = inner.version
        self._events = body

    async def aclose(self, fault: BaseException | None) -> None:
        await self._events.aclose(fault)


class ReconnectOrigin(Origin):
    """Asks again for the streams of one route."""

    __slots__ = ("_inner", "_plan")

    def __init__(self, plan: ReconnectPlan, inner: Origin) -> None:
        self._plan = plan
        self._inner = inner

    async def open(self, call: Call) -> OriginResponse:
        response = await self._inner.open(call)
        if call.downstream.method != "GET" or not is_event_stream(response):
            return response
        response.fields.drop_length()
        return ReconnectedResponse(response, ReconnectedBody(self._plan, response, partial(self._again, call)))

    async def _again(self, call: Call, last_id: bytes) -> OriginResponse:
        """Ask for the events after one. The exchange keeps the times and the phase of its first answer."""
        exchange, downstream = call.exchange, call.downstream
        headers = [pair for pair in downstream.headers if pair[0] != b"last-event-id"]
        headers.append((b"last-event-id", last_id))
        downstream.headers = headers
        downstream.fields = RequestFields().prepare(headers)
        sent_at, head_at, phase = exchange.sent_at, exchange.head_at, exchange.phase
        try:
            return await self._inner.open(call)
        finally:
            exchange.sent_at, exchange.head_at, exchange.phase = sent_at, head_at, phase
            call.timer.waits_for(CHUNK, monotonic())
