"""The origin of routes with ``share``: one upstream stream for all clients that ask for the same.

Theory of operation. The first request of a key opens the stream; those that come before its head wait for it. When the
response can be shared, a `Reader` hands each chunk to every client, in the read itself: the same bytes object, framed
once. Otherwise each that has waited makes a request of its own.

The exchange of the first client stands for the stream, as with ``resume``: when that client leaves, the exchange goes
on without it. When no client has been there for ``linger``, the exchange is interrupted. Its end, whatever the reason,
is the stream's.
"""

from __future__ import annotations

from collections.abc import Hashable

from streamproxy.errors import ResponseIncomplete
from streamproxy.exchange.call import Call
from streamproxy.exchange.timer import HEAD
from streamproxy.formats.inspector import Inspector
from streamproxy.origins.base import Origin, OriginResponse, OwnResponse, is_event_stream
from streamproxy.origins.owner import owner_of
from streamproxy.origins.reader import Reader, judge_of
from streamproxy.origins.shared_stream import SharedBody, SharedInspector, SharedStream, SharePlan
from streamproxy.store.cursor import CURSOR_FIELD, last_event_ids
from streamproxy.wire.headers import Headers
from streamproxy.wire.response_fields import ResponseFields


class OpenedResponse(OwnResponse):
    """The response of the first client, whose exchange stands for the stream."""

    __slots__ = ("_body", "_inner", "_reader", "_stream")

    def __init__(self, inner: OriginResponse, stream: SharedStream, body: SharedBody, judge: Inspector | None) -> None:
        super().__init__(inner.status, inner.fields, body)
        self.reason = inner.reason
        self.version = inner.version
        self.on_client_left = body.abandon
        self._inner = inner
        self._stream = stream
        self._body = body
        self._reader = Reader(inner.body, stream, max(1, stream.plan.buffer // 2), stream.exchange, judge)

    def inspector(self) -> Inspector | None:
        sees_more = self._stream.plan.dialect.reads_answers
        return None if sees_more else SharedInspector(self._body, self._stream.tracker)

    async def aclose(self, fault: BaseException | None) -> None:
        failure: BaseException | None = None
        try:
            await self._reader.stop(fault)
        except BaseException as error:
            failure = error
        self._body.close()
        await self._inner.aclose(fault)
        if failure is not None:
            raise failure


class JoinedResponse(OwnResponse):
    """The response of a client that reads a stream of another."""

    __slots__ = ("_body", "_stream")

    def __init__(self, stream: SharedStream, body: SharedBody) -> None:
        self._stream = stream
        self._body = body
        fields = stream.fields
        if stream.cursor:
            place = b"%b/%d" % (stream.cursor, body.missed)
            fields = [(name, place if name == CURSOR_FIELD else value) for name, value in fields]
        super().__init__(200, ResponseFields().prepare(fields), body)
        self.version = stream.version

    def inspector(self) -> Inspector | None:
        """One that only tells events apart: usage and failures belong to the exchange of the first client."""
        return SharedInspector(self._body, self._stream.tracker)

    async def aclose(self, fault: BaseException | None) -> None:
        stream = self._stream
        stream.plan.clients[stream.plan.route] -= 1
        self._body.close()
        stream.left()


class ShareOrigin(Origin):
    """Shares the streams of one route."""

    __slots__ = ("_inner", "_opening", "_plan", "_streams")

    def __init__(self, plan: SharePlan, inner: Origin) -> None:
        self._plan = plan
        self._inner = inner
        self._streams: dict[Hashable, SharedStream] = {}
        self._opening: set[Call] = set()

    def replays(self, call: Call) -> bool:
        return self._inner.replays(call)

    def early_fields(self, call: Call) -> Headers:
        """Only the first client of a stream waits in the inner origin, and can name what is opened there."""
        return self._inner.early_fields(call) if call in self._opening else []

    async def open(self, call: Call) -> OriginResponse:
        downstream = call.downstream
        # Whoever comes back wants what followed its id, and not what comes next.
        if downstream.method != "GET" or any(last_event_ids(downstream.headers, downstream.target.query)):
            return await self._inner.open(call)
        key = self._key(call)
        while True:
            stream = self._streams.get(key)
            if stream is None:
                return await self._begin(call, key)
            stream.enter()
            try:
                body = await _join(call, stream)
            except BaseException:
                stream.left()
                raise
            if body is not None:
                self._plan.clients[self._plan.route] += 1
                call.exchange.stream = stream.cursor.decode()
                return JoinedResponse(stream, body)
            stream.left()
            if not stream.opened and stream.fault is None:
                return await self._inner.open(call)

    async def _begin(self, call: Call, key: Hashable) -> OriginResponse:
        stream = SharedStream(self._plan, call.exchange, lambda stream: self._forget(key, stream))
        self._streams[key] = stream
        self._opening.add(call)
        try:
            response = await self._inner.open(call)
        except BaseException:
            # The next of those who wait opens it, and gets its own error if there is one.
            self._opening.discard(call)
            stream.fault = ResponseIncomplete()
            stream.give_up()
            raise
        self._opening.discard(call)
        if not _can_be_shared(response):
            stream.give_up()
            return response
        response.fields.drop_length()
        judge = judge_of(response, self._plan.dialect.for_path(call.downstream.target.path))
        body = stream.begin(response)
        body.cut_client = call.downstream.cut
        return OpenedResponse(response, stream, body, judge)

    def _forget(self, key: Hashable, stream: SharedStream) -> None:
        if self._streams.get(key) is stream:
            del self._streams[key]

    def _key(self, call: Call) -> Hashable:
        plan, target = self._plan, call.downstream.target
        return (
            target.path if "path" in plan.key else b"",
            target.query if "query" in plan.key else b"",
            owner_of(call, plan.authenticated) if "principal" in plan.key else b"",
        )


async def _join(call: Call, stream: SharedStream) -> SharedBody | None:
    """The body of another client, once the stream's head is there; None for a stream that has ended.

    With cursors, only once the number of events before it is known: when an event begins.
    """
    body: SharedBody | None = None
    try:
        while not stream.ended and (body is None or body.joining):
            if stream.opened and body is None:
                body = stream.join()
            else:
                call.exchange.phase = "head"
                call.timer.waits_for(HEAD, call.exchange.started_at)
                await stream.changed()
    except BaseException:
        if body is not None:
            body.close()
        raise
    if body is not None and body.joining:
        body.close()
        return None
    return body


def _can_be_shared(response: OriginResponse) -> bool:
    return is_event_stream(response) and not any(name == b"set-cookie" for name, _ in response.fields.kept)
