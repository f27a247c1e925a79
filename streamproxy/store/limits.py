"""Counts `limits.requests` and `limits.tokens` in this process.

Theory of operation. Both use the generic cell rate algorithm (GCRA; ITU-T I.371, annex A). One number is kept for each
client, its *debt time*: the time at which everything that it has used is paid back. Each unit moves that time forward
by the period of the rate divided by its amount. A client may continue while its debt time is no further in the future
than the tolerance. A client whose debt time has passed is in the same state as a new one, and is forgotten.

The cost of a request is known before it is served, so a request is admitted only if it fits. The number of tokens is
known only afterwards: a client is admitted as long as it has not used up its limit, and whatever was used is charged
later.

Every function here takes the time as an argument, in seconds of any clock.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from streamproxy.config.units import Rate

CLIENTS: Final = 100_000  # the maximum number of clients; beyond it, the one not seen for the longest time is forgotten


class Decision(NamedTuple):
    """The decision for one request, and the numbers of the ``x-ratelimit-*`` fields.

    ``retry_after`` is the number of seconds until it would be allowed, 0.0 if it is allowed now. ``reset`` is the
    number of seconds until the client has all of ``limit`` again.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float
    retry_after: float = 0.0


class Bucket(NamedTuple):
    """The numbers of one limit: one unit is paid back in ``interval`` seconds, ``limit`` units may be used at once."""

    interval: float
    limit: int

    @classmethod
    def of(cls, rate: Rate, burst: int | None = None) -> Bucket:
        """Returns the bucket of a rate. ``burst`` is the limit; if None, it is the amount of the rate."""
        return cls(rate.seconds / rate.amount, rate.amount if burst is None else burst)

    @property
    def tolerance(self) -> float:
        """The maximum distance of a debt time, in seconds."""
        return self.interval * self.limit

    def take(self, debt: float, now: float, units: int = 1) -> tuple[Decision, float]:
        """Requests a known number of units. Returns the decision and the new debt time."""
        ahead = max(debt - now, 0.0)
        after = ahead + self.interval * units
        excess = after - self.tolerance
        # A rounding error must not refuse a client.
        if excess > self.interval * 1e-6:
            return Decision(False, self.limit, self._remaining(ahead), ahead, excess), max(debt, now)
        return Decision(True, self.limit, self._remaining(after), after), now + after

    def look(self, debt: float, now: float) -> Decision:
        """Returns the decision for a client that is charged afterwards."""
        ahead = max(debt - now, 0.0)
        remaining = self._remaining(ahead)
        if remaining > 0:
            return Decision(True, self.limit, remaining, ahead)
        return Decision(False, self.limit, 0, ahead, ahead - self.tolerance + self.interval)

    def charge(self, debt: float, now: float, units: int) -> float:
        """Charges units, even beyond the limit. Returns the new debt time."""
        return max(debt, now) + self.interval * units

    def _remaining(self, ahead: float) -> int:
        return max(0, math.floor((self.tolerance - ahead) / self.interval + 1e-6))


class Counts:
    """The debt times of all clients of one limit."""

    __slots__ = ("_clients", "_most", "bucket")

    def __init__(self, bucket: Bucket, most: int = CLIENTS) -> None:
        self.bucket = bucket
        self._clients: dict[str, float] = {}  # the client not seen for the longest time comes first
        self._most = most

    def __len__(self) -> int:
        return len(self._clients)

    def take(self, client: str, now: float, units: int = 1) -> Decision:
        """Requests a known number of units, which are used if they are allowed."""
        decision, debt = self.bucket.take(self._clients.pop(client, 0.0), now, units)
        self._keep(client, debt, now)
        return decision

    def look(self, client: str, now: float) -> Decision:
        """Returns the decision for a client that is charged afterwards."""
        return self.bucket.look(self._clients.get(client, 0.0), now)

    def charge(self, client: str, now: float, units: int) -> None:
        """Charges a client for used units."""
        self._keep(client, self.bucket.charge(self._clients.pop(client, 0.0), now, units), now)

    def _keep(self, client: str, debt: float, now: float) -> None:
        self._clients[client] = debt
        # Two at a time, so that clients without debt are removed before others must be.
        for _ in range(2):
            oldest = next(iter(self._clients), None)
            if oldest is None or (self._clients[oldest] > now and len(self._clients) <= self._most):
                break
            del self._clients[oldest]


class Limiter:
    """The interface of a limit. It has an implementation that counts here, and one that counts in Redis.

    `take` is called before a request is served. If it returns None, the decision must be awaited from `ask`. `charge`
    is called for units that are known only afterwards.
    """

    def take(self, client: str, now: float) -> Decision | None:
        raise NotImplementedError

    async def ask(self, client: str, now: float) -> Decision:
        raise NotImplementedError

    def charge(self, client: str, now: float, units: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Returns units that were taken in advance."""


class RequestLimiter(Limiter):
    """`limits.requests` of one process: each request is one unit."""

    def __init__(self, bucket: Bucket) -> None:
        self.counts = Counts(bucket)

    def take(self, client: str, now: float) -> Decision:
        return self.counts.take(client, now)

    async def ask(self, client: str, now: float) -> Decision:
        return self.take(client, now)

    def charge(self, client: str, now: float, units: int) -> None:
        """Does nothing: a request is charged when it is admitted."""


class TokenLimiter(Limiter):
    """`limits.tokens` of one process: a request is admitted while tokens are left, and charged at its end."""

    def __init__(self, bucket: Bucket) -> None:
        self.counts = Counts(bucket)

    def take(self, client: str, now: float) -> Decision:
        return self.counts.look(client, now)

    async def ask(self, client: str, now: float) -> Decision:
        return self.take(client, now)

    def charge(self, client: str, now: float, units: int) -> None:
        self.counts.charge(client, now, units)
