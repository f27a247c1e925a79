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

The streams and their ends are in `streams`, how long the client is waited for in `patience`.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, cast

from uvicorn.server import ServerState

from streamproxy.server.flow import Flow
from streamproxy.server.http1.scope import connection_scope
from streamproxy.server.http2.limits import Http2Limits
from streamproxy.server.http2.patience import Patience
from streamproxy.server.http2.streams import Opened, StreamTable
from streamproxy.wire.http2.frames import FrameGate
from streamproxy.wire.http2.session import (
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    ConnectionClosed,
    DataReceived,
    RequestReceived,
    SessionFailed,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
    goaway,
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


class Http2Protocol(StreamTable):
    """One connection. Made as `streamproxy.server.http1.protocol.Http11Protocol` is, and used like it."""

    def __init__(
        self,
        limits: Http2Limits,
        config: Any,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = _loop or asyncio.get_running_loop()
        super().__init__(limits, loop, server_state, app_state)
        if not config.loaded:
            config.load()
        self._config = config
        self._app: Any = config.loaded_app
        self._connections: Any = server_state.connections
        self._keepalive = float(config.timeout_keep_alive)
        self._plain_tasks = loop.get_task_factory() is None
        self.transport: asyncio.Transport
        self.flow: Flow
        self.announced: Announced | None = None  # by a header of the PROXY protocol
        self.stopping = False  # the server wants to end
        self._status = _OPEN
        self._patience = Patience(loop, limits.head_timeout, self._expired)
        self._flushing = False  # a flush at the end of the turn is on its way
        self._unwritten = 0  # bytes that wait for it
        self._unheard = 0  # bytes that were read since the transport was full

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        self.flow = Flow(transport, self.loop, self._client_left)
        self.flow.limit(_WRITE)
        self.flow.limit_kernel(_KERNEL)
        self._scope = connection_scope(transport, self._config.root_path, self.announced)
        self._scope["http_version"] = "2"
        client: Any = self._scope["client"]
        trusted = self.limits.is_trusted is not None and client is not None and self.limits.is_trusted(client[0])
        now = self.loop.time()
        self._gate = FrameGate(self.limits.largest_head, self.limits.most_continuations, now, trusted)
        self._patience.idle(self.limits.head_timeout)
        self._connections.add(self)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._patience.close()
        self._leave_streams()
        self._endings.close()
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
            started: Opened = []
            for part in self._gate.parts(self._gate.feed(data, now)):
                self._take_events(self.session.feed(part), now, started)
        except SessionFailed as error:
            self._fail(error.code)
            return
        self._patience.watch(self._gate.since, self._live > 0, now)
        if self.session.has_output or self._endings.waiting:  # most reads bring requests, and nothing to say yet
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

    def _take_events(self, events: list[Any], now: float, opened: Opened) -> None:
        """Do what the session's events say; ``opened`` gets the streams that they open. Raises SessionFailed."""
        for event in events:
            kind = type(event)
            if kind is RequestReceived:
                self._request(event, opened)
            elif kind is StreamClosed:
                self._stream_closed(event.stream_id, event.error_code, now)
            elif kind is DataReceived:
                self._data(event.stream_id, event.data, event.end_stream)
            elif kind is WindowUpdated:
                if not self._live and self._streams:  # a client that takes the rest of its responses slowly
                    self._no_longer_busy()
            elif kind is StreamReset:
                self._left_stream(event.stream_id)
            elif kind is TrailersReceived:
                self._trailers(event.stream_id, event.headers)
            elif kind is ConnectionClosed:
                self._end()

    # Writing.

    def flush(self) -> None:
        """Write what can be sent now, until the transport holds enough."""
        session, transport, flow = self.session, self.transport, self.flow
        self._unwritten = 0
        while not flow.paused:
            data = session.output(_WRITE)
            if data:
                transport.write(data)
                self._gate.earn(len(data))
            events = session.events()
            if events:
                try:
                    self._take_events(events, self.loop.time(), [])
                except SessionFailed as error:
                    self._fail(error.code)
                    return
            if len(data) < _WRITE and not self._endings.settle():
                return

    def flush_soon(self) -> None:
        """Write at the end of the loop's turn."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_now)

    def queued(self, size: int) -> None:
        """From a stream: it has queued so many bytes.

        Streams that have something to send in the same turn share one write, which is most of what a short response
        or an event costs. A stream that is alone has nothing to wait for.
        """
        self._unwritten += size
        if self._live <= 1 or self._unwritten >= _WRITE:
            self.flush()
        else:
            self.flush_soon()

    def _flush_now(self) -> None:
        self._flushing = False
        if self._status == _OPEN:
            self.flush()

    # Ends.

    def _no_longer_busy(self) -> None:
        self._patience.idle(self._keepalive)

    def _expired(self) -> None:
        if self._status == _ENDED:
            self.transport.abort()
        elif self._patience.slow:
            self._terminate(ENHANCE_YOUR_CALM)
        elif self._live:
            return
        else:
            self._terminate(NO_ERROR)

    def _terminate(self, code: int) -> None:
        """End the connection with what it is busy with."""
        if self._flushing:
            self._flush_now()  # the end would overtake a response that is complete
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
        self._patience.linger(self.limits.linger)
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
