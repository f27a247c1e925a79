"""Admission: how many exchanges of a route run at once, and who is next.

Theory of operation. `Places` is the state machine; it holds no clock, no lock and no task, and ``now`` is always an
argument. A request is in one of these states::

    asks ──▶ holds a place ──────────────────────────────▶ gone
      │            ▲                                         ▲
      ├──▶ waits ──┘ (a place came free, and it was next)    │
      │      ├──── gives up (the client left) ───────────────┤
      │      ├──── waited for too long ──────────────────────┤
      │      └──── made room for one of a higher priority ───┤
      └──── refused: its client has its fill, or the queue is full

What can't happen: more requests that hold a place than there are places; a free place while somebody waits; a place
given to one that is not next; a client with more requests, holding and waiting together, than its own limit. Who is
next is decided by `WaitingLine`: the first that came, unless the route has priorities or lets clients take turns.

A client counts from the moment it asks. So a client's own limit never queues: over it a request is refused at once,
with 429, since only that client's own streams can make room, and no client fills the queue that all share.

`Admission` adds the loop: a future for each that waits and one timer for the queue. A place is handed over by the one
who leaves, within the same turn of the loop, so nobody can come between. When the new holder was cancelled in that
very turn, the place goes to the next one. Without a queue nothing is ever awaited.

The limits are those of one process: with several workers each keeps its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable
from enum import Enum
from time import monotonic

from streamproxy.config.limits import Limits
from streamproxy.errors import ClientLimitReached, LimitReached
from streamproxy.exchange.exchange import Exchange
from streamproxy.proxy.queue import WaitingLine
from streamproxy.wire.headers import Headers, first
from streamproxy.wire.times import FOREVER

_INTEGER = re.compile(rb"[+-]?[0-9]{1,9}")

ClientKey = Callable[[Exchange, Headers], Hashable]

# A Retry-After in seconds: within these bounds, and this while no place has ever come free.
SOONEST, LATEST, UNKNOWN = 1.0, 60.0, 5.0
_WEIGHT = 0.2  # of the newest place that came free, in the mean time that a place is held


class State(Enum):
    """Where a request stands."""

    HOLDS = "holds"
    WAITS = "waits"
    GONE = "gone"


class Ticket:
    """One request's place, or its wait for one. ``since`` is the time at which its state began."""

    __slots__ = ("client", "future", "left", "priority", "since", "state")

    def __init__(self, client: Hashable, state: State, since: float, priority: int = 0) -> None:
        self.client = client
        self.left = False  # its client has left, and its stream goes on
        self.priority = priority
        self.state = state
        self.since = since
        self.future: asyncio.Future[None] | None = None  # who waits for it, in the loop


class Places:
    """The places of one route, its queue, and what each client has of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0
        self.clients: dict[Hashable, int] = {}  # holding and waiting
        self._queue: WaitingLine[Ticket] = WaitingLine(fair=limits.fair_by == "client_key")
        self._mean_hold = 0.0  # seconds; 0.0 while nothing is known

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def displace(self, client: Hashable, priority: int) -> Ticket | None:
        """Take one out of a full queue for a request of that client and priority, which asks next.

        That is one whose priority is below 0 and below the request's: of those the lowest, and then the last that
        came. None where the request has room without, or may not have any.
        """
        limits = self.limits
        if (
            self._room()
            or len(self._queue) < limits.queue
            or (limits.max_streams_per_client is not None and self._has(client) >= limits.max_streams_per_client)
        ):
            return None
        ticket = self._queue.least(below=min(0, priority))
        if ticket is not None:
            self._queue.remove(ticket)
            self._forget(ticket)
        return ticket

    def ask(self, client: Hashable, now: float, priority: int = 0) -> Ticket:
        """A ticket that holds a place, or waits for one.

        Raises ClientLimitReached when the client has all that it may have, LimitReached when there is no place and
        no room in the queue either.
        """
        limits = self.limits
        if limits.max_streams_per_client is not None and self._has(client) >= limits.max_streams_per_client:
            raise ClientLimitReached(retry_after=self._retry_after(0, limits.max_streams_per_client))
        if not self._room():
            if len(self._queue) >= limits.queue:
                raise LimitReached(retry_after=self._retry_after(len(self._queue), limits.max_streams))
            ticket = Ticket(client, State.WAITS, now, priority)
            self._queue.add(ticket)
        else:
            ticket = Ticket(client, State.HOLDS, now, priority)
            self.held += 1
        self.clients[client] = self._has(client) + 1
        return ticket

    def leave(self, ticket: Ticket, now: float) -> list[Ticket]:
        """Give back whatever a ticket has: a place, or its place in the queue. Leaving twice changes nothing.

        Gives the tickets that hold a place from now on.
        """
        if ticket.state is State.GONE:
            return []
        if ticket.state is State.HOLDS:
            self.held -= 1
            hold = now - ticket.since
            self._mean_hold += (hold - self._mean_hold) * (_WEIGHT if self._mean_hold else 1.0)
        else:
            self._queue.remove(ticket)
        self._forget(ticket)
        return self._fill(now)

    def expire(self, now: float) -> list[Ticket]:
        """Take those out of the queue that have waited for ``queue_timeout``; gives them."""
        expired: list[Ticket] = []
        while len(self._queue) and self.deadline() <= now:
            ticket = self._queue.oldest
            self._queue.remove(ticket)
            self._forget(ticket)
            expired.append(ticket)
        return expired

    def deadline(self) -> float:
        """When the next one has waited for too long; inf when nobody waits."""
        timeout = self.limits.queue_timeout
        return self._queue.oldest.since + timeout if len(self._queue) and timeout is not None else FOREVER

    def change(self, limits: Limits, now: float) -> list[Ticket]:
        """Go on under other limits; gives the tickets that hold a place because of it.

        Nobody loses a place: while more are held than there are now, none comes free.
        """
        if limits.fair_by != self.limits.fair_by:
            self._queue = self._queue.reordered(fair=limits.fair_by == "client_key")
        self.limits = limits
        return self._fill(now)

    def refusal(self) -> LimitReached:
        """What a request is told that has waited for too long."""
        return LimitReached(retry_after=self._retry_after(len(self._queue), self.limits.max_streams))

    def _has(self, client: Hashable) -> int:
        return self.clients.get(client, 0)

    def _room(self) -> bool:
        return self.limits.max_streams is None or self.held < self.limits.max_streams

    def _fill(self, now: float) -> list[Ticket]:
        admitted: list[Ticket] = []
        while len(self._queue) and self._room():
            ticket = self._queue.pop()
            ticket.state, ticket.since = State.HOLDS, now
            self.held += 1
            admitted.append(ticket)
        return admitted

    def client_left(self, ticket: Ticket) -> None:
        """The client of a ticket has left. Its stream goes on, and is none of the client's own from now on."""
        if ticket.state is State.HOLDS and not ticket.left:
            ticket.left = True
            self._count_out(ticket)

    def _forget(self, ticket: Ticket) -> None:
        ticket.state = State.GONE
        if not ticket.left:
            self._count_out(ticket)

    def _count_out(self, ticket: Ticket) -> None:
        left = self.clients[ticket.client] - 1
        if left:
            self.clients[ticket.client] = left
        else:
            del self.clients[ticket.client]

    def _retry_after(self, ahead: int, places: int | None) -> float:
        """When a place should come free for one with so many ahead of it, in seconds.

        Places that are all taken come free at the rate of their number divided by the time that one is held, of
        which the mean is kept, recent ones weighing more. `UNKNOWN` before the first came free; never under
        `SOONEST` or over `LATEST`, since a guess too far ahead keeps clients away for longer than they need.
        """
        if not self._mean_hold or not places:
            return UNKNOWN
        return min(max((ahead + 1) * self._mean_hold / places, SOONEST), LATEST)


class Admission:
    """The limits of one route, for its exchanges.

    ``ticket = await admission.enter(client, exchange)`` gives a place, and ``admission.leave(ticket)`` gives it back;
    what stands between belongs into a ``try``.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = monotonic) -> None:
        self.places = Places(limits)
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, client: Hashable, exchange: Exchange, priority: int = 0) -> Ticket:
        """A place for an exchange, of the client with that key; waits in the queue where there is one.

        Writes down in the exchange that and for how long it waited. Raises LimitReached (503) and ClientLimitReached
        (429), both with what Retry-After should say. Cancelled while it waits, it leaves nothing behind.
        """
        ticket = self.ask(client, exchange, priority)
        await self.wait(ticket, exchange)
        return ticket

    def ask(self, client: Hashable, exchange: Exchange, priority: int = 0) -> Ticket:
        """The first half of `enter`: a place, or one in the queue that has to be waited for. Raises as `enter`."""
        now = self._clock()
        displaced = self.places.displace(client, priority)
        if displaced is not None and displaced.future is not None and not displaced.future.done():
            displaced.future.set_exception(self.places.refusal())
        ticket = self.places.ask(client, now, priority)
        if ticket.state is State.WAITS:
            loop = asyncio.get_running_loop()
            ticket.future = loop.create_future()
            exchange.queued_at = now
            if self._timer is None:
                self._arm(loop, now)
        return ticket

    async def wait(self, ticket: Ticket, exchange: Exchange) -> None:
        """The second half of `enter`: waits for the place, where it is not held yet. Raises as `enter`."""
        if ticket.future is None:
            return
        try:
            await ticket.future
        except BaseException:
            self.leave(ticket)  # it may have got its place in the same turn
            raise
        finally:
            exchange.queued += self._clock() - exchange.queued_at
            exchange.queued_at = 0.0

    def leave(self, ticket: Ticket) -> None:
        """Give a place back; the first that waits has it at once."""
        future = ticket.future
        if future is not None and future.done() and not future.cancelled():
            future.exception()  # a refusal that nobody waited for any more
        self._tell(self.places.leave(ticket, self._clock()))

    def take_over(self, previous: Admission) -> None:
        """Go on with the places of a route's admission before a reload, under the limits of this one.

        Who has a place keeps it, who waits goes on waiting, and both admissions count together from now on.
        """
        limits, now = self.places.limits, self._clock()
        self.places = previous.places
        self._tell(self.places.change(limits, now))
        if self._timer is not None:
            self._timer.cancel()
        self._arm(asyncio.get_running_loop(), now)

    def _tell(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            if ticket.future is not None and not ticket.future.done():
                ticket.future.set_result(None)
        if self._timer is not None and not self.places.waiting:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        deadline = self.places.deadline()
        # uvloop rounds down to a millisecond; without the floor the timer could fire many times in its last one.
        self._timer = loop.call_later(max(deadline - now, 0.001), self._expire) if deadline != FOREVER else None

    def _expire(self) -> None:
        now = self._clock()
        for ticket in self.places.expire(now):
            if ticket.future is not None and not ticket.future.done():
                ticket.future.set_exception(self.places.refusal())
        self._arm(asyncio.get_running_loop(), now)


def client_key(source: str) -> ClientKey:
    """What tells clients apart: ``client_ip``, ``header:NAME`` or ``principal``.

    Requests without the header are those of one client, and so are all that come over a unix socket.
    """
    if source == "principal":
        return lambda exchange, headers: exchange.principal
    if source.startswith("header:"):
        name = source.removeprefix("header:").lower().encode()
        return lambda exchange, headers: first(headers, name)
    return lambda exchange, headers: exchange.client


Priority = Callable[[Headers], int]


def priority_of(source: str | None) -> Priority | None:
    """What reads a request's priority from ``header:NAME``; None where there are no priorities.

    An integer of at most nine digits; anything else, and a request without the header, is 0.
    """
    if source is None:
        return None
    name = source.removeprefix("header:").lower().encode()

    def read(headers: Headers) -> int:
        value = first(headers, name)
        return int(value) if value is not None and _INTEGER.fullmatch(value) else 0

    return read
