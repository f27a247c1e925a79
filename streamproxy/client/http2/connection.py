"""One HTTP/2 connection to an upstream: the protocol between the loop's transport, the session and the streams.

Theory of operation. Bytes go through `FrameGate`, which bounds floods, into the session, and come out as events, each
for one stream or for the connection. What is queued in the session is written by `flush`, as far as the transport
takes it. What exchanges do with their streams is in `streams`.

The connection takes streams (it is not ``closed``) until the upstream says GOAWAY, breaks a rule, or is gone. After a
GOAWAY the streams that the upstream has taken run to their end; those that it has not are closed as refused. ``broken``
says that nothing can pass any more: every stream has failed.

How many streams it takes is what the upstream announces; before that, as many as RFC 9113 section 6.5.2 recommends.

A connection that is silent while streams are open is asked for a sign of life (see `liveness`). One timer serves all
streams: it fires, looks at the time of the last read, and sleeps for the rest.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final, cast

from streamproxy.client.connection import Owner
from streamproxy.client.http2.liveness import ANSWER, ASK, DEAD, SILENCE, Liveness
from streamproxy.client.http2.state import ResponseState
from streamproxy.client.http2.streams import StreamTable
from streamproxy.client.secure import TlsTransport
from streamproxy.errors import BadResponse, ConnectionTerminated, ResponseIncomplete, TlsFailed, UpstreamBusy
from streamproxy.wire.http2.session import (
    ENHANCE_YOUR_CALM,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    ConnectionClosed,
    DataReceived,
    GoAwayReceived,
    InformationalResponseReceived,
    ResponseReceived,
    SessionFailed,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

_MOST_STREAMS: Final = 10_000
_WRITE: Final = 65_536  # bytes that the session is asked for at once
_LAST_WORD: Final = 1.0  # seconds for what is still to be written when the connection ends
_PING: Final = b"streampx"


class Http2Connection(StreamTable):
    """A connection, for many streams at a time.

    An `asyncio.Protocol` in all but name: a class with a base in Python can't be compiled. ``silence`` and ``answer``
    are the seconds of `SILENCE` and `ANSWER`.
    """

    __slots__ = (
        "_liveness",
        "_owner",
        "_reset_by_peer",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        silence: float = SILENCE,
        answer: float = ANSWER,
    ) -> None:
        super().__init__(loop, sock)
        self._owner = owner
        self._liveness = Liveness(silence, answer)
        self._transport: asyncio.Transport | TlsTransport = cast(asyncio.Transport, None)  # until connection_made
        self._reset_by_peer = 0  # the stream that the last RST_STREAM was for
        self._timer: asyncio.TimerHandle | None = None

    # For the pool.

    def peer_spoke(self) -> bool:
        """Whether the kernel holds the end of an idle connection; its frames may come at any time."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def abort(self) -> None:
        self.closed = True
        if not self.broken:
            self._session.terminate(NO_ERROR)
            data = self._session.output(_WRITE)
            if data and not self._write_paused:
                self._transport.write(data)
            self._break(ConnectionTerminated(note="closed by the proxy"))

    def shut(self) -> None:
        self._break(ConnectionTerminated(note="closed by the proxy"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport | TlsTransport, transport)
        self._liveness.last_read = self._loop.time()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.broken:
            return
        self._liveness.last_read = now = self._loop.time()
        try:
            for part in self._gate.parts(self._gate.feed(data, now)):
                self._take_events(self._session.feed(part))
        except SessionFailed as error:
            self._fail(error)
            return
        self.flush()

    def eof_received(self) -> bool:
        self._break(ConnectionTerminated(note="closed by the upstream"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        transport = self._transport
        fault = (transport.fault or exc) if isinstance(transport, TlsTransport) else exc
        note = f"{type(fault).__name__}: {fault}" if fault is not None else "closed by the upstream"
        self._break(TlsFailed(note=note) if isinstance(fault, ssl.SSLError) else ConnectionTerminated(note=note))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self.flush()
        self._wake_senders()

    # Events.

    def _take_events(self, events: list[Any]) -> None:
        """Do what the session's events say. Raises SessionFailed on a flood."""
        streams = self._streams
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                number: int = event.stream_id
                state = streams.get(number)
                piece: bytes = event.data
                if state is None or state.feed(piece, event.end_stream):
                    self._session.consumed(number, len(piece))
            elif kind is ResponseReceived or kind is InformationalResponseReceived or kind is TrailersReceived:
                state = streams.get(event.stream_id)
                if state is not None:
                    self._head(state, kind, event)
            elif kind is WindowUpdated:
                state = streams.get(event.stream_id)
                if state is not None:
                    state.wake_sender()
                elif not event.stream_id:
                    self._wake_senders()
            elif kind is StreamReset:
                self._reset_by_peer = event.stream_id
            elif kind is StreamClosed:
                state = streams.pop(event.stream_id, None)
                if state is not None:
                    state.close(event.error_code, event.stream_id == self._reset_by_peer)
            else:
                self._connection_event(kind, event)

    def _head(self, state: ResponseState, kind: type, event: Any) -> None:
        try:
            if kind is ResponseReceived:
                state.begin(event.headers, event.end_stream)
            elif kind is TrailersReceived:
                state.finish(event.headers)
            else:
                state.inform(event.headers)
        except BadResponse as error:
            state.fail(error)

    def _connection_event(self, kind: type, event: Any) -> None:
        if kind is SettingsReceived:
            self.capacity = min(self._session.peer_max_streams, _MOST_STREAMS)
            self._owner.changed(self)
            self._wake_senders()
        elif kind is GoAwayReceived:
            if event.error_code == ENHANCE_YOUR_CALM:
                for state in list(self._streams.values()):
                    if state.headers is None and state.number <= event.last_stream_id:
                        state.fail(UpstreamBusy(note="GOAWAY: ENHANCE_YOUR_CALM"))
            self._take_no_more()
        elif kind is ConnectionClosed:
            self._ended(event.error_code)

    def _ended(self, code: int) -> None:
        """The session is over: by a GOAWAY of the upstream's, or because the upstream broke a rule."""
        broke = not self.closed and code != NO_ERROR and code != INTERNAL_ERROR
        fault = BadResponse if broke else ConnectionTerminated
        self._break(fault(note=f"HTTP/2 ended with error code {code:#x}"))

    # Writing.

    def flush(self) -> None:
        """Write what can be sent now, as far as the transport takes it."""
        session = self._session
        while not self._write_paused and not self.broken:
            data = session.output(_WRITE)
            if data:
                self._transport.write(data)
                self._gate.earn(len(data))
            events = session.events()
            if events:
                try:
                    self._take_events(events)
                except SessionFailed as error:
                    self._fail(error)
                    return
            elif len(data) < _WRITE:
                return

    # Ends.

    def _watch_over(self) -> None:
        if self._timer is None and not self.broken:
            self._timer = self._loop.call_later(self._liveness.begin(), self._watch)

    def _watch(self) -> None:
        """The timer: ask for a sign of life, or see that there was none."""
        self._timer = None
        if self.broken or not self._streams:
            return
        now = self._loop.time()
        left = self._liveness.look(now)
        if left == DEAD:
            self._break(ConnectionTerminated(note="no answer to PING"))
            return
        if left == ASK:
            left = self._liveness.asked(now)
            self._session.ping(_PING)
            self.flush()
        if not self.broken:
            self._timer = self._loop.call_later(max(left, 0.001), self._watch)

    def _take_no_more(self) -> None:
        """Open no more streams here; close when there are none."""
        if not self.closed:
            self.closed = True
            self._owner.lost(self)
        if not self.in_use:
            self.abort()

    def _fail(self, error: SessionFailed) -> None:
        """The upstream broke the connection: say so, and end it."""
        self._session.terminate(error.code)
        data = self._session.output(_WRITE)
        if data and not self.broken:
            self._transport.write(data)
        fault = BadResponse if error.code in (PROTOCOL_ERROR, ENHANCE_YOUR_CALM) else ConnectionTerminated
        self._break(fault(note=f"HTTP/2: {error}"))

    def _break(self, fault: BaseException) -> None:
        """Nothing passes any more: every stream fails with ``fault``, or as cut in the middle."""
        if self.broken:
            return
        self.broken = True
        self._session.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        streams, self._streams = self._streams, {}
        for state in streams.values():
            state.closed = True
            state.fail(fault if state.headers is None else ResponseIncomplete(note=getattr(fault, "note", "")))
        self.closed = True
        self._owner.lost(self)
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(_LAST_WORD, self._transport.abort)
