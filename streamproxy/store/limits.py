"""How much a client may ask for: `limits.requests` and `limits.tokens`, counted in this process.

Theory of operation. Both are the generic cell rate algorithm (GCRA; ITU-T I.371, annex A). Of a client one number is
kept: the time at which all that it has used is paid back, its *debt time*. Each unit moves that time on by the period
of the rate divided by its amount. A client may go on while its debt time is less than the tolerance away. A client
whose debt time has passed is as good as new and is forgotten.

A request is known before it is served, so it has to fit in whole. Tokens are known only afterwards: what is let in is
charged later, whatever it comes to, and a client is let in as long as it has not used up all that it may.

Every function here takes the time as an argument, in seconds of any clock.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from streamproxy.config.units import Rate

CLIENTS: Final = 100_000  # how many clients are counted at most; beyond it, the one seen longest ago is forgotten


class Decision(NamedTuple):
    """The answer to one request, and the numbers of the ``x-ratelimit-*`` fields.

    ``retry_after`` is in how many seconds it would be let in, 0.0 if it is now; ``reset`` in how many seconds the
    client has all of ``limit`` again.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float
    retry_after: float = 0.0


class Bucket(NamedTuple):
    """The numbers of one limit: ``interval`` seconds pay back one unit, ``limit`` units may be used at once."""

    interval: float
    limit: int

    @classmethod
    def of(cls, rate: Rate, burst: int | None = None) -> Bucket:
        """``burst`` units at once, as many as the rate's amount if it is not said."""
        return cls(rate.seconds / rate.amount, rate.amount if burst is None else burst)

    @property
    def tolerance(self) -> float:
        """How far away a debt time may be, in seconds."""
        return self.interval * self.limit

    def take(self, debt: float, now: float, units: int = 1) -> tuple[Decision, float]:
        """Ask for units that are known. Returns the decision and the new debt time."""
        ahead = max(debt - now, 0.0)
        after = ahead + self.interval * units
        excess = after - self.tolerance
        # A share of an interval is lost to rounding, and must not keep anybody waiting.
        if excess > self.interval * 1e-6:
            return Decision(False, self.limit, self._remaining(ahead), ahead, excess), max(debt, now)
        return Decision(True, self.limit, self._remaining(after), after), now + after

    def look(self, debt: float, now: float) -> Decision:
        """Whether a client may go on that is charged afterwards."""
        ahead = max(debt - now, 0.0)
        remaining = self._remaining(ahead)
        if remaining > 0:
            return Decision(True, self.limit, remaining, ahead)
        return Decision(False, self.limit, 0, ahead, ahead - self.tolerance + self.interval)

    def charge(self, debt: float, now: float, units: int) -> float:
        """Charge units, whatever is left. Returns the new debt time."""
        return max(debt, now) + self.interval * units

    def _remaining(self, ahead: float) -> int:
        return max(0, math.floor((self.tolerance - ahead) / self.interval + 1e-6))


class Counts:
    """The debt times of all clients of one limit."""

    __slots__ = ("_clients", "_most", "bucket")

    def __init__(self, bucket: Bucket, most: int = CLIENTS) -> None:
        self.bucket = bucket
        self._clients: dict[str, float] = {}  # the client seen longest ago comes first
        self._most = most

    def __len__(self) -> int:
        return len(self._clients)

    def take(self, client: str, now: float, units: int = 1) -> Decision:
        """Ask for units that are known; they are taken if they are allowed."""
        decision, debt = self.bucket.take(self._clients.pop(client, 0.0), now, units)
        self._keep(client, debt, now)
        return decision

    def look(self, client: str, now: float) -> Decision:
        """Whether a client may go on that is charged afterwards."""
        return self.bucket.look(self._clients.get(client, 0.0), now)

    def charge(self, client: str, now: float, units: int) -> None:
        """Charge a client for what it has used."""
        self._keep(client, self.bucket.charge(self._clients.pop(client, 0.0), now, units), now)

    def _keep(self, client: str, debt: float, now: float) -> None:
        self._clients[client] = debt
        # Two at a time: so those that owe nothing are gone before others have to go.
        for _ in range(2):
            oldest = next(iter(self._clients), None)
            if oldest is None or (self._clients[oldest] > now and len(self._clients) <= self._most):
                break
            del self._clients[oldest]


class Limiter:
    """A limit as a route asks it. The base of those that count here and of those that count in Redis.

    `take` is asked before a request is served. None means that the answer has to be awaited, from `ask`. `charge` is
    for what is known only afterwards.
    """

    def take(self, client: str, now: float) -> Decision | None:
        raise NotImplementedError

    async def ask(self, client: str, now: float) -> Decision:
        raise NotImplementedError

    def charge(self, client: str, now: float, units: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give back what was taken ahead."""


class RequestLimiter(Limiter):
    """`limits.requests` of one process: each request is one unit."""

    def __init__(self, bucket: Bucket) -> None:
        self.counts = Counts(bucket)

    def take(self, client: str, now: float) -> Decision:
        return self.counts.take(client, now)

    async def ask(self, client: str, now: float) -> Decision:
        return self.take(client, now)

    def charge(self, client: str, now: float, units: int) -> None:
        """A request is charged when it is let in."""


class TokenLimiter(Limiter):
    """`limits.tokens` of one process: a request is let in while any are left, and charged when it is over."""

    def __init__(self, bucket: Bucket) -> None:
        self.counts = Counts(bucket)

    def take(self, client: str, now: float) -> Decision:
        return self.counts.look(client, now)

    async def ask(self, client: str, now: float) -> Decision:
        return self.take(client, now)

    def charge(self, client: str, now: float, units: int) -> None:
        self.counts.charge(client, now, units)
