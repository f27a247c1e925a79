"""One direction of a tunnel: what is read at one end is written to the other in the callback of that read.

Theory of operation. A `FrameWalker` follows the bytes; where it stands between two frames a control frame of our own
may stand. The states of a direction::

    OPEN ──its reader has no more──▶ ENDED (the other end is told by `write_eof`)
      └────the proxy is stopping────▶ CLOSED at the end of the frame (our own Close is the last that goes)

Most reads are one whole message. The walker does not see them, since they change nothing for it: with many sockets each
object that a read touches is one that the processor has to fetch, which costs more than what is done with it.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import Final

from streamproxy.exchange.call import Call
from streamproxy.exchange.stream import ByteStream, Receiver
from streamproxy.exchange.tally import Tally
from streamproxy.exchange.timer import CHUNK
from streamproxy.wire.websocket import (
    CLOSE,
    GOING_AWAY,
    SERVICE_RESTART,
    FrameWalker,
    close_payload,
    control_frame,
    is_message,
)

_clock: Final = monotonic  # a constant is not looked up by name


class Directions:
    """A tunnel, as its directions see it; as it is, one that has ended."""

    __slots__ = ()

    def blocked(self, direction: Direction, now: float) -> None:
        """The target holds more than it may."""

    def closing(self) -> None:
        """A Close frame has come, or bytes behind one."""

    def ended(self, direction: Direction) -> None:
        """The source sends no more."""

    def lost(self, direction: Direction) -> None:
        """The source has no connection any more."""


_ENDED: Final = Directions()


class Direction(Receiver):
    """What is read at ``source`` and written to ``target``; ``masked`` where the client sends.

    ``last`` is the time of its last byte, and ``messages`` the number of those that have passed.
    """

    __slots__ = (
        "_exchange",
        "_plain",
        "_tally",
        "_timer",
        "_tunnel",
        "blocked_since",
        "closing",
        "has_ended",
        "last",
        "masked",
        "messages",
        "source",
        "stopped",
        "target",
        "task",
        "walker",
    )

    def __init__(
        self, tunnel: Directions, call: Call, source: ByteStream, target: ByteStream, tally: Tally, masked: bool
    ) -> None:
        self.source = source
        self.target = target
        self.masked = masked
        self.walker = FrameWalker(masked=masked)
        self.messages = 0
        self.last = monotonic()
        self.blocked_since = 0.0  # the target holds more than it may since then; 0.0 while it does not
        self.task: asyncio.Task[None] | None = None  # waits for the target to drain
        self.has_ended = False  # the source sends no more
        self.closing = False  # our Close is to stand behind the present frame
        self.stopped = False  # nothing of the source goes on any more
        self._plain = True  # a read of one whole message needs no more than to be passed on
        self._tunnel = tunnel
        self._timer = call.timer
        self._exchange = call.exchange
        self._tally = tally

    # From the source.

    def received(self, data: bytes) -> None:
        """Writes what was read, and counts it."""
        now = self.last = _clock()
        timer, exchange = self._timer, self._exchange
        if timer.waits == CHUNK:
            timer.passed(now)
        if self._plain and is_message(data, self.masked):
            self._write(data, now)
            self.messages += 1
            self._tally.value += 1
        else:
            self._follow(data, now)
        if self.masked:
            exchange.request_bytes += len(data)
        else:
            exchange.response_bytes += len(data)
            exchange.chunks += 1
            exchange.events = self.messages

    def _write(self, data: bytes, now: float) -> None:
        if not self.target.write(data) and not self.blocked_since:
            self._tunnel.blocked(self, now)

    def _follow(self, data: bytes, now: float) -> None:
        """Writes what may be anything: parts of frames, several, or control frames."""
        walker = self.walker
        before = walker.messages
        if self.closing:
            self._last_frame(data)
        else:
            self._write(data, now)
            walker.feed(data)
        passed = walker.messages - before
        self.messages += passed
        self._tally.value += passed
        self._plain = walker.between_messages and not (walker.closed or self.closing)
        if walker.closed:
            self._tunnel.closing()

    def ended(self) -> None:
        self._tunnel.ended(self)

    def lost(self) -> None:
        self._tunnel.lost(self)

    # From the tunnel.

    def control(self, opcode: int, payload: bytes) -> None:
        """Send a control frame of our own."""
        self.target.write(control_frame(opcode, payload, os.urandom(4) if self.masked else b""))

    @property
    def open(self) -> bool:
        """Whether another control frame may stand here, now."""
        walker = self.walker
        return walker.between_frames and not (walker.closed or self.has_ended or self.stopped or self.blocked_since)

    def close(self) -> None:
        """Send our Close as the last frame, once the present one is over."""
        self.closing = True
        self._plain = False
        if self.walker.between_frames and not (self.walker.closed or self.stopped or self.has_ended):
            self._send_close()

    def release(self) -> None:
        """Stop, and let go of the tunnel, which holds this: a cycle is work for the garbage collector."""
        self._tunnel = _ENDED
        if self.task is not None:
            self.task.cancel()

    def _send_close(self) -> None:
        self.stopped = True
        self.control(CLOSE, close_payload(GOING_AWAY if self.masked else SERVICE_RESTART))

    def _last_frame(self, data: bytes) -> None:
        """Pass on what still belongs to the present frame, then our Close; follow the rest for the peer's own."""
        walker = self.walker
        if not self.stopped:
            size = walker.feed_frame(data)
            self.target.write(data[:size])
            data = data[size:]
            if walker.between_frames and not walker.closed:
                self._send_close()
        if data:
            walker.feed(data)
