"""The streams of one connection: made, fed, retired, and closed.

Theory of operation. A stream is in the table from its request until the session says that it is closed. It is *live*
until its response is complete, or nobody wants that any more: the connection is busy with live streams only, and what
comes on the others is given back to the window. A response that is complete, or never will be, while the client still
sends is followed by a reset, which `EndingStreams` holds until what is queued has gone.

A request that the application will not see is answered here; its stream is *refused*, and counts among the others.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.server import ServerState

from streamproxy.dialects.http import error_response
from streamproxy.errors import BadRequest, Rejected
from streamproxy.exchange.exchange import new_request_id
from streamproxy.server.http2.ending import EndingStreams
from streamproxy.server.http2.limits import MAX_STREAMS, Http2Limits
from streamproxy.server.http2.scope import request_scope
from streamproxy.server.http2.stream import Http2Stream, StreamOwner
from streamproxy.wire.http2.frames import FrameGate
from streamproxy.wire.http2.head import Http2Head, fields_size, response_fields
from streamproxy.wire.http2.session import INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, server_session

Opened = list[tuple[Http2Stream, dict[str, Any]]]  # streams whose application is to start, with their scopes


class StreamTable(StreamOwner):
    """The part of a connection that knows its streams. A subclass writes (`flush`), and hears when none is live."""

    def __init__(
        self, limits: Http2Limits, loop: asyncio.AbstractEventLoop, state: ServerState, app_state: dict[str, Any]
    ) -> None:
        self.limits = limits
        self.loop = loop
        self.session = server_session(
            limits.max_header_size, limits.largest_head, limits.most_continuations, MAX_STREAMS
        )
        self.blocked: dict[int, Http2Stream] = {}
        self._state = state
        self._app_state = app_state
        self._scope: dict[str, Any] = {}  # what the scopes of all streams have in common
        self._gate: FrameGate
        self._streams: dict[int, Http2Stream] = {}
        self._refused: set[int] = set()  # streams whose answer the application knows nothing of
        self._live = 0  # streams whose response is not complete
        self._last = 0  # the highest stream that came
        self._endings = EndingStreams(loop, self.session, limits.linger, self.flush)

    def _no_longer_busy(self) -> None:
        """No stream is live any more."""
        raise NotImplementedError

    # Events.

    def _request(self, event: Any, opened: Opened) -> None:
        number: int = event.stream_id
        whole: bool = event.end_stream
        self._last = number
        if len(self._streams) + len(self._refused) >= MAX_STREAMS:
            self.session.reset(number, REFUSED_STREAM)
            return
        limits = self.limits
        try:
            head = Http2Head(event.headers, limits.max_header_size, limits.max_fields)
        except Rejected as error:
            self._refuse(number, error, event.headers, whole)
            return
        stream = Http2Stream(self, number, head, not whole, self._state)
        self._streams[number] = stream
        self._live += 1
        opened.append((stream, request_scope(self._scope, head, self._app_state, stream)))

    def _data(self, number: int, piece: bytes, last: bool) -> None:
        stream = self._streams.get(number)
        if stream is None or not stream.live:
            self.session.consumed(number, len(piece))  # the window of a stream that is gone
        else:
            stream.feed(piece, last)

    def _trailers(self, number: int, fields: Any) -> None:
        stream = self._streams.get(number)
        if stream is None or not stream.live:
            return
        limits = self.limits
        # As behind chunks, and for the stream that holds them: the session's own limits are those of a head to refuse.
        if len(fields) > limits.max_fields or fields_size(fields) > limits.max_header_size:
            self.session.reset(number, PROTOCOL_ERROR)
            return
        stream.behind_body = list(fields)
        stream.feed(b"", True)

    def _left_stream(self, number: int) -> None:
        """The client has reset a stream."""
        stream = self._streams.get(number)
        if stream is not None:
            self._retire(stream)
            stream.disconnect()

    def _stream_closed(self, number: int, code: int, now: float) -> None:
        """Raises SessionFailed when too many were broken by the client."""
        self._endings.discard(number)
        stream = self._streams.pop(number, None)
        if stream is None:
            self._refused.discard(number)
        if code != NO_ERROR and code in (REFUSED_STREAM, PROTOCOL_ERROR):
            self._gate.broken_stream(now)
            if stream is None and code == PROTOCOL_ERROR:
                self._tell_rejected(BadRequest("The request is malformed"))
        if stream is None:
            return
        if stream.live:
            self._retire(stream)
            if not (stream.ended and code == NO_ERROR):
                if code == PROTOCOL_ERROR:
                    stream.fault = BadRequest("The request's body is malformed")
                stream.disconnect()
                return
        stream.wake()

    def _refuse(self, number: int, error: Rejected, fields: Any, whole: bool) -> None:
        """Answer a request that the application will not see."""
        self._tell_rejected(error)
        if not self._live:
            self._no_longer_busy()  # it has asked for something, and has the time to take the answer
        self._refused.add(number)
        headers, body = error_response(error, new_request_id())
        bodyless = (b":method", b"HEAD") in fields
        self.session.respond(number, response_fields(error.status, headers)[0], bodyless, True)
        if not bodyless:
            self.session.send(number, body, True)
        if not whole:
            self._endings.add(number, NO_ERROR, False)

    def _tell_rejected(self, error: Rejected) -> None:
        if self.limits.on_rejected is not None:
            self.limits.on_rejected(error.status, error.detail)

    # Ends.

    def _retire(self, stream: Http2Stream) -> None:
        """The connection is no longer busy with a stream."""
        if not stream.live:
            return
        stream.live = False
        if self.blocked:
            self.blocked.pop(stream.id, None)
        if stream.held:
            stream.drop_body()
        self._live -= 1
        if not self._live:
            self._no_longer_busy()

    def responded(self, stream: Http2Stream) -> None:
        """From a stream, after the last byte of its response."""
        stream.completed()
        self._state.total_requests += 1
        self._retire(stream)
        if not stream.body_complete and stream.id in self._streams:
            self._endings.add(stream.id, NO_ERROR, stream.end_alone)
            self.flush()

    def unfinished(self, stream: Http2Stream) -> None:
        """From a stream: its response will never be complete, and must not look so."""
        self._retire(stream)
        if stream.id in self._streams:
            self._endings.add(stream.id, INTERNAL_ERROR, False)
            self.flush()

    def _wake_blocked(self) -> None:
        for number, stream in list(self.blocked.items()):
            if stream.below:
                self.blocked.pop(number, None)
                stream.wake()

    def _leave_streams(self) -> None:
        """The client has left all of them."""
        self._endings.clear()
        self._refused.clear()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._retire(stream)
            stream.disconnect()
