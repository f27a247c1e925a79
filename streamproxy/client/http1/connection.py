"""One connection to an upstream: the protocol between the loop's transport and whoever reads the response.

Theory of operation. A connection is in one of four states:

- *idle*: in the pool. Any byte and any sign of a close takes it out at once, in the loop's callback.
- *active*: `ask` was called; bytes go to the parser, ``response``, and what it returns of the body to the reader.
- *complete* (``response.done``): the response ended in good order. Another byte before the next `ask` ends the
  connection, unless the response was 101: then it is a tunnel's.
- *closed*: the transport is gone, or was told to go.

The body goes to its one reader in one of two ways. Pulled, it waits in ``chunks``; one future, made by `wait`, tells
the reader that something has changed. Pushed, it is handed to the sink that `pipe` has set, in the read itself; only
while nothing waits in ``chunks``. A sink that takes no more, the end and a fault end the push and wake the reader.
Chunks never overtake each other and a fault never overtakes a chunk: the reader takes what is there, then looks at
``response.done``, then at ``fault``.

What counts as held is what came since the reader last waited: it waits, or pipes, when it has passed everything on.
When the next read of the same size would bring it above ``buffer`` bytes, the transport is paused until the reader
waits again. So a reader and its connection hold that much together.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Final, cast

from streamproxy.client.base import Sink
from streamproxy.client.connection import ClientConnection, Owner
from streamproxy.client.http1.response import ResponseParser
from streamproxy.client.http1.tunnel import Tunnel
from streamproxy.client.reads import MOST, bound_reads
from streamproxy.client.secure import TlsTransport
from streamproxy.errors import ConnectionTerminated, ResponseIncomplete, TlsFailed
from streamproxy.wire.gather import GATHERS

# Chunks below this are joined when several wait: handing on one more costs ten times what copying it does.
_JOIN_BELOW: Final = 8192
# What is still read from a socket after its other end has reset it.
_RESCUE_READ: Final = 65536
_RESCUE_READS: Final = 4
_NONE: Final[deque[bytes]] = deque(maxlen=0)  # no chunks, and no room for any


class Connection(ClientConnection):
    """A connection, for one exchange at a time.

    An `asyncio.Protocol` in all but name: loops call its methods and ask for no more, and a class with a base in
    Python can't be compiled.

    ``buffer`` is the most bytes to hold for a slow reader, where a request has no number of its own. ``sock`` is the
    socket below the transport. ``sent`` says that the whole request is out; ``fault`` is why the exchange failed.
    """

    __slots__ = (
        "_active",
        "_bounded",
        "_buffer",
        "_continued",
        "_default_buffer",
        "_drained",
        "_held",
        "_owner",
        "_paused",
        "_sink",
        "_transport",
        "_tunnel",
        "_waiter",
        "_write_paused",
        "chunks",
        "fault",
        "response",
        "sent",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, sock: socket.socket, buffer: int) -> None:
        super().__init__(loop, sock, 1)
        # Of the connection.
        self._owner = owner
        self._default_buffer = buffer
        self._transport: asyncio.Transport | TlsTransport = cast(asyncio.Transport, None)  # until connection_made
        self._paused = False
        self._bounded = False  # its reads
        self._write_paused = False
        self.lifetime = 0.0
        self.response = ResponseParser()
        # Of the exchange.
        self._active = False
        self._buffer = buffer
        self._held = 0
        self._sink: Sink | None = None
        self._tunnel: Tunnel | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._continued: asyncio.Future[None] | None = None
        self.chunks: deque[bytes] = deque()
        self.sent = True
        self.fault: BaseException | None = None

    # For the exchange.

    def ask(self, head: bytes, buffer: int | None, whole: bool) -> None:
        """Send the head of a request, for whose response ``response.begin`` was called.

        ``whole`` says that no body follows; else ``sent`` is to be set when it is out.
        """
        self._buffer = self._default_buffer if buffer is None else buffer
        self._held = 0
        self.sent = whole
        self._active = True
        if self.closed:
            self._lost(None)
        else:
            self._transport.write(head)

    def wait(self) -> asyncio.Future[None]:
        """A future of the next change of ``chunks``, ``response`` or ``fault``. For one reader at a time."""
        self._held = 0
        if self._paused:
            self._resume()
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def pipe(self, sink: Sink | None) -> bool:
        """Hand chunks to ``sink`` from now on, or to nobody; whether that can be: not while chunks wait."""
        if sink is not None and (self.chunks or not self._active):
            return False
        self._sink = sink
        if sink is not None:
            self._held = 0
            if self._paused:
                self._resume()
        return True

    def take(self) -> bytes:
        """The next chunk; there is one. Small chunks that wait together are one."""
        chunks = self.chunks
        chunk = chunks.popleft()
        if chunks:
            if len(chunk) >= _JOIN_BELOW:
                return chunk
            chunk = b"".join((chunk, *chunks))
            chunks.clear()
        return chunk

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; nothing happens on a closed connection."""
        if not self.closed:
            self._transport.write(data)

    def writelines(self, parts: list[bytes]) -> None:
        """Hand several strings of bytes to the transport; nothing happens on a closed connection."""
        if self.closed:
            return
        if GATHERS:
            self._transport.writelines(parts)
        else:
            self._transport.write(b"".join(parts))

    async def drained(self) -> None:
        """Wait until the transport takes more."""
        while self._write_paused and not self.closed:
            self._drained = self._loop.create_future()
            await self._drained

    async def continued(self, seconds: float) -> None:
        """Wait for 100 (Continue), the final head, the end of the connection, or for so many seconds."""
        if self.response.headers is None and not self.response.continued and not self.closed:
            self._continued = future = self._loop.create_future()
            timer = self._loop.call_later(seconds, _settle, future)
            try:
                await future
            finally:
                timer.cancel()

    def detach(self) -> Tunnel:
        """The connection as a stream of bytes, after 101 (Switching Protocols)."""
        if not self.response.upgraded or self._tunnel is not None:
            raise RuntimeError("the connection has not switched protocols")
        self._tunnel = Tunnel(self._transport, self._loop, self.response.rest, self.closed)
        self.response.rest = b""
        # A tunnel lasts, and what was needed for its head and a body would stay with it.
        self.response.forget()
        self.chunks = _NONE
        return self._tunnel

    def fail(self, fault: BaseException) -> None:
        """End the exchange for a reason of the request's own, unless its response is complete."""
        if self._active:
            self._fail_with(fault)
            self._wake()

    def abort(self) -> None:
        """Close at once, without waiting for anything; what was not sent is dropped."""
        self._active = False
        self._sink = None
        self.fault = None  # its traceback may hold frames that hold this connection
        self.closed = True
        self._transport.abort()

    # For the pool.

    def reusable(self) -> bool:
        """Whether the exchange has ended so that another can begin: both messages complete, nothing behind them."""
        return (
            self.response.done
            and self.sent
            and self.response.framing.keep_alive
            and not self.closed
            and not self._transport.get_write_buffer_size()
        )

    def become_idle(self) -> None:
        """Forget the exchange, and note the time: idle connections age."""
        self.idle_since = self._loop.time()
        if not self.lifetime:
            self.lifetime = self.response.lifetime
        self._sink = None
        if self.chunks:
            self.chunks.clear()
        if self._paused:
            self._resume()
        if self._bounded:
            self._bound(False)

    def shut(self) -> None:
        """Close at once; an exchange that is not complete fails as if the upstream had closed."""
        if self._active:
            self._lost(None)
            self._wake()
        self._end()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport | TlsTransport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._active:
            self._unasked(data)
            return
        response = self.response
        decoder = response.chunks
        chunk = decoder.whole(data) if decoder is not None else None
        if chunk is not None:
            sink = self._sink
            if sink is not None:  # most chunks of most streams
                if not sink(chunk, data):
                    self._unpipe(len(data))
                return
        else:
            chunk = response.feed(data)
            self._look(data)
        if chunk:
            sink = self._sink
            if sink is None:
                self.chunks.append(chunk)
            elif sink(chunk, b""):
                if self._active:
                    return
            else:
                self._unpipe(len(data))
                return
        elif self._sink is not None and self._active:
            return  # a part of the framing
        self._sink = None
        self._hold(len(data))
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            try:  # noqa: SIM105 - a context manager costs more than the question that this spares
                waiter.set_result(None)
            except asyncio.InvalidStateError:
                pass  # the reader was cancelled

    def eof_received(self) -> bool:
        if self._tunnel is not None:
            return self._tunnel.eof_received()
        if self._active:
            if self.response.ends_with_connection:
                self._end_of_connection()
            else:
                self._lost(None)
            self._wake()
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._active and exc is not None:
            self._rescue()
        if self._active:
            transport = self._transport
            self._lost((transport.fault or exc) if isinstance(transport, TlsTransport) else exc)
        self.closed = True
        self._wake()
        _settle(self._drained)
        _settle(self._continued)
        self.response.forget()
        self._owner.lost(self)
        self._owner.closed(self)
        if self._tunnel is not None:
            self._tunnel.connection_lost()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        _settle(self._drained)
        if self._tunnel is not None:
            self._tunnel.resume_writing()

    # Parts of the above.

    def _look(self, data: bytes) -> None:
        """See what a read that was not just a chunk has made of the response."""
        response = self.response
        if self._continued is not None and (response.continued or response.headers is not None):
            _settle(self._continued)
        if response.fault is not None:
            self._fail_with(response.fault)
        elif response.done:
            self._active = False
            if response.upgraded:
                self._transport.pause_reading()
            elif response.stray:
                self._end()
        elif len(data) > MOST and not self._bounded:
            self._bound(True)

    def _unasked(self, data: bytes) -> None:
        """Bytes that belong to no exchange: a tunnel's, an early answer, or the rest of a broken one."""
        if self._tunnel is not None:
            self._tunnel.received(data)
        elif self.response.upgraded and not self.closed:
            self.response.rest += data
        else:
            self._end()

    def _unpipe(self, size: int) -> None:
        """The sink takes no more for now, after a read of so many bytes."""
        self._wake()
        self._hold(size)

    def _hold(self, size: int) -> None:
        """A read that the reader has to pass on."""
        if size > MOST and not self._bounded:
            self._bound(True)
        self._held += size
        if self._held + size > self._buffer and not self._paused and self._active:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._paused = False
        if not self.closed:
            self._transport.resume_reading()

    def _bound(self, bounded: bool) -> None:
        """Bound the reads of a flood, or let the loop read as it does."""
        if self.closed or self._paused:
            return
        self._bounded = bounded
        transport = self._transport
        if isinstance(transport, TlsTransport):
            transport.bound_reads(bounded)
        else:
            bound_reads(transport, self, bounded)

    def _end_of_connection(self) -> None:
        """The peer closed in good order after a body that the close ends (RFC 9112 sections 6.3 and 9.8)."""
        transport = self._transport
        if isinstance(transport, TlsTransport) and not transport.ended:  # to cut TCP takes no key
            self._fail_with(ResponseIncomplete(note="TLS ended without close_notify"))
        else:
            self.response.done = True
            self._active = False

    def _lost(self, exc: Exception | None) -> None:
        """The connection ended before the response did."""
        note = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the upstream"
        if self.response.headers is not None:
            self._fail_with(ResponseIncomplete(note=note))
        elif isinstance(exc, ssl.SSLError):
            self._fail_with(TlsFailed(note=note))  # TLS 1.3: a refused client certificate shows after the handshake
        else:
            self._fail_with(ConnectionTerminated(note=note))

    def _rescue(self) -> None:
        """Read what came before a reset that a write has run into.

        An upstream that refuses a request in the middle of its body may answer and close; the body that is still on
        its way makes its kernel reset the connection, and the next write fails before the answer was read. Linux
        keeps what it had received.
        """
        transport = self._transport
        receive = transport.data_received if isinstance(transport, TlsTransport) else self.data_received
        for _ in range(_RESCUE_READS):
            try:
                data = self._sock.recv(_RESCUE_READ, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not data or not self._active:
                return
            receive(data)

    def _fail_with(self, fault: BaseException) -> None:
        self.fault = fault
        self._active = False
        self._sink = None
        self._end()

    def _end(self) -> None:
        """Take the connection out of use, at once."""
        if not self.closed:
            self.closed = True
            self._transport.abort()
            self._owner.lost(self)

    def _wake(self) -> None:
        self._sink = None
        waiter, self._waiter = self._waiter, None
        _settle(waiter)


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
