"""One request and its response on an HTTP/1.1 connection.

Theory of operation. `streamproxy.server.cycle` has the parts that do not depend on the protocol. Here the response is
written directly to the transport, in one of four framings (RFC 9112 section 6.3)::

    UNSTARTED ──begin()──▶ NO_BODY | SIZED | CHUNKED | TO_CLOSE

The connection serves the next request only after the response is complete, so a client that reads nothing cannot make
the server hold more than one response. `Connection.unfinished` ensures that a response that never completes does not
look complete.

The head is corked: it is written at the end of the current iteration of the event loop, together with the part of the
body that the application has sent by then, so that a short response is a single write (which is most of its cost). It
never waits longer than that, and an application that knows when the body has to be waited for writes it (`uncork`):
at the end of the iteration, other connections come first. Every later chunk is written when it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Final

from uvicorn.server import ServerState

from streamproxy.errors import ClientLeft
from streamproxy.exchange.stream import ByteStream
from streamproxy.server.cycle import RequestCycle
from streamproxy.server.flow import Flow
from streamproxy.server.http1.head import connection_field, expects_continue, with_defaults
from streamproxy.wire.chunked import SIZE_LINES
from streamproxy.wire.encode import field_section, informational_head, response_head, upgrade_head
from streamproxy.wire.gather import GATHERS
from streamproxy.wire.http1 import NO_BODY
from streamproxy.wire.request import RequestHead

_UNSTARTED: Final = 0
_NO_BODY: Final = 1
_SIZED: Final = 2
_CHUNKED: Final = 3
_TO_CLOSE: Final = 4
_HEAD_END: Final = b"\r\n"
_CHUNKED_END: Final = b"transfer-encoding: chunked\r\n" + _HEAD_END
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# A larger chunk is not copied between its size and its CRLF: three buffers in one writev are cheaper.
_COPY_UP_TO: Final = 48 * 1024
_CORK_UP_TO: Final = 16 * 1024  # the maximum bytes of a chunk that may wait with the head
_MOST_CORKED: Final = 40  # the maximum parts that may wait with the head, three for each chunk
_SMALL: Final = len(SIZE_LINES)


class Connection:
    """A connection, as seen by a cycle. A class and no protocol: compiled code reads its attributes in C."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: Flow
    stopping: bool

    def update_reading(self) -> None:
        """The application has taken some of the body while reading was paused."""
        raise NotImplementedError

    def responded(self, cycle: Http11Cycle) -> None:
        """The last byte of the response was written: completes the cycle."""
        raise NotImplementedError

    def unfinished(self, cycle: Http11Cycle) -> None:
        """The response will never be complete."""
        raise NotImplementedError

    def client_left(self) -> None:
        """The client has left, or is treated as if it had left."""
        raise NotImplementedError

    def upgrade(self) -> ByteStream:
        """The connection has left HTTP."""
        raise NotImplementedError


class Http11Cycle(RequestCycle):
    """One request with its response over HTTP/1.1, from `prepare` on.

    ``keep_alive`` is whether another request may follow.
    """

    __slots__ = (
        "_connection",
        "_cork",
        "_flow",
        "_framing",
        "_left",
        "_method",
        "_streams",
        "_takes_trailers",
        "_transport",
        "_version",
        "keep_alive",
    )
    __deletable__ = ("_connection", "_flow")

    def prepare(self, connection: Connection, head: RequestHead, state: ServerState) -> None:
        """Sets the attributes for the request with this head, in place of an `__init__`, which costs more."""
        framing = head.framing
        has_body = framing is not NO_BODY and framing.length != 0
        self._prepare(connection.loop, state, head.target, has_body)
        self.known = head.known
        self._connection = connection
        self._transport = connection.transport
        self._flow = connection.flow
        self._method = head.method
        self._version = head.version
        self.keep_alive = framing.keep_alive
        if has_body:
            self._expects_continue = head.version == "1.1" and expects_continue(head.headers)
        self.wants_websocket = head.wants_websocket
        self._takes_trailers = head.takes_trailers and head.method != "HEAD"
        self._framing = _UNSTARTED
        self._left = 0  # the missing bytes of Content-Length
        self._cork: list[bytes] | None = None  # what was sent but not yet written, until the end of the iteration
        self._streams = False  # whether it is chunked and nothing is corked

    # For the application, beyond ASGI.

    def set_write_limit(self, high: int) -> None:
        """Sets the limit of the write buffer for this response to about ``high`` bytes."""
        flow = self._flow
        if high != flow.high and not self.complete and not self.disconnected:
            flow.limit(high)

    @property
    def takes_trailers(self) -> bool:
        """Whether the client sent ``TE: trailers``, and the response is chunked if it has begun."""
        return self._takes_trailers and (self._framing == _CHUNKED or self._framing == _UNSTARTED)

    # For the connection.

    @property
    def ends_with_close(self) -> bool:
        """Whether the end of the connection ends the body."""
        return self._framing == _TO_CLOSE

    # The response.

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends a 1xx response before the head, unless the client uses HTTP/1.0 (RFC 9110 section 15.2)."""
        if self.disconnected:
            raise ClientLeft("the client has left")
        if self._version != "1.0" and self._framing == _UNSTARTED:
            self._transport.write(informational_head(status, headers))

    def begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False, reason: bytes = b""
    ) -> None:
        """Sends the head of the response. Without ``whole`` it is written at the end of the loop's iteration."""
        if self.disconnected or self._framing != _UNSTARTED:
            self._refuse_turn("the head")
        if self._state.default_headers:
            headers = with_defaults(self._state.default_headers, headers)
        fields, length, closes = response_head(status, headers, reason)
        # A client that waits for a 100 may send its body, or the next request instead: they cannot be told apart.
        if closes or self._connection.stopping or self._expects_continue:
            self.keep_alive = False
        # The framing of the body (RFC 9112 section 6.3), and so whether the connection can continue.
        framing = _CHUNKED
        if self._method == "HEAD" or status == 204 or status == 304:
            framing = _NO_BODY
        elif length is not None:
            framing = _SIZED
            self._left = length
        elif self._version == "1.0":
            framing = _TO_CLOSE
            self.keep_alive = False
        self._framing = framing
        self.started = self._open = True
        end = _CHUNKED_END if framing == _CHUNKED else _HEAD_END
        if not self.keep_alive or self._version == "1.0":
            end = connection_field(fields, keep_alive=self.keep_alive) + end
        self._cork = [fields, end]
        if not whole:
            self._loop.call_soon(self._uncork)

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        """Sends a part of the body, the last one unless ``more`` is set. Returns what to await, or None."""
        if not self._open:
            self._refuse_turn("the body")
        if more and self._streams and 0 < len(body) < _SMALL:
            self._transport.write(SIZE_LINES[len(body)] + body + b"\r\n")  # most chunks of most streams
        else:
            self._send_body(body, more)
        if self._flow.paused:
            return self._drain(more)
        if not more:
            self._connection.responded(self)
        return None

    def push(self, chunk: bytes, framed: bytes) -> bool:
        """Sends a chunk of a body that continues. Returns whether the transport accepts more."""
        if not self._open:
            self._refuse_turn("the body")
        if not self._streams:
            self._send_body(chunk, True)
        elif framed:
            self._transport.write(framed)
        elif 0 < len(chunk) < _SMALL:
            self._transport.write(SIZE_LINES[len(chunk)] + chunk + b"\r\n")
        else:
            self._send_body(chunk, True)
        return not self._flow.paused

    def uncork(self) -> None:
        """Writes what is corked."""
        if self._cork is not None:
            self._uncork()

    async def drained(self) -> None:
        """Waits until the transport accepts more. Raises ClientLeft if the client leaves meanwhile."""
        if self._flow.paused:
            await self._drain(True)

    def finish(self, trailers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None] | None:
        """Ends the body, with trailer fields if the client accepts them (RFC 9112 section 7.1.2)."""
        section = field_section(trailers) if self.takes_trailers else b""
        if not section or not self._open:
            return self.write(b"", False)
        cork, self._cork = self._cork, None
        self._transport.write(b"".join((*(cork or ()), b"0\r\n", section, b"\r\n")))
        if self._flow.paused:
            return self._drain(False)
        self._connection.responded(self)
        return None

    def upgrade(self, headers: Iterable[tuple[bytes, bytes]]) -> ByteStream:
        """Responds to a WebSocket handshake with 101 and these fields. The connection then belongs to the stream.

        ``Connection: upgrade`` is added.
        """
        if self.disconnected or self._framing != _UNSTARTED or not self.wants_websocket:
            self._refuse_turn("an upgrade")
        self._transport.write(upgrade_head(headers))
        self._framing = _NO_BODY
        self.started = self.complete = True
        self.on_disconnect = None
        stream = self._stream = self._connection.upgrade()
        del self._connection, self._flow  # a WebSocket may last long, and needs nothing of HTTP
        self._wake()
        return stream

    async def _drain(self, more: bool) -> None:
        self._uncork()
        while self._flow.paused:
            await self._flow.drained()
            if self.disconnected:
                raise ClientLeft("the client has left")
        if not more:
            self._connection.responded(self)

    # The hooks of the base class.

    def _taken(self, size: int) -> None:
        if not self._flow.reading:
            self._connection.update_reading()

    def _continue(self) -> None:
        self._transport.write(_CONTINUE)

    def _answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        self.keep_alive = False
        self.begin(status, headers, True)
        self._send_body(body, False)
        self._connection.responded(self)

    def abort(self) -> None:
        if not (self.disconnected or self.complete):
            self._connection.client_left()

    def _abandon(self) -> None:
        self._uncork()
        self._connection.unfinished(self)

    def _uncork(self) -> None:
        """Writes the head, with everything sent since."""
        cork, self._cork = self._cork, None
        if cork is not None and not self.disconnected:
            self._streams = self._framing == _CHUNKED
            self._transport.write(b"".join(cork))

    def _send_body(self, body: bytes, more: bool) -> None:
        """Sends a part of the body, or corks it. The last part is sent with everything corked."""
        size = len(body)
        parts: tuple[bytes, ...]
        if self._framing == _CHUNKED:
            if size:
                line = SIZE_LINES[size] if size < _SMALL else b"%x\r\n" % size
                parts = (line, body, b"\r\n" if more else b"\r\n0\r\n\r\n")
            else:
                parts = () if more else (b"0\r\n\r\n",)
        elif self._framing == _SIZED:
            self._left -= size
            if self._left < 0:
                raise RuntimeError("the body is longer than its Content-Length")
            parts = (body,)
        else:
            parts = (body,) if self._framing == _TO_CLOSE else ()
        cork = self._cork
        if cork is not None:
            if more and size <= _CORK_UP_TO and len(cork) < _MOST_CORKED:
                cork += parts
                return
            self._cork = None
            parts = (*cork, *parts)
        if size > _COPY_UP_TO and GATHERS:
            self._transport.writelines(parts)
        elif parts:
            self._transport.write(b"".join(parts))
        if self._left and not more:
            raise RuntimeError("the body is shorter than its Content-Length")
