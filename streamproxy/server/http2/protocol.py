"""Our HTTP/2 server protocol: the connection of many requests at once.

Theory of operation. A connection is OPEN, then ENDED: the session has said its last word, and the client is given a
moment to hear it. While it is open::

    bytes ──▶ FrameGate ──▶ Session ──▶ events ──▶ streams: made, fed, disconnected
    streams ──▶ Session's queues ──▶ flush() ──▶ transport

Everything that one read has brought is parsed before any application starts, and only those start whose stream is
still there: a client that opens and resets streams by the thousand starts none.

`flush` writes what the session may send until the transport holds enough. The rest waits in the session's queues, a
stream apart and taken in turn, so that an event of one stream never waits behind megabytes of another; the kernel is
told to hold little for the same reason. While a client takes nothing at all, what it sends is not read for ever either.

Resets of streams that are to end behind what is queued wait in `EndingStreams`.

One timer serves the connection: the time that a head (or any frame) may take to come, or an idle connection may last,
or the end of patience.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any, Final, cast

from uvicorn.server import ServerState

from streamproxy.dialects.http import error_response
from streamproxy.errors import BadRequest, Rejected
from streamproxy.exchange.exchange import new_request_id
from streamproxy.server.flow import NEVER, Deadline, Flow
from streamproxy.server.http1.scope import connection_scope
from streamproxy.server.http2.limits import MAX_STREAMS, EndingStreams, Http2Limits
from streamproxy.server.http2.scope import request_scope
from streamproxy.server.http2.stream import Http2Stream, StreamOwner
from streamproxy.wire.http2.frames import NOTHING, FrameGate
from streamproxy.wire.http2.head import Http2Head, response_fields
from streamproxy.wire.http2.session import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    ConnectionClosed,
    DataReceived,
    RequestReceived,
    SessionFailed,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
    goaway,
    server_session,
)
from streamproxy.wire.proxy_protocol import Announced

NEWCOMER: Final = 0.1  # seconds in which a connection that is to end still takes streams that are on their way
_WRITE: Final = 32 * 1024  # bytes that are written at once, and that the transport may hold
_KERNEL: Final = 128 * 1024  # bytes that the kernel may hold unsent
_UNHEARD: Final = 256 * 1024  # bytes that are read while the client takes nothing

_OPEN: Final = 0
_ENDED: Final = 1


def http2_protocol(limits: Http2Limits) -> Any:
    """What makes protocols with these limits; they take uvicorn's arguments."""
    return partial(Http2Protocol, limits)


class Http2Protocol(StreamOwner):
    """One connection. Made as `streamproxy.server.http1.protocol.Http11Protocol` is, and used like it."""

    def __init__(
        self,
        limits: Http2Limits,
        config: Any,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.limits = limits
        if not config.loaded:
            config.load()
        self._config = config
        self._app: Any = config.loaded_app
        self._state = server_state
        self._connections: Any = server_state.connections
        self._app_state = app_state
        self._keepalive = float(config.timeout_keep_alive)
        self.loop = loop = _loop or asyncio.get_running_loop()
        self._plain_tasks = loop.get_task_factory() is None
        self.transport: asyncio.Transport
        self.flow: Flow
        self.announced: Announced | None = None  # by a header of the PROXY protocol
        self.stopping = False  # the server wants to end
        self._status = _OPEN
        self._deadline = Deadline(loop, self._expired)
        self._scope: dict[str, Any] = {}
        self.session = server_session(
            limits.max_header_size, limits.largest_head, limits.most_continuations, MAX_STREAMS
        )
        self._gate: FrameGate
        self._streams: dict[int, Http2Stream] = {}
        self._refused: set[int] = set()  # streams whose answer the application knows nothing of
        self._live = 0  # streams whose response is not complete
        self._last = 0  # the highest stream that came
        self._idle_until = 0.0  # in the loop's time, when nothing is live
        self._since = NOTHING  # when that began to come which is not whole
        self.blocked: dict[int, Http2Stream] = {}
        self._endings = EndingStreams()
        self._ending_timer: asyncio.TimerHandle | None = None
        self._flushing = False  # a flush at the end of the turn is on its way
        self._unheard = 0  # bytes that were read since the transport was full

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        self.flow = Flow(transport, self.loop, self._client_left)
        self.flow.limit(_WRITE)
        _hold_little(transport)
        self._scope = connection_scope(transport, self._config.root_path, self.announced)
        self._scope["http_version"] = "2"
        client: Any = self._scope["client"]
        trusted = self.limits.is_trusted is not None and client is not None and self.limits.is_trusted(client[0])
        now = self.loop.time()
        self._gate = FrameGate(self.limits.largest_head, self.limits.most_continuations, now, trusted)
        self._set_idle(self.limits.head_timeout)
        self._connections.add(self)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._deadline.close()
        self._leave_streams()
        self.flow.close()
        self.session.closed = True

    def eof_received(self) -> bool:
        self._client_left()
        return False

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._unheard = 0

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self.flow.read(True)
        self.flush()
        self._wake_blocked()

    def data_received(self, data: bytes) -> None:
        if self._status == _ENDED:
            return
        now = self.loop.time()
        try:
            frames = self._gate.feed(data, now)
            events = self.session.feed(frames) if frames else []
            started = self._take_events(events, now)
        except SessionFailed as error:
            self._fail(error.code)
            return
        self._watch_slowness(now)
        self.flush()
        if self.blocked:
            self._wake_blocked()
        for stream, scope in started:
            if stream.live and self._status == _OPEN:
                stream.start(self._app, scope, self._plain_tasks)
        if self.flow.paused:
            self._unheard += len(data)
            if self._unheard > _UNHEARD:
                self.flow.read(False)

    def shutdown(self, patience: float = NEWCOMER) -> None:
        """From the engine: end the connection after the streams that it is busy with.

        The client hears of it at once; requests that were on their way are taken for ``patience`` seconds.
        """
        if self.stopping or self._status == _ENDED:
            return
        self.stopping = True
        self.session.announce_end()
        self.flush()
        self.loop.call_later(patience, self._refuse_streams)

    def _refuse_streams(self) -> None:
        if self._status == _OPEN:
            self.session.refuse_streams()
            self.flush()

    # Events.

    def _take_events(self, events: list[Any], now: float) -> list[tuple[Http2Stream, dict[str, Any]]]:
        """Do what the session's events say. Returns the streams that they opened. Raises SessionFailed on a flood."""
        opened: list[tuple[Http2Stream, dict[str, Any]]] = []
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                self._data(event.stream_id, event.data, event.end_stream)
            elif kind is RequestReceived:
                self._request(event, now, opened)
            elif kind is WindowUpdated:
                if not self._live and self._streams:
                    self._set_idle(self._keepalive)  # a client that takes the rest of its responses slowly
            elif kind is StreamReset:
                self._left_stream(event.stream_id)
            elif kind is StreamClosed:
                self._stream_closed(event.stream_id, event.error_code, now)
            elif kind is TrailersReceived:
                stream = self._streams.get(event.stream_id)
                if stream is not None and stream.live:
                    stream.behind_body = list(event.headers)
                    stream.feed(b"", True)
            elif kind is ConnectionClosed:
                self._end()
        return opened

    def _request(self, event: Any, now: float, opened: list[tuple[Http2Stream, dict[str, Any]]]) -> None:
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

    def _left_stream(self, number: int) -> None:
        """The client has reset a stream."""
        stream = self._streams.get(number)
        if stream is not None:
            self._retire(stream)
            stream.disconnect()

    def _stream_closed(self, number: int, code: int, now: float) -> None:
        self._endings.discard(number)
        self._refused.discard(number)
        stream = self._streams.pop(number, None)
        if code in (REFUSED_STREAM, PROTOCOL_ERROR):
            self._gate.broken_stream(now)
            if stream is None and code == PROTOCOL_ERROR:
                self._tell_rejected(BadRequest("The request is malformed"))
        if stream is None:
            return
        live = stream.live
        self._retire(stream)
        if live and not (stream.ended and code == NO_ERROR):
            if code == PROTOCOL_ERROR:
                stream.fault = BadRequest("The request's body is malformed")
            stream.disconnect()
        else:
            stream.wake()

    def _refuse(self, number: int, error: Rejected, fields: Any, whole: bool) -> None:
        """Answer a request that the application will not see."""
        self._tell_rejected(error)
        self._refused.add(number)
        headers, body = error_response(error, new_request_id())
        bodyless = (b":method", b"HEAD") in fields
        self.session.respond(number, response_fields(error.status, headers)[0], bodyless)
        if not bodyless:
            self.session.send(number, body, True)
        if not whole:
            self._end_stream(number, NO_ERROR, False)

    def _tell_rejected(self, error: Rejected) -> None:
        if self.limits.on_rejected is not None:
            self.limits.on_rejected(error.status, error.detail)

    # Writing.

    def flush(self) -> None:
        """Write what can be sent now, until the transport holds enough."""
        session, transport, flow = self.session, self.transport, self.flow
        while not flow.paused:
            data = session.output(_WRITE)
            if data:
                transport.write(data)
                self._gate.earn(len(data))
            events = session.events()
            if events:
                try:
                    self._take_events(events, self.loop.time())
                except SessionFailed as error:
                    self._fail(error.code)
                    return
            if len(data) < _WRITE and not self._settle():
                return

    def flush_soon(self) -> None:
        """Write at the end of the loop's turn."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        if self._status == _OPEN:
            self.flush()

    def _settle(self) -> bool:
        """All is written that could be: reset the streams that waited for it. Returns whether there were some."""
        if not len(self._endings):
            return False
        ready = self._endings.ready(self.session.queued, self.session.can_send)
        for number, code in ready:
            self.session.reset(number, code)
        return bool(ready)

    def _wake_blocked(self) -> None:
        for number, stream in list(self.blocked.items()):
            if stream.below:
                self.blocked.pop(number, None)
                stream.wake()

    # Ends of streams.

    def _retire(self, stream: Http2Stream) -> None:
        """The connection is no longer busy with a stream."""
        if not stream.live:
            return
        stream.live = False
        self.blocked.pop(stream.id, None)
        stream.drop_body()
        self._live -= 1
        if not self._live:
            self._set_idle(self._keepalive)

    def responded(self, stream: Http2Stream) -> None:
        """From a stream: its response is complete."""
        self._state.total_requests += 1
        self._retire(stream)
        if not stream.body_complete and stream.id in self._streams:
            self._end_stream(stream.id, NO_ERROR, stream.end_alone)
            self.flush()

    def unfinished(self, stream: Http2Stream) -> None:
        """From a stream: its response will never be complete, and must not look so."""
        self._retire(stream)
        if stream.id in self._streams:
            self._end_stream(stream.id, INTERNAL_ERROR, False)
            self.flush()

    def _end_stream(self, number: int, code: int, end_alone: bool) -> None:
        linger = self.limits.linger
        self._endings.add(number, code, end_alone, self.loop.time() + linger)
        if self._ending_timer is None:
            self._ending_timer = self.loop.call_later(linger, self._force_endings)

    def _force_endings(self) -> None:
        self._ending_timer = None
        for number, code in self._endings.expired(self.loop.time()):
            self.session.reset(number, code)
        if len(self._endings):
            self._ending_timer = self.loop.call_later(self.limits.linger, self._force_endings)
        self.flush()

    # Ends of connections.

    def _set_idle(self, seconds: float) -> None:
        self._idle_until = self.loop.time() + seconds
        if self._since == NOTHING:
            self._deadline.set(seconds)

    def _watch_slowness(self, now: float) -> None:
        """Let the timer watch what has begun to come and is not whole; else an idle connection."""
        since = self._gate.since
        if since != self._since:
            self._since = since
            if since != NOTHING:
                self._deadline.set(self.limits.head_timeout)
                return
            self._deadline.at = NEVER
            if not self._live:
                self._deadline.set(self._idle_until - now)
        elif self._live and since == NOTHING:
            self._deadline.at = NEVER

    def _expired(self) -> None:
        if self._status == _ENDED:
            self.transport.abort()
        elif self._since != NOTHING:
            self._terminate(ENHANCE_YOUR_CALM)
        elif self._live:
            return
        else:
            self._terminate(NO_ERROR)

    def _terminate(self, code: int) -> None:
        """End the connection with what it is busy with."""
        self.session.terminate(code)
        data = self.session.output(_WRITE)
        if data:
            self.transport.write(data)
        self._end()

    def _fail(self, code: int) -> None:
        """The client broke the connection: say so, and take no more."""
        if self.session.closed:
            self.transport.write(goaway(self._last, code))
            self._end()
        else:
            self._terminate(code)

    def _end(self) -> None:
        """The session has said its last word: let the client hear it."""
        if self._status == _ENDED:
            return
        self._status = _ENDED
        self.session.closed = True
        self._leave_streams()
        self._deadline.set(self.limits.linger)
        self.flow.read(True)
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        try:
            self.transport.write_eof()
        except OSError:
            self.transport.abort()

    def _client_left(self) -> None:
        self._leave_streams()
        self.transport.abort()

    def _leave_streams(self) -> None:
        self._endings.clear()
        if self._ending_timer is not None:
            self._ending_timer.cancel()
            self._ending_timer = None
        self._refused.clear()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            self._retire(stream)
            stream.disconnect()


def _hold_little(transport: asyncio.Transport) -> None:
    """Keep the kernel from taking megabytes that an event would wait behind."""
    connection: Any = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, _KERNEL)
