"""The origin of routes with ``resume``: keeps what another origin opens, and answers cursors from what is kept.

Theory of operation. A response that can be taken up again is read into the store by a task of its own, the *reader*,
and each client, the first one too, reads the store. So nobody waits for anybody else: the upstream is read on while at
least one client keeps up, or none is there.

The exchange of the first client stands for the stream. When that client leaves, the exchange goes on without it: it
holds its place, it is listed, and it is counted when the stream ends. A stream that nobody reads for ``grace``, or that
its owner deletes, ends by interrupting that exchange, as any time-out does. Clients that come back have exchanges of
their own, which end without touching the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamproxy.client.base import ChunkSource
from streamproxy.dialects.base import Dialect
from streamproxy.dialects.http import HTTP
from streamproxy.errors import (
    ClientDisconnected,
    EventLimitReached,
    ResponseIncomplete,
    StoppedByOperator,
    StreamGone,
    StreamUnknown,
)
from streamproxy.exchange.call import Call
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.tally import Tally
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.sse import SseTracker
from streamproxy.origins.base import Origin, OriginResponse, OwnResponse
from streamproxy.origins.owner import owner_by, owner_of
from streamproxy.origins.reader import Reader, judge_of
from streamproxy.store.base import KeptStream, StopReason, StreamHead, StreamStore
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import CURSOR_FIELD, Cursor, cursor_of
from streamproxy.store.segments import Format
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import EVENT_STREAM, NDJSON, media_type
from streamproxy.wire.response_fields import ResponseFields

RESULTS: Final = ("live", "replayed", "complete", "gone", "refused")  # of a request with a cursor


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What a route says of resuming, bound when the configuration is loaded."""

    route: str
    authenticated: bool  # the owner is the principal
    ids: bool
    tallies: Mapping[str, Tally]  # `streamproxy_resumed_total` of the route, by result
    buffer: int  # bytes that the client that is furthest may be behind before the upstream is held
    dialect: Dialect = HTTP
    max_events: int | None = None  # of one stream
    throttled: Tally | None = None  # the streams that were cut for it


class NothingToSend(ChunkSource):
    """The body of a response without one."""

    __slots__ = ()

    @property
    def ended(self) -> bool:
        return True

    def ready(self) -> bytes | None:
        return None


class EmptyResponse(OwnResponse):
    """204: the stream has ended and there is nothing after the cursor, or it was stopped. Or the answer to HEAD."""

    __slots__ = ()

    def __init__(self, status: int = 204, fields: Headers | None = None) -> None:
        super().__init__(status, ResponseFields().prepare(fields or []), NothingToSend())
        self.complete = True

    async def aclose(self, fault: BaseException | None) -> None:
        """There is nothing to let go of."""


class ReplayedResponse(OwnResponse):
    """A stream from a cursor on."""

    __slots__ = ("_media", "_stored")

    def __init__(self, cursor: Cursor, content_type: bytes, body: StoredBody) -> None:
        super().__init__(200, ResponseFields().prepare(_replayed_fields(cursor, content_type)), body)
        self._stored = body
        self._media = media_type(content_type)

    def inspector(self) -> Inspector | None:
        """One that only tells events apart: usage and failures belong to the stream's own exchange."""
        return HTTP.inspector(200, self._media)

    async def aclose(self, fault: BaseException | None) -> None:
        self._stored.close()


class KeptTracker(SseTracker):
    """Follows a kept stream with ids of ours without counting again what was counted to write them."""

    __slots__ = ("_body",)

    def __init__(self, body: StoredBody) -> None:
        super().__init__()
        self._body = body

    def feed(self, chunk: bytes) -> None:
        """Follows the next bytes of the stream."""
        body = self._body
        # The first id has to be seen here.
        if chunk is body.passing and body.whole and self._whole and self.saw_id:
            self.passed_over(body.whole)
        else:
            SseTracker.feed(self, chunk)


class KeptResponse(OwnResponse):
    """A response that another origin has opened, read through the store.

    ``tracker`` counts its events if they have ids of ours and nothing else is read in them.
    """

    __slots__ = ("_exchange", "_inner", "_reader", "_stored", "_stream", "_throttled", "_tracker")

    def __init__(
        self,
        inner: OriginResponse,
        stream: KeptStream,
        body: StoredBody,
        exchange: Exchange,
        tracker: KeptTracker | None,
    ) -> None:
        super().__init__(inner.status, inner.fields, body)
        self._tracker = tracker
        self.reason = inner.reason
        self.version = inner.version
        self.on_client_left = body.abandon
        self._exchange = exchange
        self._inner = inner
        self._stream = stream
        self._stored = body
        self._reader: Reader | None = None
        self._throttled: Tally | None = None

    def start(self, plan: ResumePlan, judge: Inspector | None) -> None:
        """Begin to read the upstream. ``judge`` tells whether a stream that ended in good order is complete."""
        self._throttled = plan.throttled
        self._reader = Reader(self._inner.body, self._stream, plan.buffer, self._exchange, judge, plan.max_events)

    def inspector(self) -> Inspector | None:
        return self._tracker

    async def aclose(self, fault: BaseException | None) -> None:
        if self._throttled is not None and isinstance(fault, EventLimitReached):
            self._throttled.add()
        failure: BaseException | None = None
        try:
            if self._reader is not None:
                await self._reader.stop(fault)
        except BaseException as error:
            failure = error
        self._stored.close()
        await self._inner.aclose(fault)
        if failure is not None:
            raise failure


class ResumeOrigin(Origin):
    """Keeps the streams of one route for clients that come back."""

    __slots__ = ("_early", "_inner", "_plan", "_store")

    def __init__(self, plan: ResumePlan, store: StreamStore, inner: Origin) -> None:
        self._plan = plan
        self._store = store
        self._inner = inner
        self._early: dict[Call, KeptStream | None] = {}  # streams whose head was sent before their response had come

    def replays(self, call: Call) -> bool:
        return cursor_of(call.downstream.headers, call.downstream.target.query) is not None

    async def open(self, call: Call) -> OriginResponse:
        cursor = cursor_of(call.downstream.headers, call.downstream.target.query)
        if cursor is not None:
            return await self._come_back(call, cursor)
        try:
            response = await self._inner.open(call)
        except BaseException:
            self._end_early(call)
            raise
        format = _format(call, response)
        if format is not None:
            return self._keep(call, response, format)
        self._end_early(call)
        return response

    def early_fields(self, call: Call) -> Headers:
        """Begin the stream now, so that a head that is sent early names it."""
        stream = self._create(call, b"text/event-stream", "sse")
        self._early[call] = stream
        return [] if stream is None else [(CURSOR_FIELD, Cursor(stream.name, 0).render())]

    def _end_early(self, call: Call) -> None:
        """There is no stream, though a head was sent for one."""
        stream = self._early.pop(call, None)
        if stream is not None:
            stream.end(ResponseIncomplete(note="the upstream's response is no stream"))

    def _create(self, call: Call, content_type: bytes, format: Format) -> KeptStream | None:
        exchange = call.exchange
        head = StreamHead(self._owner(call), content_type, format)
        stream = self._store.create(head, lambda reason: _stop(exchange, reason))
        if stream is not None:
            exchange.stream = stream.name
        return stream

    async def knows(self, cursor: Cursor, principal: str | None, headers: Headers) -> bool:
        """Whether a cursor's stream is this route's, and its owner has that principal (or credentials), or had it."""
        try:
            await self._store.own(cursor, (self._plan.route.encode(), *owner_by(principal, headers)))
        except StreamGone:
            return True
        except StreamUnknown:
            return False
        return True

    async def _come_back(self, call: Call, cursor: Cursor) -> OriginResponse:
        owner, exchange = self._owner(call), call.exchange
        exchange.phase = "head"
        # Nothing is asked of the upstream, and what is sent is measured as no stream of its own.
        exchange.upstream, exchange.gaps = "", None
        if call.downstream.method == "DELETE":
            await self._store.stop(cursor, owner)
            return EmptyResponse()
        tallies = self._plan.tallies
        try:
            replay = await self._store.find(cursor, owner, self._plan.ids)
        except (StreamUnknown, StreamGone) as error:
            tallies["gone" if isinstance(error, StreamGone) else "refused"].add()
            raise
        exchange.stream = cursor.stream
        if replay.body is None:
            tallies["complete"].add()
            return EmptyResponse()
        tallies["live" if replay.live else "replayed"].add()
        if call.downstream.method == "HEAD":  # its response is over at once, and the stream may last
            replay.body.close()
            return EmptyResponse(200, _replayed_fields(cursor, replay.content_type))
        return ReplayedResponse(cursor, replay.content_type, replay.body)

    def _keep(self, call: Call, response: OriginResponse, format: Format) -> OriginResponse:
        exchange, fields = call.exchange, response.fields
        content_type = fields.noted.get(b"content-type", b"")
        stream = self._early.pop(call) if call in self._early else self._create(call, content_type, format)
        if stream is None:
            return response  # the store is away: the stream goes on without a cursor
        dialect = self._plan.dialect.for_path(call.downstream.target.path)
        judge = judge_of(response, dialect, counts=self._plan.max_events is not None)
        cursor = Cursor(stream.name, 0)
        fields.kept = [pair for pair in fields.kept if pair[0] != CURSOR_FIELD]
        fields.kept.append((CURSOR_FIELD, cursor.render()))
        if self._plan.ids and format == "sse":
            fields.drop_length()
        body = stream.read(cursor, self._plan.ids)
        marked = self._plan.ids and format == "sse" and not dialect.reads_answers
        tracker = KeptTracker(body) if marked else None
        kept = KeptResponse(response, stream, body, exchange, tracker)
        kept.start(self._plan, judge)
        return kept

    def _owner(self, call: Call) -> Sequence[bytes]:
        """Whose streams they are, as the parts of a digest."""
        return self._plan.route.encode(), *owner_of(call, self._plan.authenticated)


def _replayed_fields(cursor: Cursor, content_type: bytes) -> Headers:
    return [(b"content-type", content_type), (CURSOR_FIELD, cursor.render())]


def _format(call: Call, response: OriginResponse) -> Format | None:
    """How the events of a response are told apart; None for one that is not kept."""
    if response.status != 200 or not response.fields.plain or call.downstream.method == "HEAD":
        return None
    media = media_type(response.fields.noted.get(b"content-type", b""))
    if media == EVENT_STREAM:
        return "sse"
    return "ndjson" if media in NDJSON else None


def _stop(exchange: Exchange, reason: StopReason) -> None:
    if reason == "owner":
        exchange.interrupt(StoppedByOperator("The stream was stopped by its owner"))
    else:
        exchange.interrupt(ClientDisconnected(note="no client came back"))
