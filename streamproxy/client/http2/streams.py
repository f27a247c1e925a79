"""The streams of one connection to an upstream, as exchanges use them: opened, fed, read, and left.

Theory of operation. A stream is in the table until the session says that it is closed, or its exchange leaves it, which
resets it. What the streams want sent is queued in the session, and so is what opens their windows again: the reader of
a response owes the upstream what it has not passed on yet, and settles that whenever it waits for more.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from streamproxy.client.connection import ClientConnection
from streamproxy.client.http2.state import MAX_HEAD, ResponseState
from streamproxy.wire.headers import Headers
from streamproxy.wire.http2.frames import FrameGate
from streamproxy.wire.http2.session import CANCEL, STREAM_WINDOW, SessionFailed, client_session

_UNANNOUNCED: Final = 100  # streams, before the upstream has said how many
_CONTINUATIONS: Final = 8
_QUEUED: Final = 65_536  # bytes of a request's body that wait in the session


class StreamTable(ClientConnection):
    """The part of a connection that exchanges use. A subclass reads and writes, and knows the ends of connections.

    ``broken`` says that nothing can pass any more: every stream has failed.
    """

    __slots__ = ("_gate", "_session", "_streams", "_write_paused", "broken")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        super().__init__(loop, sock, _UNANNOUNCED)
        self._session = client_session(STREAM_WINDOW, MAX_HEAD, _CONTINUATIONS)
        self._gate = FrameGate(MAX_HEAD, _CONTINUATIONS, loop.time(), preface=False)
        self._streams: dict[int, ResponseState] = {}
        self._write_paused = False
        self.broken = False

    # For the subclass to implement.

    def flush(self) -> None:
        """Write what can be sent now, as far as the transport takes it."""
        raise NotImplementedError

    def _watch_over(self) -> None:
        """A stream was opened: see to it that the upstream gives a sign of life."""
        raise NotImplementedError

    def _take_no_more(self) -> None:
        """Open no more streams here; close when there are none."""
        raise NotImplementedError

    # For the exchange.

    def open(self, state: ResponseState, fields: Headers, body: bytes | None, buffer: int | None) -> bool:
        """Send a request; ``body`` is None where one follows by `send`. Returns False if no stream can be opened.

        ``buffer`` is how many bytes of the response may come before they are passed on; never fewer than HTTP/2's
        smallest usual window, which the upstream may have used before it hears of another.
        """
        session = self._session
        if self.closed or self.broken:
            return False
        try:
            number = session.request(fields, body == b"")
        except SessionFailed:
            self._take_no_more()
            return False
        if body:
            session.send(number, body, True)
        state.number = number
        self._streams[number] = state
        self._gate.opened_stream()
        self.flush()
        if buffer is not None and buffer > STREAM_WINDOW and not state.closed:
            session.widen(number, buffer)
            self.flush()
        self._watch_over()
        return True

    def wait(self, state: ResponseState) -> asyncio.Future[None]:
        """A future of the stream's next change; the reader has passed on all that it took."""
        self._settle_owed(state)
        return state.wait(self._loop)

    def passed_on(self, state: ResponseState) -> None:
        """The reader of a stream has passed on all that it took."""
        self._settle_owed(state)

    def leave(self, state: ResponseState) -> None:
        """The exchange is over; a stream that is not is cancelled, which costs no other stream anything."""
        state.sink = None
        if self.broken:
            return
        if state.number in self._streams:
            del self._streams[state.number]
            self._session.reset(state.number, CANCEL)
        state.closed = True
        state.wake_sender()
        if state.owed:
            self._session.consumed(state.number, state.owed)
            state.owed = 0
        self.flush()

    def send(self, state: ResponseState, data: bytes) -> None:
        """Queue a part of a request's body."""
        if not state.closed:
            self._session.send(state.number, data, False)
            self.flush()

    def end(self, state: ResponseState, trailers: Headers) -> None:
        """The request's body has ended, with these fields."""
        if state.closed:
            return
        if trailers:
            self._session.trailers(state.number, trailers)
        else:
            self._session.send(state.number, b"", True)
        self.flush()

    async def room(self, state: ResponseState) -> None:
        """Wait until the stream takes more of its body, or is closed."""
        while not state.closed and (self._write_paused or self._session.queued(state.number) > _QUEUED):
            state.room = self._loop.create_future()
            await state.room

    async def continued(self, state: ResponseState, seconds: float) -> None:
        """Wait for 100 (Continue), the final head, the end of the stream, or for so many seconds."""
        if state.headers is None and not state.continued and not state.closed:
            state.room = future = self._loop.create_future()
            timer = self._loop.call_later(seconds, state.wake_sender)
            try:
                await future
            finally:
                timer.cancel()

    def _settle_owed(self, state: ResponseState) -> None:
        """Give the upstream back what the reader of a stream has passed on."""
        owed = state.owed
        if owed and not self.broken:
            state.owed = 0
            self._session.consumed(state.number, owed)
            self.flush()

    def _wake_senders(self) -> None:
        for state in self._streams.values():
            if state.room is not None:
                state.wake_sender()
