"""Our own HTTP/1.1 server protocol, which uvicorn runs.

Theory of operation. A connection is in one of these states::

    HEAD ──▶ RESPONSE ──▶ HEAD                 one request after the other
      │          │   └──▶ DRAIN ──▶ HEAD       responded, but a small rest of the request body is missing
      │          ▼
      └────▶ LINGER ──▶ CLOSED                 everything was sent; waits until the client has read it
      └────▶ CLOSED                            the transport is closing or closed

Bytes are parsed for one request at a time: its head (`RequestHead`), then its body, counted or unchunked. Bytes that
follow before its response is complete are a pipelined request. They wait unparsed, and after ``max_header_size`` bytes
reading is paused. So responses keep their order, a malformed request is answered after those before it, and a flood
costs no more than its bytes. Otherwise the transport is always read, because the end of the input means that the client
has left, and the application is told at once. While reading is paused, `Flow` watches the peer.

Closing a socket with unread input resets it, and the reset discards the response that the client has not read yet. So a
connection that ends before the request was read is half-closed first, and reading continues for a limited time (LINGER;
RFC 9112 section 9.6).

One timer serves all states: for the time limit of a head, of an idle connection and of a closing one.
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import Any, Final, cast

from uvicorn.server import ServerState

from streamproxy.errors import BadRequest, Rejected, RequestTimeout
from streamproxy.exchange.stream import ByteStream
from streamproxy.server.alpn import ProtocolFactory, hand_over, is_preface
from streamproxy.server.flow import NEVER, WRITE_LIMIT, Deadline, Flow
from streamproxy.server.http1.cycle import Connection, Http11Cycle
from streamproxy.server.http1.head import whole_response
from streamproxy.server.http1.heads import Heads
from streamproxy.server.http1.limits import BODY_LIMIT, NEWCOMER, Http11Limits
from streamproxy.server.http1.scope import connection_scope, request_scope
from streamproxy.server.http1.upgraded import FLUSH_TIMEOUT, UpgradedConnection
from streamproxy.server.refusal import refusal
from streamproxy.wire.chunked import ChunkedDecoder, ChunkError
from streamproxy.wire.proxy_protocol import Announced
from streamproxy.wire.request import RequestHead

_P: Final = ord("P")
_HEAD: Final = 0
_RESPONSE: Final = 1
_DRAIN: Final = 2
_LINGER: Final = 3
_CLOSED: Final = 4


def http11_protocol(limits: Http11Limits, http2: ProtocolFactory | None = None) -> Any:
    """Returns a factory of protocols with these limits, for ``uvicorn.Config(http=…)``.

    ``http2`` creates the protocol of a connection that begins with HTTP/2's preface, in clear text.
    """
    return partial(Http11Protocol, limits, http2, Heads(limits.max_header_size, limits.max_fields))


class Http11Protocol(Connection):
    """A connection, created by uvicorn, which uses its arguments, `shutdown` and the server's state.

    It has the methods of `asyncio.Protocol` without inheriting from it, because a class with a base class of the
    standard library cannot be compiled.
    """

    def __init__(
        self,
        limits: Http11Limits,
        http2: ProtocolFactory | None,
        heads: Heads,
        config: Any,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.limits = limits
        self._http2 = http2
        if not config.loaded:
            config.load()
        self._config = config
        self._app: Any = config.loaded_app
        self._state = server_state
        self._connections: Any = server_state.connections  # the engine's own kind of set, which counts
        self._app_state = app_state
        self._keepalive = float(config.timeout_keep_alive)  # an int for uvicorn
        self.loop = _loop or asyncio.get_running_loop()
        self._plain_tasks = self.loop.get_task_factory() is None
        # Of the connection.
        self.announced: Announced | None = None  # from a PROXY protocol header
        self.stopping = False  # whether the server is shutting down
        self._status = _HEAD
        self._deadline = Deadline(self.loop, self._expired)
        self._fresh = True  # whether it has had no request
        self._scope: dict[str, Any] = {}  # the part that is the same for all its requests
        self._heads = heads
        self._head: RequestHead | None = None  # which has arrived in part
        self._begun = False  # whether a head has begun, whose time is limited
        self._backlog = b""  # bytes after the current request
        # Of the current request.
        self._cycle: Http11Cycle | None = None
        self._chunks: ChunkedDecoder | None = None
        self._left = 0  # the missing bytes of its body, if it has a length
        self._drained = 0  # bytes of its body that the application did not want

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.flow = Flow(transport, self.loop, self.client_left)
        self._scope = connection_scope(transport, self._config.root_path, self.announced)
        if self._scope["scheme"] == "https":
            self._http2 = None  # ALPN has decided
        self._deadline.set(self.limits.head_timeout)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._status = _CLOSED
        self._connections.discard(self)
        self._deadline.close()
        self.flow.close()
        self._backlog = b""
        if self._head is not None:
            self._head.close()
        self._chunks = None
        cycle, self._cycle = self._cycle, None
        if cycle is not None:
            cycle.disconnect()

    def eof_received(self) -> bool:
        if self._status == _RESPONSE:
            self.client_left()
        elif self.flow.flushing:
            self.flow.reset()  # an aborted response: a normal close would make it look complete
        return False  # the transport closes once it has flushed its buffer

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        status = self._status
        if status == _HEAD:
            self._read_head(data)
        elif status == _RESPONSE:
            assert self._cycle is not None
            if self._cycle.body_complete:
                self._hold(data)
            else:
                self._read_body(data)
        elif status == _DRAIN:
            self._read_body(data)

    def shutdown(self, patience: float = NEWCOMER) -> None:
        """Called by uvicorn: ends the connection, at once if it is idle, otherwise after the current response.

        A new connection has ``patience`` seconds for its first request, which is on its way and would be reset
        otherwise. With more than the default, an idle connection may send another request too.
        """
        self.stopping = True
        if self._status == _HEAD and not self._begun and not self._backlog:
            if self._fresh or patience > NEWCOMER:
                self._deadline.set(patience)
            else:
                self._close()

    # Reading.

    def _read_head(self, data: bytes) -> None:
        if self._backlog:
            data, self._backlog = self._backlog + data, b""
        if self._fresh and self._http2 is not None and data[0] == _P and self._is_http2(data):
            return
        head = self._head
        if head is None:
            head = self._heads.take()
        try:
            rest = head.feed(data)
        except Rejected as error:
            head.close()
            self._refuse(error)
            return
        if rest is None:
            self._head = head
            if head.begun:  # otherwise only empty lines
                self._begin_head()
            return
        self._head = None
        self._begun = False
        self._deadline.at = NEVER
        self._begin(head, rest)

    def _begin_head(self) -> None:
        """Handles the first bytes of a head, and limits its time."""
        if not self._begun:
            self._begun = True
            self._deadline.set(self.limits.head_timeout)

    def _is_http2(self, data: bytes) -> bool:
        """Whether a connection begins with HTTP/2's preface, or may still do so; passes it on to that protocol."""
        found = is_preface(data)
        if found is None:
            self._backlog = data
            self._begin_head()
        elif found:
            assert self._http2 is not None
            protocol = self._http2(config=self._config, server_state=self._state, app_state=self._app_state)
            hand_over(self.transport, protocol, self.announced)
            self.connection_lost(None)
            protocol.data_received(data)
        return found is not False

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """Starts the application for a request whose head is complete."""
        self._status = _RESPONSE
        if self.flow.high != WRITE_LIMIT:
            self.flow.limit()
        cycle = self._cycle = Http11Cycle()
        cycle.prepare(self, head, self._state)
        framing = head.framing
        cycle.start(self._app, request_scope(self._scope, head, self._app_state, cycle), self._plain_tasks)
        head.forget()
        self._heads.spare = head
        if not cycle.body_complete:
            self._left = framing.length or 0
            self._chunks = ChunkedDecoder(self.limits.max_header_size) if framing.chunked else None
            self._drained = 0
            if rest:
                self._read_body(rest)
        elif rest:
            self._hold(rest)

    def _read_body(self, data: bytes) -> None:
        chunks = self._chunks
        if chunks is None:
            piece, rest = data, b""
            if len(data) > self._left:
                piece, rest = data[: self._left], data[self._left :]
            self._left -= len(piece)
            last = not self._left
        else:
            try:
                piece = chunks.feed(data)
            except ChunkError as error:
                self._refuse_body(BadRequest(str(error)))
                return
            last = chunks.done
            rest = chunks.rest
        if self._status == _DRAIN:
            self._drop(piece, rest, last=last)
            return
        assert self._cycle is not None
        self._cycle.feed(piece, last)
        if rest:
            self._hold(rest)
        elif self._cycle.held > BODY_LIMIT:
            self.flow.read(False)

    def _drop(self, piece: bytes, rest: bytes, *, last: bool) -> None:
        """Drops a part of a body that came after its response."""
        self._drained += len(piece)
        if last and self.stopping:
            self._close()
        elif last:
            self._backlog = rest
            self._next()
        elif self._drained > BODY_LIMIT:
            self._linger()

    def _hold(self, data: bytes) -> None:
        """Keeps bytes that follow the current request."""
        self._backlog += data
        self.update_reading()

    def update_reading(self) -> None:
        """Pauses or resumes reading, depending on what is held now. Also called by the cycle when it holds less."""
        cycle = self._cycle
        held = cycle.held if cycle is not None else 0
        self.flow.read(held <= BODY_LIMIT and len(self._backlog) <= self.limits.max_header_size)

    # Ends of requests.

    def responded(self, cycle: Http11Cycle) -> None:
        """Called by the cycle after the last byte of its response."""
        cycle.completed()
        self._state.total_requests += 1
        self._cycle = None
        if not self.flow.reading:
            self.flow.read(True)
        if cycle.body_complete:
            if cycle.keep_alive and not self.stopping:
                self._next()
            elif self._backlog:
                self._linger()
            else:
                self._close()
        elif cycle.keep_alive and not self.stopping and self._left <= BODY_LIMIT:
            self._status = _DRAIN
            self._deadline.set(self.limits.linger)
        else:
            self._linger()

    def _next(self) -> None:
        """Starts the next request, or becomes idle."""
        self._status = _HEAD
        self._fresh = False
        self._chunks = None
        self._deadline.set(self._keepalive)
        if self._backlog:
            # Not from here, because this runs in the task and context of the previous request.
            self.loop.call_soon(self._read_backlog, context=contextvars.Context())

    def _read_backlog(self) -> None:
        if self._status == _HEAD and self._backlog:  # otherwise data arrived meanwhile and included it
            self._read_head(b"")

    def unfinished(self, cycle: Http11Cycle) -> None:
        """Called by the cycle: its response will never be complete, and must not look complete."""
        self._cycle = None
        if cycle.ends_with_close:
            self._status = _CLOSED
            self._deadline.set(self.limits.linger)
            self.flow.when_flushed(self.flow.reset)
        elif cycle.body_complete:
            self._close(self.limits.linger)
        else:
            self._linger(finished=False)

    def _refuse(self, error: Rejected) -> None:
        """Refuses a request without calling the application, and ends the connection."""
        if self.limits.on_rejected is not None:
            self.limits.on_rejected(error.status, error.detail)
        self._answer(error)

    def _answer(self, error: Rejected) -> None:
        """Responds in the application's place, and ends the connection."""
        headers, body = refusal(error)
        self.transport.write(whole_response(error.status, headers, body))
        self._linger()

    def _refuse_body(self, error: BadRequest) -> None:
        """Handles a malformed request body: nothing after this point can be trusted."""
        cycle, self._cycle = self._cycle, None
        if cycle is None:  # the response is already complete
            self._linger()
            return
        cycle.fault = error
        cycle.disconnect()
        if cycle.started:
            self.unfinished(cycle)
        else:
            self._answer(error)

    def client_left(self) -> None:
        """The client closed or half-closed before its response was complete, or is treated as if it had."""
        cycle, self._cycle = self._cycle, None
        if cycle is None:
            return
        self._status = _CLOSED
        if cycle.ends_with_close:
            self.flow.reset()
        else:
            self.transport.abort()
        cycle.disconnect()

    # Ends of connections.

    def _expired(self) -> None:
        if self._status == _HEAD and self._begun:
            self._refuse(RequestTimeout("The request head did not come in time"))
        elif self._status == _HEAD:
            self._close()
        else:
            self.transport.abort()

    def _close(self, patience: float = FLUSH_TIMEOUT) -> None:
        """Closes once everything was flushed, or after a limited time."""
        self._status = _CLOSED
        self._deadline.set(patience)
        self.transport.close()

    def _linger(self, *, finished: bool = True) -> None:
        """Ends our direction, and reads until the client closes too."""
        self._status = _LINGER
        self._backlog = b""
        self._chunks = None
        self._deadline.set(self.limits.linger)
        self.flow.read(True)
        if self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:
                self.transport.abort()  # the client has reset the connection
        elif not finished:
            self._close(self.limits.linger)  # over TLS only a close ends our direction

    def upgrade(self) -> ByteStream:
        """Called by the cycle: the connection has left HTTP, and no longer belongs to this object."""
        transport, flow = self.transport, self.flow
        stream = UpgradedConnection(transport, self.loop, self._connections)
        flow.read(True)
        stream.take_over(self._backlog, flow.high)
        self._state.total_requests += 1
        self.connection_lost(None)
        return stream
