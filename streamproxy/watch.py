"""The one timer of an exchange: its time-outs and its keepalives.

Theory of operation. At any moment an exchange waits for one thing, and the forwarder says which by storing ``waits``
and ``since``: for nothing that is limited (NOTHING), for the upstream's head (HEAD), for its next chunk (CHUNK), or
for the client to take one (WRITE). The body of the request may still be coming meanwhile: ``body_since`` is the time
since which the client owes a part of it, 0.0 when it owes none.

A step forward only stores a time. `Deadlines.decide` is a pure function of those times: it says what is due now, and
when to look again. The timer fires at the earliest moment at which anything could be due, looks, acts or sleeps for
the rest. It is armed once an exchange and never per chunk: storing a time costs 0.05 µs, re-arming a timer 1 µs and
more, and `asyncio.timeout` 3 µs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from streamproxy.errors import ExchangeError, HeadTimeout, ReadTimeout, RequestTimeout, WriteTimeout
from streamproxy.exchange import Exchange, Phase

NOTHING: Final = 0
HEAD: Final = 1
CHUNK: Final = 2
WRITE: Final = 3

KEEPALIVE: Final = "keepalive"
FOREVER: Final = float("inf")


class Limits(NamedTuple):
    """Seconds; ``inf`` for what is off. ``connect`` is kept by the client, the rest here."""

    connect: float = FOREVER
    request: float = FOREVER
    first_byte: float = FOREVER
    idle: float = FOREVER
    write: float = FOREVER
    total: float = FOREVER
    keepalive: float = FOREVER


Due = type[ExchangeError] | Literal["keepalive"] | None


class Deadlines:
    """The times of one exchange, and what follows from them. Holds no clock: ``now`` is always an argument."""

    __slots__ = ("_limits", "_step", "body_since", "keepalive_since", "limits", "since", "started", "waits")

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.started = now
        self.waits = NOTHING
        self.since = now
        self.body_since = 0.0
        self.keepalive_since = FOREVER  # the last byte that went downstream; inf while no keepalive may be sent
        self._limits = (FOREVER, limits.first_byte, limits.idle, limits.write)
        # Whatever begins to be waited for after this moment is due no earlier than this.
        self._step = min(limits[1:])

    def decide(self, now: float) -> tuple[Due, float]:
        """What is due at ``now``, and when to look again (inf for never)."""
        limits = self.limits
        again = min(self.started + limits.total, now + self._step)
        if self.started + limits.total <= now:
            return (HeadTimeout if self.waits <= HEAD else ReadTimeout), again
        if self.body_since:
            # The client owes a part of the body: the upstream can't be blamed for waiting.
            if self.body_since + limits.request <= now:
                return RequestTimeout, again
            again = min(again, self.body_since + limits.request)
            if self.waits == HEAD:
                return None, again
        due = self.since + self._limits[self.waits]
        if due <= now:
            return (None, HeadTimeout, ReadTimeout, WriteTimeout)[self.waits], again
        again = min(again, due)
        if self.waits == CHUNK:
            due = self.keepalive_since + limits.keepalive
            if due <= now:
                return KEEPALIVE, again
            again = min(again, due)
        return None, again


class Watch(Deadlines):
    """`Deadlines` with a timer: interrupts its exchange when a time-out is due, calls ``on_idle`` for a keepalive."""

    __slots__ = ("_exchange", "_handle", "_loop", "on_idle")

    def __init__(self, limits: Limits, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limits, exchange.started_at)
        self._exchange = exchange
        self._loop = loop
        self.on_idle: Callable[[], None] = _nothing
        self._handle: asyncio.TimerHandle | None = (
            loop.call_later(self._step, self._fire) if self._step != FOREVER else None
        )

    def enter(self, phase: Phase) -> None:
        """Take note of a step towards the head; clients report "connect", "request" and "head" through this."""
        exchange, now = self._exchange, time.monotonic()
        if phase == "head":
            exchange.sent_at = now
        if not exchange.head_at:  # an upstream may answer before it has the whole request
            exchange.phase = phase
            self.waits = NOTHING if phase == "connect" else HEAD
            self.since = now

    def _fire(self) -> None:
        now = time.monotonic()
        due, again = self.decide(now)
        if due == KEEPALIVE:
            self.on_idle()
        elif due is not None:
            self._exchange.interrupt(due())
        if again != FOREVER:
            # uvloop rounds down to a millisecond; without the floor a timer could fire many times in its last one.
            self._handle = self._loop.call_later(max(again - now, 0.001), self._fire)

    def close(self) -> None:
        """Stop the timer, and let go of the relay, which holds the watch: a cycle is work for the garbage collector."""
        self.on_idle = _nothing
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _nothing() -> None:
    pass
