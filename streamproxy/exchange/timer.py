"""The timer of an exchange, for its timeouts and keepalives.

Theory of operation. At any time an exchange waits for one thing: for nothing with a limit (NOTHING), for the upstream's
head (HEAD), for its next chunk (CHUNK), or for the client to accept one (WRITE). `Timer.waits_for` sets what, and since
when. The request body may still be arriving: between `awaits_body` and `has_body` the client is expected to send, and
the upstream's timeouts do not apply.

Progress only stores a time. `Deadlines.decide` is a pure function of these times and returns what is due now, and when
to check again. The timer fires at the earliest time at which anything could be due, checks, and acts or sleeps for the
rest. It is armed once per exchange and never per chunk.

A process that was stopped, for example on a suspended machine, finds timeouts due before it has read what arrived
meanwhile, because an event loop runs its timers first. So a timer that fires late checks once more before it ends an
exchange.

An early head (`streamproxy.proxy.early`) is independent of this. It is due at ``early_at``, and comments follow it.
``stuck_since`` is when the client stopped accepting them; the exchange still waits for its upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from streamproxy.errors import ExchangeError, HeadTimeout, ReadTimeout, RequestTimeout, WriteTimeout
from streamproxy.exchange.clock import monotonic
from streamproxy.exchange.exchange import Exchange, Phase
from streamproxy.wire.times import FOREVER

NOTHING: Final = 0
HEAD: Final = 1
CHUNK: Final = 2
WRITE: Final = 3

KEEPALIVE: Final = "keepalive"
EARLY: Final = "early"


def _nothing() -> None:
    pass


_NO_CALL: Final[Callable[[], None]] = _nothing  # a constant: compiled code looks a function up by its name
LATE: Final = 0.1  # seconds; if a timer fires later than this, the process was stopped
SECOND_LOOK: Final = 0.25  # seconds after that, in which the loop reads what has arrived
_POSTPONED: Final = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The timeouts of a route in seconds; ``inf`` for off.

    ``by_wait`` has the timeout of each thing that an exchange waits for. ``step`` is the shortest of all: no wait is
    due earlier.
    """

    request: float = FOREVER
    first_byte: float = FOREVER
    idle: float = FOREVER
    write: float = FOREVER
    total: float = FOREVER
    keepalive: float = FOREVER
    early: float = FOREVER  # until a head is sent that does not wait for the upstream's
    by_wait: tuple[float, ...] = field(init=False)
    step: float = field(init=False)

    def __post_init__(self) -> None:
        by_wait = (FOREVER, self.first_byte, self.idle, self.write)
        object.__setattr__(self, "by_wait", by_wait)
        object.__setattr__(self, "step", min(*by_wait, self.request, self.total, self.keepalive, self.early))


Due = type[ExchangeError] | Literal["keepalive", "early"] | None


class Deadlines:
    """The times of one exchange, and what is due. It has no clock: ``now`` is always an argument."""

    __slots__ = (
        "body_since",
        "early_at",
        "keepalive_since",
        "limits",
        "since",
        "started",
        "stuck_since",
        "waits",
    )

    def __init__(self, limits: TimeLimits, now: float) -> None:
        self.limits = limits
        self.started = now
        self.waits = NOTHING
        self.since = now
        self.body_since = 0.0  # since when the client has to send more of the body; 0.0 if it does not
        self.keepalive_since = FOREVER  # when the last byte was sent downstream; inf while no keepalive may be sent
        self.early_at = FOREVER  # when an early head or its next comment is due; inf while none may be sent
        self.stuck_since = 0.0  # since when the client has not accepted one of these; 0.0 if it has

    def waits_for(self, what: int, now: float) -> None:
        """Sets what the exchange waits for from ``now`` on: NOTHING, HEAD, CHUNK or WRITE."""
        self.waits = what
        self.since = now

    def awaits_body(self, now: float) -> None:
        """Records that the client is expected to send more of the request's body."""
        self.body_since = now

    def has_body(self, now: float) -> None:
        """Records that the client has sent it."""
        self.body_since = 0.0
        self.since = now

    def passed(self, now: float) -> None:
        """Records that a chunk was sent downstream."""
        self.since = now
        if self.keepalive_since != FOREVER:
            self.keepalive_since = now

    def kept_alive(self, now: float) -> None:
        """Records that a keepalive was sent downstream, or one of an early head that a response has followed."""
        if self.keepalive_since != FOREVER:
            self.keepalive_since = now

    def sent_early(self, now: float) -> None:
        """Records that an early head or one of its comments was sent; the next comment follows after the interval."""
        self.early_at = now + self.limits.keepalive

    def stop_early(self) -> None:
        """Stops the early head and its comments."""
        self.early_at = FOREVER

    def got_stuck(self, now: float) -> None:
        """Records that the client does not accept an early head or its comment."""
        self.stuck_since = now

    def got_unstuck(self) -> None:
        """Records that the client has accepted it."""
        self.stuck_since = 0.0

    def decide(self, now: float) -> tuple[Due, float]:
        """Returns what is due at ``now``, and when to check again (inf for never)."""
        limits = self.limits
        again = min(self.started + limits.total, now + limits.step)
        if self.started + limits.total <= now:
            return (HeadTimeout if self.waits <= HEAD else ReadTimeout), again
        if self.stuck_since:
            if self.stuck_since + limits.write <= now:
                return WriteTimeout, again
            again = min(again, self.stuck_since + limits.write)
        # While the client is still sending its request, the early head is postponed.
        again = min(again, self.early_at if self.early_at > now else now + _POSTPONED)
        if self.body_since:
            if self.body_since + limits.request <= now:
                return RequestTimeout, again
            again = min(again, self.body_since + limits.request)
            if self.waits == HEAD:
                return None, again
        due = self.since + limits.by_wait[self.waits]
        if due <= now:
            return (None, HeadTimeout, ReadTimeout, WriteTimeout)[self.waits], again
        again = min(again, due)
        if self.waits == CHUNK:
            due = self.keepalive_since + limits.keepalive
            if due <= now:
                return KEEPALIVE, again
            again = min(again, due)
        if self.early_at <= now and not self.body_since:
            return EARLY, again
        return None, again


class SharedTimer:
    """The timer of young exchanges; one per route.

    Nothing of an exchange can be due before it is as old as its shortest limit, and most exchanges have ended by then.
    So young exchanges have no timer of their own, which would be expensive. Four times within that span, this timer
    promotes those that are old enough.
    """

    __slots__ = ("_fires_at", "_handle", "_loop", "_step", "works", "young")

    def __init__(self, limits: TimeLimits) -> None:
        self._step = limits.step
        self.young: dict[Timer, None] = {}  # in the order of their creation
        self.works = False  # whether it will fire: then a timer only has to be put among ``young``
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fires_at = FOREVER

    def begin(self, timer: Timer) -> None:
        """Adds a timer until it is old enough or closed, and begins to work."""
        if self._step == FOREVER:
            return
        self.young[timer] = None
        self._loop = asyncio.get_running_loop()
        self._arm(self._step / 4)

    def _promote(self) -> None:
        """Arms the timers that are old enough."""
        self.works = False
        now = monotonic()
        if now > self._fires_at + LATE:
            self._arm(SECOND_LOOK)
            self._fires_at = FOREVER
            return
        oldest = now - self._step / 2
        for timer in list(self.young):
            if timer.started > oldest:
                break
            del self.young[timer]
            timer.fire()
        if self.young:
            self._arm(self._step / 4)

    def _arm(self, seconds: float) -> None:
        assert self._loop is not None
        self._fires_at = monotonic() + seconds
        self._loop.call_later(seconds, self._promote)
        self.works = True


class Timer(Deadlines):
    """`Deadlines` with a clock. It interrupts its exchange when a timeout is due.

    ``on_idle`` is called when a keepalive is due, and ``on_early`` when an early head or its next comment is due.
    """

    __slots__ = ("_fires_at", "_handle", "_shared", "exchange", "on_blocked", "on_early", "on_idle")

    def __init__(self, limits: TimeLimits, exchange: Exchange, shared: SharedTimer) -> None:
        self.limits = limits
        self.started = self.since = exchange.started_at
        self.waits = NOTHING
        self.body_since = 0.0
        self.keepalive_since = self.early_at = FOREVER
        self.stuck_since = 0.0
        self.exchange = exchange
        self._shared = shared
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = FOREVER  # when the handle fires; inf if being late does not matter
        self.on_idle: Callable[[], None] = _NO_CALL
        self.on_blocked: Callable[[], bool] | None = None
        self.on_early: Callable[[], None] = _NO_CALL
        if shared.works:
            shared.young[self] = None
        else:
            shared.begin(self)

    def adopt(self, limits: TimeLimits) -> None:
        """Continues with other limits, with its own timer."""
        if limits is self.limits or limits == self.limits:  # comparing the fields costs
            return
        self.limits = limits
        self._shared.young.pop(self, None)
        if self._handle is not None:
            self._handle.cancel()
        self.fire()

    def progress(self, phase: Phase) -> None:
        """Records a step towards the head; clients report "connect", "request" and "head" through this method."""
        exchange, now = self.exchange, monotonic()
        if phase == "head":
            exchange.sent_at = now
        if not exchange.head_at:  # an upstream may respond before it has the whole request
            exchange.phase = phase
            self.waits = NOTHING if phase == "connect" else HEAD  # as `waits_for`, whose call costs
            self.since = now

    def keep_alive(self, call: Callable[[], None], since: float) -> None:
        """Calls ``call`` whenever nothing was sent downstream for the keepalive interval, starting at ``since``."""
        self.on_idle = call
        self.keepalive_since = since

    def early(self, call: Callable[[], None]) -> None:
        """Calls ``call`` when an early head is due by the route's limits; `sent_early` arranges the next call."""
        self.on_early = call
        self.early_at = self.started + self.limits.early
        if self._handle is not None:
            self._handle.cancel()
            self.fire()  # the armed timer would fire too late

    def stop_keepalives(self) -> None:
        """Stops the keepalives."""
        self.keepalive_since = FOREVER

    def spare_blocked(self, call: Callable[[], bool]) -> None:
        """Calls ``call`` before ``write`` ends the exchange, which goes on if it returns True."""
        self.on_blocked = call

    def fire(self) -> None:
        """Acts on what is due, and schedules the next check."""
        now = monotonic()
        due, again = self.decide(now)
        held_up = now > self._fires_at + LATE
        self._fires_at = again
        if due == KEEPALIVE:
            self.on_idle()
        elif due == EARLY:
            self.on_early()
            again = min(again, self.early_at)
        elif due is not None and held_up:
            again, self._fires_at = now + SECOND_LOOK, FOREVER
        elif due is WriteTimeout and self.on_blocked is not None and self.on_blocked():
            pass  # the exchange goes on without its client
        elif due is not None:
            self.exchange.interrupt(due())
        if again != FOREVER:
            # uvloop rounds down to a millisecond; without the floor a timer could fire many times in its last one.
            self._handle = asyncio.get_running_loop().call_later(max(again - now, 0.001), self.fire)

    def close(self) -> None:
        """Stops the timer, and releases the relay, which refers to it: a cycle would need the garbage collector."""
        self.on_idle = self.on_early = _NO_CALL
        self.on_blocked = None
        self.early_at = FOREVER
        young = self._shared.young
        if self in young:  # `pop` costs more
            del young[self]
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
