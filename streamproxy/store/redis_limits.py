"""Limits that several processes count together, in Redis.

Theory of operation. Redis keeps the debt time of each client (see `streamproxy.store.limits`) by its own clock. One
script takes, charges or returns units. Requests avoid waiting for it:

- *Requests*: this process takes units in advance, as its *share*, and a request that finds one is admitted at once. The
  share grows with the client's demand, and is refilled in the background when half of it is used. Units that were not
  used for a short while are returned. A refused client is refused here until Redis would admit it.
- *Tokens*: the last reply of Redis is used for a second. While much of the limit is left it is used for longer, and
  refreshed in the background. Charges are sent when a stream is over, and nobody waits for them.

Everything is also counted in this process alone. While Redis is away, or does not answer within WAIT, that count
decides, as if there were no other process; it includes what this process admitted before. Tokens that were charged
meanwhile are sent when Redis is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b, sha1
from typing import Any, Final

from redis.exceptions import ResponseError

from streamproxy.store.expiry import Expiry
from streamproxy.store.limits import CLIENTS, Bucket, Counts, Decision, Limiter
from streamproxy.store.redis_link import Link

logger = logging.getLogger("streamproxy")

WAIT: Final = 0.1  # seconds that a request waits for Redis
AWAY: Final = 1.0  # seconds for which the local count decides after Redis has not answered in time
LEASE: Final = 0.5  # seconds after which an unused share is returned
FRESH: Final = 1.0  # seconds for which a reply about a client's tokens is used without asking again
KNOWN: Final = 30.0  # the same while at least a quarter of its tokens is left, refreshed in the background
_SHARE: Final = 8  # a share is at most the limit divided by this

# Takes ARGV[3] units, or as many as are free; with ARGV[4] "1" it takes all of them in any case. A negative number
# returns units. The reply is the number of units taken, and how far ahead the debt time then is, in microseconds. If
# the clock of Redis was set back, a debt time can be further ahead than units can move it; it is then moved back to the
# point at which the whole limit is used.
SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, limit, units = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = tonumber(redis.call('GET', KEYS[1]) or 0)
local debt = math.max(kept, now)
if units > 0 and ARGV[4] ~= '1' then
  debt = math.min(debt, now + interval * limit)
  local free = math.floor((interval * limit - (debt - now)) / interval + 0.000001)
  units = math.max(0, math.min(units, free))
end
if units ~= 0 or debt < kept then
  debt = math.max(debt + units * interval, now)
  if debt > now then
    redis.call('SET', KEYS[1], string.format('%.0f', debt), 'PX', math.ceil((debt - now) / 1000))
  else
    redis.call('DEL', KEYS[1])
  end
end
return {units, string.format('%.0f', debt - now)}
"""
_SHA: Final = sha1(SCRIPT.encode()).hexdigest()

# Takes the reply of the script: units taken, and how many seconds ahead the debt time is.
Taken = Callable[[int, float], None]


class SharedBucket:
    """Runs the script for one limit. ``name`` distinguishes it from other limits in the same Redis."""

    def __init__(self, link: Link, name: str, bucket: Bucket) -> None:
        self.bucket = bucket
        self.local = False  # whether the count of this process decides, until Redis has run the script again
        self._asked = True  # whether Redis is currently asked
        self._link = link
        self._name = name.encode()
        self._away_until = 0.0

    def reachable(self, now: float) -> bool:
        """Returns whether to ask Redis."""
        self._asked = there = self._link.up and now >= self._away_until
        if not there and not self.local:
            self.local = True
            logger.warning("limit %s is counted in this process alone: Redis is away", self._name.decode())
        return there

    def stay_away(self, now: float) -> None:
        """Stops asking for AWAY seconds: Redis did not answer in time, or refuses to count."""
        self._away_until = now + AWAY
        self._asked = False

    def run(self, client: str, units: int, taken: Taken, failed: Callable[[], None], force: bool = False) -> None:
        """Takes, charges or returns units, with the next batch of commands.

        ``force`` takes them even if the limit is exceeded.
        """
        key = b"streamproxy:limit:" + blake2b(client.encode(), digest_size=16, key=self._name[:64]).hexdigest().encode()
        interval = repr(self.bucket.interval * 1e6)
        words = (1, key, interval, self.bucket.limit, units, "1" if force else "0")

        def done(reply: Any, again: bool = True) -> None:
            if isinstance(reply, ResponseError) and again and str(reply).startswith(("NOSCRIPT", "No matching script")):
                self._link.send("EVAL", SCRIPT, *words, done=partial(done, again=False))
            elif isinstance(reply, Exception):
                failed()
            else:
                if self.local and self._asked:
                    self.local = False
                    logger.warning("limit %s is counted in Redis again", self._name.decode())
                taken(int(reply[0]), int(reply[1]) / 1e6)

        self._link.send("EVALSHA", _SHA, *words, done=done)


class SharedLimiter(Limiter):
    """The common part of both limiters: the local count, and the wait for Redis."""

    def __init__(self, link: Link, name: str, bucket: Bucket, clock: Callable[[], float]) -> None:
        self.shared = SharedBucket(link, name, bucket)
        self.bucket = bucket
        self._clock = clock
        self._counts = Counts(bucket)

    async def ask(self, client: str, now: float) -> Decision:
        until = now + WAIT
        while (decision := self.take(client, now)) is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._inquire(client, waiter)
            await asyncio.wait([waiter], timeout=until - now)
            now = self._clock()
            if now >= until and not waiter.done():
                waiter.cancel()
                self.shared.stay_away(now)
        return decision

    def _inquire(self, client: str, waiter: asyncio.Future[None]) -> None:
        """Asks Redis, unless that is under way. ``waiter`` is done when Redis has replied."""
        raise NotImplementedError


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class _Share:
    """The units of one client that this process has taken in advance."""

    __slots__ = ("ahead", "at", "refill", "size", "units", "used", "waiters")

    def __init__(self) -> None:
        self.units = 0
        self.size = 1  # units that are taken at once
        self.used = 0  # units used since the last check for unused ones
        self.refill = False  # whether more are on their way
        self.ahead = 0.0  # the last reply of Redis, and when it came
        self.at = 0.0
        self.waiters: list[asyncio.Future[None]] = []


class SharedRequests(SharedLimiter):
    """`limits.requests` in Redis."""

    def __init__(self, link: Link, name: str, bucket: Bucket, clock: Callable[[], float]) -> None:
        super().__init__(link, name, bucket, clock)
        self._shares: dict[str, _Share] = {}
        self._unused: Expiry[str] = Expiry(LEASE, self._give_back)

    def take(self, client: str, now: float) -> Decision | None:
        if not self.shared.reachable(now):
            return self._counts.take(client, now)
        share = self._shares.get(client)
        if share is None:
            return None
        if share.units > 0:
            return self._use(client, share, now)
        refused = self._decide(share, now)
        return None if refused.allowed or share.refill else refused

    def _inquire(self, client: str, waiter: asyncio.Future[None]) -> None:
        share = self._share(client)
        share.waiters.append(waiter)
        if not share.refill:
            self._refill(client, share)

    def charge(self, client: str, now: float, units: int) -> None:
        """Does nothing: a request is charged when it is admitted."""

    def close(self) -> None:
        """Returns all shares."""
        for client in tuple(self._unused):
            self._give_back(client)
        self._unused.clear()

    def _share(self, client: str) -> _Share:
        share = self._shares.get(client)
        if share is None:
            share = self._shares[client] = _Share()
            self._unused.add(client)
        return share

    def _use(self, client: str, share: _Share, now: float) -> Decision:
        share.units -= 1
        share.used += 1
        self._counts.charge(client, now, 1)
        if share.units <= share.size // 2 and not share.refill and share.size > 1:
            self._refill(client, share)
        return self._decide(share, now, allowed=True)

    def _decide(self, share: _Share, now: float, allowed: bool = False) -> Decision:
        """Returns a decision from the last reply of Redis and the units that this process has in advance."""
        said = self.bucket.look(share.at + share.ahead, now)
        if allowed:
            return said._replace(allowed=True, remaining=min(said.remaining + share.units, said.limit), retry_after=0.0)
        return said

    def _refill(self, client: str, share: _Share) -> None:
        share.refill = True
        want = max(share.size, len(share.waiters))
        self.shared.run(client, want, partial(self._refilled, share), partial(self._failed, share))

    def _refilled(self, share: _Share, units: int, ahead: float) -> None:
        share.units += units
        share.ahead, share.at = ahead, self._clock()
        self._replied(share)

    def _failed(self, share: _Share) -> None:
        self.shared.stay_away(self._clock())
        self._replied(share)

    def _replied(self, share: _Share) -> None:
        share.refill = False
        waiters, share.waiters = share.waiters, []
        _wake(waiters)

    def _give_back(self, client: str) -> None:
        share = self._shares[client]
        if share.used or share.refill:
            # The size is the recent demand, so that the next requests need not wait.
            share.size = max(1, min(share.used, self.bucket.limit // _SHARE))
            share.used = 0
            self._unused.add(client)
            return
        del self._shares[client]
        if share.units:
            self.shared.run(client, -share.units, lambda units, ahead: None, lambda: None)


class SharedTokens(SharedLimiter):
    """`limits.tokens` in Redis."""

    def __init__(self, link: Link, name: str, bucket: Bucket, clock: Callable[[], float]) -> None:
        super().__init__(link, name, bucket, clock)
        # The debt time of each client by our clock, and when Redis replied.
        self._said: dict[str, tuple[float, float]] = {}
        self._asking: dict[str, list[asyncio.Future[None]]] = {}
        self._owed: dict[str, int] = {}  # charges that were not sent to Redis yet

    def take(self, client: str, now: float) -> Decision | None:
        if not self.shared.reachable(now):
            return self._counts.look(client, now)
        if self._owed:
            self._pay()
        said = self._said.get(client)
        if said is None:
            return None
        debt, at = said
        decision = self.bucket.look(debt, now)
        if now - at <= FRESH:
            return decision
        if now - at <= KNOWN and decision.remaining * 4 >= decision.limit:
            self._refresh(client)
            return decision
        return None

    def charge(self, client: str, now: float, units: int) -> None:
        self._counts.charge(client, now, units)
        if client in self._said:
            debt, at = self._said[client]
            self._said[client] = (self.bucket.charge(debt, now, units), at)
        if len(self._owed) < CLIENTS or client in self._owed:
            self._owed[client] = self._owed.get(client, 0) + units
        if self.shared.reachable(now):
            self._pay()

    def _pay(self) -> None:
        owed, self._owed = self._owed, {}
        for client, units in owed.items():
            self.shared.run(
                client, units, partial(self._heard, client), partial(self._unpaid, client, units), force=True
            )

    def _unpaid(self, client: str, units: int) -> None:
        self._owed[client] = self._owed.get(client, 0) + units
        self.shared.stay_away(self._clock())

    def _inquire(self, client: str, waiter: asyncio.Future[None]) -> None:
        self._refresh(client, waiter)

    def _refresh(self, client: str, *waiters: asyncio.Future[None]) -> None:
        """Asks Redis for a client's debt, unless that is under way. ``waiters`` are done when Redis has replied."""
        asking = self._asking.get(client)
        if asking is not None:
            asking.extend(waiters)
            return
        self._asking[client] = list(waiters)
        self.shared.run(client, 0, partial(self._heard, client), partial(self._failed, client))

    def _heard(self, client: str, units: int, ahead: float) -> None:
        now = self._clock()
        self._said.pop(client, None)
        self._said[client] = (now + ahead, now)
        while len(self._said) > CLIENTS:
            del self._said[next(iter(self._said))]
        _wake(self._asking.pop(client, ()))

    def _failed(self, client: str) -> None:
        self.shared.stay_away(self._clock())
        _wake(self._asking.pop(client, ()))
