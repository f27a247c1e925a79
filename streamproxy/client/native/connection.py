"""One connection to an upstream: the protocol between the loop's transport and whoever reads the response.

Theory of operation. A connection is in one of four states:

- *idle*: in the pool's stack. Any byte and any sign of a close takes it out at once, in the loop's callback.
- *active*: `begin` was called; bytes go to the parser. What comes out of it waits in ``chunks``; one future, made by
  `wait`, tells the one reader that something has changed.
- *complete* (``done``): the response ended in good order. Another byte before the next `begin` ends the connection.
- *closed*: the transport is gone, or was told to go.

Chunks never overtake each other and a fault never overtakes a chunk: the reader takes what is there, then looks at
``done``, then at ``fault``. A read that finds the reader waiting is its; what comes before it has taken that counts
as held, and above ``buffer`` bytes the transport is paused until all of it is taken.

What the parser lets through and RFC 9112 does not is refused here, mostly by `streamproxy.wire.http1`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from streamproxy.errors import BadResponse, ConnectionTerminated, ResponseIncomplete, TlsFailed
from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import MAX_FIELDS, AmbiguousHead, Framing, response_framing

MAX_HEAD: Final = 65536
# Chunks below this are joined when several wait: handing on one more costs ten times what copying it does.
_JOIN_BELOW: Final = 8192
# What is still read from a socket after its other end has reset it.
_RESCUE_READ: Final = 65536
_RESCUE_READS: Final = 4

_FOREVER: Final = float("inf")
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:^|[,; \t])timeout=(\d{1,9})")
_NO_FRAMING: Final = Framing(0, False, False)

Informational = Callable[[int, Headers], None]


class Owner(Protocol):
    """Who hears of a connection's end."""

    def lost(self, connection: Connection) -> None:
        """The connection can't be used any more; called as soon as that is known, perhaps twice."""
        ...

    def closed(self, connection: Connection) -> None:
        """The transport is closed; called once."""
        ...


class _Malformed(Exception):
    """Raised through the parser: its text says what is wrong."""


_WRONG: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade, _Malformed, AmbiguousHead)


class Connection(asyncio.Protocol):
    """A connection, for one exchange at a time.

    ``buffer`` is the most bytes to hold for a slow reader. ``sock`` is the socket below the transport.
    """

    __slots__ = (
        "_active",
        "_buffer",
        "_continued",
        "_drained",
        "_fields",
        "_held",
        "_lifetime",
        "_loop",
        "_method",
        "_owner",
        "_parser",
        "_paused",
        "_read",
        "_sock",
        "_spoilt",
        "_transport",
        "_unparsed",
        "_waiter",
        "_write_paused",
        "chunks",
        "closed",
        "done",
        "fault",
        "framing",
        "headers",
        "idle_since",
        "informational",
        "sent",
        "status",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, sock: socket.socket, buffer: int) -> None:
        # Of the connection.
        self._owner = owner
        self._loop = loop
        self._sock = sock
        self._buffer = buffer
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._paused = False
        self._write_paused = False
        self.closed = False
        self.idle_since = 0.0  # the loop's time when it became idle
        self._lifetime = 0.0  # seconds that it may be idle, by what the upstream says of it; 0.0 is not known yet
        # Of the exchange.
        self._active = False
        self._method = ""
        self._fields: Headers = []
        self._read = 0  # bytes of heads
        self._unparsed = 0  # bytes since the last one of the body
        self._held = 0  # bytes held beyond what was handed over
        self._spoilt = False  # the parser expects a body that will not come
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._continued: asyncio.Future[None] | None = None
        self.chunks: deque[bytes] = deque()
        self.status = 0
        self.headers: Headers | None = None  # None until the head is complete
        self.framing = _NO_FRAMING
        self.done = True
        self.sent = True  # the whole request was handed to the transport
        self.fault: BaseException | None = None
        self.informational: Informational | None = None

    # For the exchange.

    def begin(self, method: str, informational: Informational | None) -> None:
        """Make ready for the response to a request of ``method``."""
        self._method = method
        self._fields = []
        self._read = self._unparsed = self._held = 0
        self.status = 0
        self.headers = None
        self.done = False
        self.sent = False
        self.informational = informational
        if self._spoilt:
            self._parser = httptools.HttpResponseParser(self)
            self._spoilt = False
        self._active = True
        if self.closed:
            self._fail(ConnectionTerminated())

    @property
    def untouched(self) -> bool:
        """Whether no byte has come since `begin`."""
        return not self._read

    @property
    def reusable(self) -> bool:
        """Whether the exchange has ended so that another can begin: both messages complete, nothing behind them."""
        return (
            self.done
            and self.sent
            and self.framing.keep_alive
            and not self.closed
            and not self._transport.get_write_buffer_size()
        )

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; nothing happens on a closed connection."""
        if not self.closed:
            self._transport.write(data)

    def writelines(self, parts: list[bytes]) -> None:
        """Hand several strings of bytes to the transport; nothing happens on a closed connection."""
        if not self.closed:
            self._transport.writelines(parts)

    def wait(self) -> asyncio.Future[None]:
        """A future of the next change of ``chunks``, ``headers``, ``done`` or ``fault``. For one reader at a time."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    async def drained(self) -> None:
        """Wait until the transport takes more."""
        while self._write_paused and not self.closed:
            self._drained = self._loop.create_future()
            await self._drained

    async def continued(self, seconds: float) -> None:
        """Wait for 100 (Continue), the final head, the end of the connection, or for so many seconds."""
        if self.headers is None and not self.closed:
            self._continued = future = self._loop.create_future()
            timer = self._loop.call_later(seconds, _settle, future)
            try:
                await future
            finally:
                timer.cancel()

    def take(self) -> bytes:
        """The next chunk; there is one. Small chunks that wait together are one."""
        chunks = self.chunks
        if len(chunks) > 1 and len(chunks[0]) < _JOIN_BELOW:
            chunk = b"".join(chunks)
            chunks.clear()
        else:
            chunk = chunks.popleft()
        if not chunks:
            self._held = 0
            if self._paused:
                self._paused = False
                if not self.closed:
                    self._transport.resume_reading()
        return chunk

    def shut(self) -> None:
        """Close at once; an exchange that is not complete fails as if the upstream had closed."""
        if self._active:
            self._lost(None)
            self._wake()
        self._end()

    def fail(self, fault: BaseException) -> None:
        """End the exchange for a reason of the request's own, unless its response is complete."""
        if self._active:
            self._fail(fault)
            self._wake()

    def recycle(self) -> None:
        """Forget the exchange, before the connection becomes idle."""
        self.chunks.clear()
        self._fields = []
        self.headers = None
        self.informational = None
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def became_idle(self) -> None:
        """Note the time: idle connections age."""
        self.idle_since = self._loop.time()

    @property
    def expired(self) -> bool:
        """Whether the upstream said that it closes an idle connection about now (Keep-Alive: timeout=N)."""
        return self._lifetime < _FOREVER and self.idle_since + self._lifetime <= self._loop.time()

    def abort(self) -> None:
        """Close at once, without waiting for anything; what was not sent is dropped."""
        self._active = False
        self.closed = True
        self._transport.abort()

    def peer_closed(self) -> bool:
        """Whether the peer has closed an idle connection, or sent a byte on it, and the loop has not noticed yet.

        Costs a system call of 1 µs, where a request that can't be repeated is about to be lost.
        """
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._active:
            self._end()  # nobody asked for it: an early answer, or the rest of a broken one
            return
        if self.headers is None:
            if not self._read and data[:1] != b"H":
                self._fail(BadResponse(note="the response does not begin with HTTP/"))
                self._wake()
                return
            self._read += len(data)
        chunks = self.chunks
        before = len(chunks)
        self._feed(data)
        waiter = self._waiter
        if len(chunks) == before:
            self._no_progress(len(data))
        else:
            self._unparsed = 0
            if waiter is None:
                self._hold(len(data))
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def eof_received(self) -> None:
        if self._active:
            if self.headers is not None and self.framing.length is None and not self.framing.chunked:
                self._end_of_connection()
            else:
                self._lost(None)
            self._wake()
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._active:
            if exc is not None:
                self._rescue()
            if self._active:
                self._lost(exc)
        self.closed = True
        self._wake()
        _settle(self._drained)
        _settle(self._continued)
        self._parser = None  # its callbacks are ours: a cycle
        self._owner.lost(self)
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        _settle(self._drained)

    # httptools

    def on_message_begin(self) -> None:
        if self.done:
            raise _Malformed("bytes after the end of the response")

    def on_status(self, reason: bytes) -> None:
        if b"\0" in reason:
            raise _Malformed("NUL in the status line")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headers is not None:
            return  # a trailer
        fields = self._fields
        if len(fields) == MAX_FIELDS:
            raise _Malformed(f"more than {MAX_FIELDS} fields")
        fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.done:
            raise _Malformed("bytes after the end of the response")
        parser, fields = self._parser, self._fields
        assert parser is not None
        if self._read > MAX_HEAD and sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEAD:
            raise _Malformed(f"a head of more than {MAX_HEAD} bytes")
        status = parser.get_status_code()
        framing = response_framing(self._method, status, parser.get_http_version(), fields)
        if status < 200:
            self._on_informational(status)
            return
        if not self._lifetime:
            self._lifetime = announced_lifetime(fields)
        self.status = status
        self.framing = framing
        self.headers = fields
        _settle(self._continued)
        if self._method == "HEAD":
            # The parser does not know, and waits for the body that the fields describe.
            self._spoilt = True
            self._complete()

    def on_body(self, body: bytes) -> None:
        if self.done:
            raise _Malformed("bytes after the end of the response")
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        if self.headers is not None and not self.done:
            self._complete()

    # Parts of the above.

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            if self.done:
                self._end()  # the response is whole, the connection is not to be trusted
            elif isinstance(
                reason, httptools.HttpParserError | httptools.HttpParserUpgrade | _Malformed | AmbiguousHead
            ):
                self._fail((BadResponse if self.headers is None else ResponseIncomplete)(note=str(reason)))
            else:
                raise
        else:
            if self._spoilt and self.done and data[-4:] != b"\r\n\r\n":
                # Behind the head of a response to HEAD the parser swallows the beginning of a chunk without a word.
                self.framing = _NO_FRAMING

    def _on_informational(self, status: int) -> None:
        """RFC 9110 section 15.2: any number of them, before the final response; 101 only when it was asked for."""
        if status == 101:
            raise _Malformed("101 (Switching Protocols) without an Upgrade")
        fields, self._fields = self._fields, []
        if status == 100:
            _settle(self._continued)
        elif self.informational is not None:
            self.informational(status, fields)

    def _no_progress(self, size: int) -> None:
        """A read without a byte of a body: bound what the parser holds of a head, an extension or a trailer."""
        if not self._active:
            return
        self._unparsed += size
        if self._unparsed > MAX_HEAD:
            if self.headers is None:
                self._fail(BadResponse(note=f"a head of more than {MAX_HEAD} bytes"))
            else:
                self._fail(ResponseIncomplete(note="a chunk's extension or a trailer without an end"))

    def _hold(self, size: int) -> None:
        """A read that the reader was not waiting for."""
        self._held += size
        if self._held > self._buffer and not self._paused and self._active:
            self._paused = True
            self._transport.pause_reading()

    def _complete(self) -> None:
        self.done = True
        self._active = False

    def _end_of_connection(self) -> None:
        """The peer closed in good order after a body that the close ends (RFC 9112 sections 6.3 and 9.8)."""
        tls = self._transport.get_extra_info("ssl_object")
        if tls is not None and not _closed_by_notify(tls):
            self._fail(ResponseIncomplete(note="TLS ended without close_notify"))
        else:
            self._complete()

    def _lost(self, exc: Exception | None) -> None:
        """The connection ended before the response did."""
        note = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the upstream"
        if self.headers is not None:
            self._fail(ResponseIncomplete(note=note))
        elif isinstance(exc, ssl.SSLError):
            self._fail(TlsFailed(note=note))  # TLS 1.3: a refused client certificate shows after the handshake
        else:
            self._fail(ConnectionTerminated(note=note))

    def _rescue(self) -> None:
        """Read what came before a reset that a write has run into.

        An upstream that refuses a request in the middle of its body may answer and close; the body that is still on
        its way makes its kernel reset the connection, and the next write fails before the answer was read. Linux
        keeps what it had received.
        """
        if self._transport.get_extra_info("ssl_object") is not None:
            return
        for _ in range(_RESCUE_READS):
            try:
                data = self._sock.recv(_RESCUE_READ, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not data or not self._active:
                return
            self.data_received(data)

    def _fail(self, fault: BaseException) -> None:
        self.fault = fault
        self._active = False
        self._end()

    def _end(self) -> None:
        """Take the connection out of use, at once."""
        if not self.closed:
            self.closed = True
            self._transport.abort()
            self._owner.lost(self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        _settle(waiter)


def announced_lifetime(headers: Headers) -> float:
    """How many seconds an upstream keeps an idle connection, by the Keep-Alive field of its first response.

    Less a second for the way there and back: a request that crosses the close on its way can't always be repeated.
    """
    for name, value in headers:
        if name == b"keep-alive":
            found = _KEEP_ALIVE_TIMEOUT.search(value.lower())
            if found:
                seconds = int(found[1])
                return max(seconds - 1.0, seconds / 2, 0.001)
    return _FOREVER


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _closed_by_notify(tls: ssl.SSLObject) -> bool:
    """Whether the TLS connection ended with close_notify: an attacker can cut TCP, but can't forge that."""
    try:
        return tls.read(1) == b""
    except ssl.SSLError as error:
        return isinstance(error, ssl.SSLZeroReturnError)
