"""One connection to an upstream: the protocol between the loop's transport and whoever reads the response.

Theory of operation. A connection is in one of four states:

- *idle*: in the pool's stack. Any byte and any sign of a close takes it out at once, in the loop's callback.
- *active*: `ask` was called; bytes go to the parser. What comes out of it waits in ``chunks``; one future, made by
  `wait`, tells the one reader that something has changed.
- *complete* (``done``): the response ended in good order. Another byte before the next `ask` ends the connection.
- *closed*: the transport is gone, or was told to go.

Chunks never overtake each other and a fault never overtakes a chunk: the reader takes what is there, then looks at
``done``, then at ``fault``. A read that finds the reader waiting is its; what comes before it has taken that counts
as held, and above ``buffer`` bytes the transport is paused until all of it is taken.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, Protocol, cast

from streamproxy.client.http1.response import FOREVER, Informational, ResponseParser
from streamproxy.client.secure import TlsTransport
from streamproxy.errors import ConnectionTerminated, ResponseIncomplete, TlsFailed

# Chunks below this are joined when several wait: handing on one more costs ten times what copying it does.
_JOIN_BELOW: Final = 8192
# Of what is retired: over before it began, and not the 0.0 that waits for the upstream's word.
_NO_LONGER: Final = -1.0
# What is still read from a socket after its other end has reset it.
_RESCUE_READ: Final = 65536
_RESCUE_READS: Final = 4


class Owner(Protocol):
    """Who hears of a connection's end."""

    def lost(self, connection: Connection) -> None:
        """The connection can't be used any more; called as soon as that is known, perhaps twice."""
        ...

    def closed(self, connection: Connection) -> None:
        """The transport is closed; called once."""
        ...


class Connection(ResponseParser):
    """A connection, for one exchange at a time.

    An `asyncio.Protocol` in all but name: loops call its methods and ask for no more, and a class with a base in
    Python can't be compiled.

    ``buffer`` is the most bytes to hold for a slow reader. ``sock`` is the socket below the transport.
    """

    __slots__ = (
        "_active",
        "_buffer",
        "_continued",
        "_drained",
        "_held",
        "_loop",
        "_owner",
        "_paused",
        "_sock",
        "_transport",
        "_waiter",
        "_write_paused",
        "address",
        "closed",
        "idle_since",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, sock: socket.socket, buffer: int) -> None:
        super().__init__()
        # Of the connection.
        self._owner = owner
        self._loop = loop
        self._sock = sock
        self._buffer = buffer
        self._transport: asyncio.Transport | TlsTransport = cast(asyncio.Transport, None)  # until connection_made
        self._paused = False
        self._write_paused = False
        self.closed = False
        self.address: object = None  # host and port, where they may change
        self.idle_since = 0.0  # the loop's time when it became idle
        # Of the exchange.
        self._active = False
        self._held = 0  # bytes held beyond what was handed over
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._continued: asyncio.Future[None] | None = None

    # For the exchange.

    def ask(self, method: str, head: bytes, informational: Informational | None, *, whole: bool) -> None:
        """Send the head of a request of ``method``, and make ready for its response.

        ``whole`` says that no body follows; else ``sent`` is to be set when it is out.
        """
        self.begin(method, informational)
        self._held = 0
        self.sent = whole
        self._active = True
        if self.closed:
            self._lost(None)
        else:
            self._transport.write(head)

    def wait(self) -> asyncio.Future[None]:
        """A future of the next change of ``chunks``, ``headers``, ``done`` or ``fault``. For one reader at a time."""
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def take(self) -> bytes:
        """The next chunk; there is one. Small chunks that wait together are one."""
        chunks = self.chunks
        chunk = chunks.popleft()
        if chunks:
            if len(chunk) >= _JOIN_BELOW:
                return chunk
            chunk = b"".join((chunk, *chunks))
            chunks.clear()
        self._held = 0
        if self._paused:
            self._resume()
        return chunk

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; nothing happens on a closed connection."""
        if not self.closed:
            self._transport.write(data)

    def writelines(self, parts: list[bytes]) -> None:
        """Hand several strings of bytes to the transport; nothing happens on a closed connection."""
        if not self.closed:
            self._transport.writelines(parts)

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

    def fail(self, fault: BaseException) -> None:
        """End the exchange for a reason of the request's own, unless its response is complete."""
        if self._active:
            self._fail_with(fault)
            self._wake()

    def abort(self) -> None:
        """Close at once, without waiting for anything; what was not sent is dropped."""
        self._active = False
        self.closed = True
        self._transport.abort()

    # For the pool.

    def reusable(self) -> bool:
        """Whether the exchange has ended so that another can begin: both messages complete, nothing behind them."""
        return (
            self.done
            and self.sent
            and self.framing.keep_alive
            and not self.closed
            and not self._transport.get_write_buffer_size()
        )

    def become_idle(self) -> None:
        """Forget the exchange, and note the time: idle connections age."""
        self.idle_since = self._loop.time()
        self._informational = None
        if self.chunks:
            self.chunks.clear()
        if self._paused:
            self._resume()

    def retire(self) -> None:
        """Carry no more than the exchange that there is: the address is not the upstream's any more."""
        self.lifetime = _NO_LONGER

    @property
    def expired(self) -> bool:
        """Whether it must not be used again.

        Because the upstream said that it closes an idle connection about now (Keep-Alive: timeout=N), or is retired.
        """
        return self.lifetime < FOREVER and self.idle_since + self.lifetime <= self._loop.time()

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
            self._end()  # nobody asked for it: an early answer, or the rest of a broken one
            return
        self.feed(data)
        if self.done or self.fault is not None:
            self._active = False
            if self.stray or self.fault is not None:
                self._end()
        waiter = self._waiter
        if waiter is None:
            self._hold(len(data))
        else:
            self._waiter = None
            try:  # noqa: SIM105 - a context manager costs more than the question that this spares
                waiter.set_result(None)
            except asyncio.InvalidStateError:
                pass  # the reader was cancelled

    def eof_received(self) -> None:
        if self._active:
            if self.ends_with_connection:
                self._end_of_connection()
            else:
                self._lost(None)
            self._wake()
        self._end()

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
        self.forget()
        self._owner.lost(self)
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        _settle(self._drained)

    def go_ahead(self) -> None:
        _settle(self._continued)

    # Parts of the above.

    def _hold(self, size: int) -> None:
        """A read that the reader was not waiting for."""
        self._held += size
        if self._held > self._buffer and not self._paused and self._active and self.chunks:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._paused = False
        if not self.closed:
            self._transport.resume_reading()

    def _end_of_connection(self) -> None:
        """The peer closed in good order after a body that the close ends (RFC 9112 sections 6.3 and 9.8)."""
        transport = self._transport
        if isinstance(transport, TlsTransport) and not transport.ended:  # to cut TCP takes no key
            self._fail_with(ResponseIncomplete(note="TLS ended without close_notify"))
        else:
            self.done = True
            self._active = False

    def _lost(self, exc: Exception | None) -> None:
        """The connection ended before the response did."""
        note = f"{type(exc).__name__}: {exc}" if exc is not None else "closed by the upstream"
        if self.headers is not None:
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


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
