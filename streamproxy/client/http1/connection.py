"""One connection to an upstream: the protocol between the loop's transport and the reader of the response.

Theory of operation. A connection is in one of four states:

- *idle*: in the pool. Any byte and any sign of a close removes it from the pool at once, in the loop's callback.
- *active*: `ask` was called. Bytes go to the parser, ``response``; the bytes of the body that it returns go to the
  reader.
- *complete* (``response.done``): the response has ended properly. Another byte before the next `ask` ends the
  connection, unless the response was 101, after which all bytes belong to a tunnel.
- *closed*: the transport is closed or closing.

The body has one reader, which gets it in one of two ways. If it is pulled, it waits in ``chunks``, and a future made by
`wait` tells the reader about changes. If it is pushed, it is passed to the sink set by `pipe` in the callback of the
read; this happens only while ``chunks`` is empty. A sink that accepts no more, the end and an error end the push and
wake the reader. What comes in one read with the end waits for the reader, which passes on both at once. Chunks never
overtake each other, and an error never overtakes a chunk: the reader takes the available chunks, then looks at
``response.done``, then at ``fault``.

All bytes received since the reader last waited count as held. The reader waits, or pipes, once it has passed on
everything. If the next read of the same size would exceed ``buffer`` bytes, the transport is paused until the reader
waits again. So this limits what a reader and its connection hold together.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from streamproxy.client.base import Sink
from streamproxy.client.connection import Owner
from streamproxy.client.http1.response import ResponseParser
from streamproxy.client.http1.sending import SendingConnection, settle
from streamproxy.client.http1.tunnel import Tunnel
from streamproxy.client.reads import MOST, bound_reads, rescued
from streamproxy.client.secure import TlsTransport
from streamproxy.errors import BadResponse, ConnectionTerminated, ResponseIncomplete, TlsFailed

# Waiting chunks smaller than this are joined: passing on one more chunk costs ten times as much as copying it.
_JOIN_BELOW: Final = 8192


class Connection(SendingConnection):
    """A connection, for one exchange at a time.

    ``buffer`` is the maximum bytes to hold for a slow reader, unless the request has its own limit. ``sock`` is the
    socket below the transport. ``sent`` is whether the whole request was sent; ``fault`` is why the exchange failed.

    It has the methods of `asyncio.Protocol` without inheriting from it, because a class with a base class in Python
    cannot be compiled.
    """

    __slots__ = (
        "_active",
        "_bounded",
        "_buffer",
        "_continued",
        "_default_buffer",
        "_held",
        "_owner",
        "_paused",
        "_sink",
        "_tunnel",
        "_waiter",
        "chunks",
        "fault",
        "response",
        "sent",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, sock: socket.socket, buffer: int) -> None:
        super().__init__(loop, sock)
        # Of the connection.
        self._owner = owner
        self._default_buffer = buffer
        self._paused = False
        self._bounded = False  # its reads
        self.lifetime = 0.0
        self.response = ResponseParser()
        # Of the exchange.
        self._active = False
        self._buffer = buffer
        self._held = 0
        self._sink: Sink | None = None
        self._tunnel: Tunnel | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._continued: asyncio.Future[None] | None = None
        self.chunks: list[bytes] = []  # few; an empty deque takes 600 bytes
        self.sent = True
        self.fault: BaseException | None = None

    # For the exchange.

    def ask(self, head: bytes, buffer: int | None, whole: bool) -> None:
        """Sends the head of a request, for whose response ``response.begin`` was called.

        ``whole`` means that no body follows; otherwise the caller sets ``sent`` once the body was sent.
        """
        self._buffer = self._default_buffer if buffer is None else buffer
        self._held = 0
        self.sent = whole
        self._active = True
        if not self.closed:
            self._transport.write(head)
        elif self.response.stray:
            self._fail_with(BadResponse(note="bytes before the request"))
        else:
            self._lost(None)

    def wait(self) -> asyncio.Future[None]:
        """Returns a future of the next change of ``chunks``, ``response`` or ``fault``, for one reader at a time."""
        self._held = 0
        if self._paused:
            self._resume()
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def pipe(self, sink: Sink | None) -> bool:
        """Passes chunks to ``sink`` from now on; None stops it. Returns False while chunks wait."""
        if sink is not None and (self.chunks or not self._active):
            return False
        self._sink = sink
        if sink is not None:
            self._held = 0
            if self._paused:
                self._resume()
        return True

    def take(self) -> bytes:
        """Returns the next chunk, joined with further small ones. There must be one."""
        chunks = self.chunks
        chunk = chunks.pop(0)
        if chunks:
            if len(chunk) >= _JOIN_BELOW:
                return chunk
            chunk = b"".join((chunk, *chunks))
            chunks.clear()
        return chunk

    async def continued(self, seconds: float) -> None:
        """Waits for 100 (Continue), the final head or the end of the connection, for at most so many seconds."""
        if self.response.headers is None and not self.response.continued and not self.closed:
            self._continued = future = self._loop.create_future()
            timer = self._loop.call_later(seconds, settle, future)
            try:
                await future
            finally:
                timer.cancel()

    def detach(self) -> Tunnel:
        """Returns the connection as a stream of bytes, after 101 (Switching Protocols)."""
        if not self.response.upgraded or self._tunnel is not None:
            raise RuntimeError("the connection has not switched protocols")
        transport = self._transport
        self._tunnel = Tunnel(transport, self._loop, self.response.rest, None if self.closed else self.connection_lost)
        if not (self.closed or self._bounded or isinstance(transport, TlsTransport)):
            self._tunnel.take_over()
        self.response.rest = b""
        # A tunnel may last long, so everything that only a head and a body need is freed.
        self.response.forget()
        return self._tunnel

    def fail(self, fault: BaseException) -> None:
        """Ends the exchange because of an error of the request, unless its response is complete."""
        if self._active:
            self._fail_with(fault)
            self._wake()

    def abort(self) -> None:
        """Closes at once without waiting; unsent data is dropped."""
        self._active = False
        self._sink = None
        self.fault = None  # its traceback may contain frames that refer to this connection
        self.closed = True
        self._transport.abort()

    # For the pool.

    def reusable(self) -> bool:
        """Whether another exchange can begin: both messages are complete, and nothing follows them."""
        return (
            self.response.done
            and self.sent
            and self.response.framing.keep_alive
            and not self.closed
            and not self._transport.get_write_buffer_size()
        )

    def become_idle(self) -> None:
        """Forgets the exchange, and records the time, since idle connections age."""
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
        """Closes at once; an incomplete exchange fails as if the upstream had closed."""
        if self._active:
            self._lost(None)
            self._wake()
        self._end()

    # asyncio.Protocol

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
            if response.done and self._continued is None and not (response.stray or response.upgraded):
                self._active = False
            else:
                self._look(data)
        if chunk:
            sink = self._sink
            if sink is None or response.done:
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
        if self._active:
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
        settle(self._drained)
        settle(self._continued)
        self.response.forget()
        self._owner.lost(self)
        self._owner.closed(self)
        if self._tunnel is not None:
            self._tunnel.lost()

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        settle(self._drained)
        if self._tunnel is not None:
            self._tunnel.resume_writing()

    # Parts of the above.

    def _look(self, data: bytes) -> None:
        """Handles the state of the response after a read that was not only a chunk."""
        response = self.response
        if self._continued is not None and (response.continued or response.headers is not None):
            settle(self._continued)
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
        """Handles bytes outside of an exchange: of a tunnel, an early response, or the rest of a broken one."""
        if self._tunnel is not None:
            self._tunnel.data_received(data)
        elif self.response.upgraded and not self.closed:
            self.response.rest += data
        else:
            self.response.stray = True
            self._end()

    def _unpipe(self, size: int) -> None:
        """The sink accepts no more for now, after a read of so many bytes."""
        self._wake()
        self._hold(size)

    def _hold(self, size: int) -> None:
        """Counts a read that the reader has yet to pass on."""
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
        """Limits the size of reads while there is much data, or removes the limit."""
        if self.closed or self._paused:
            return
        self._bounded = bounded
        transport = self._transport
        if isinstance(transport, TlsTransport):
            transport.bound_reads(bounded)
        else:
            bound_reads(transport, self, bounded)

    def _end_of_connection(self) -> None:
        """The peer closed properly after a body delimited by the close (RFC 9112 sections 6.3 and 9.8)."""
        transport = self._transport
        if isinstance(transport, TlsTransport) and not transport.ended:  # anyone on the path can end TCP
            self._fail_with(ResponseIncomplete(note="TLS ended without close_notify"))
        else:
            self.response.done = True
            self._active = False

    def _lost(self, exc: Exception | None) -> None:
        """The connection ended before the response."""
        note = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the upstream"
        if self.response.headers is not None:
            self._fail_with(ResponseIncomplete(note=note))
        elif isinstance(exc, ssl.SSLError):
            self._fail_with(TlsFailed(note=note))  # with TLS 1.3, a client certificate is refused after the handshake
        else:
            self._fail_with(ConnectionTerminated(note=note))

    def _rescue(self) -> None:
        """Reads what arrived before a reset that a write has found.

        An upstream that refuses a request in the middle of its body may respond and close. The rest of the body then
        makes its kernel reset the connection, and the next write fails before the response was read. Linux keeps the
        data that it had received.
        """
        transport = self._transport
        receive = transport.data_received if isinstance(transport, TlsTransport) else self.data_received
        for data in rescued(self._sock):
            receive(data)
            if not self._active:
                return

    def _fail_with(self, fault: BaseException) -> None:
        self.fault = fault
        self._active = False
        self._sink = None
        self._end()

    def _end(self) -> None:
        """Stops using the connection at once."""
        if not self.closed:
            self.closed = True
            self._transport.abort()
            self._owner.lost(self)

    def _wake(self) -> None:
        self._sink = None
        waiter, self._waiter = self._waiter, None
        settle(waiter)
