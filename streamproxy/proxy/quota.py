"""Quotas: how many requests and tokens a client of a route may use in a time.

A request is refused before it has taken a place. Tokens are charged when an exchange is over, with the usage that was
reported until then, so a stream that was let in is never cut for them. How a client's use is counted is a `Limiter`'s.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

from streamproxy.config.limits import Limits
from streamproxy.errors import QuotaReached
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.tally import Tallies, Tally
from streamproxy.formats.inspector import Usage
from streamproxy.store.build import Limiters
from streamproxy.store.limits import Bucket, Decision, Limiter

Kind = Literal["requests", "tokens"]
Counted = Literal["total", "input", "output"]

_DETAILS: Final[dict[Kind, str]] = {
    "requests": "This client has made too many requests; try again later",
    "tokens": "This client has used all of its tokens; try again later",
}


class _Limit(NamedTuple):
    kind: Kind
    limiter: Limiter
    throttled: Tally  # the requests that it has refused


class Quota:
    """The quotas of one route: ``await admit`` before a request is served, and `charge` when it is over."""

    def __init__(self, route: str, limits: Limits, tallies: Tallies, limiters: Limiters) -> None:
        self._limits: list[_Limit] = []
        self._settings = ((limits.client_key, limits.store), limits.requests, limits.tokens)
        self._counted: Counted = "total"
        self._tokens: Limiter | None = None
        # Tokens first: a request that is refused for them must not use up one of the requests.
        if limits.tokens is not None:
            self._tokens = limiters.make(limits.store, f"{route}:tokens", "tokens", Bucket.of(limits.tokens.rate))
            self._counted = limits.tokens.count
            self._limits.append(_Limit("tokens", self._tokens, tallies.of("throttled", route, "tokens")))
        if limits.requests is not None:
            bucket = Bucket.of(limits.requests.rate, limits.requests.burst)
            requests = limiters.make(limits.store, f"{route}:requests", "requests", bucket)
            self._limits.append(_Limit("requests", requests, tallies.of("throttled", route, "requests")))

    async def admit(self, client: str, now: float) -> None:
        """Let a request of the client in. Raises QuotaReached."""
        for limit in self._limits:
            decision = limit.limiter.take(client, now)
            if decision is None:
                decision = await limit.limiter.ask(client, now)
            if not decision.allowed:
                limit.throttled.add()
                raise refusal(limit.kind, decision)

    def charge(self, client: str, exchange: Exchange, now: float) -> None:
        """Charge the client with what an exchange has reported of its usage."""
        if self._tokens is None:
            return
        usage = exchange.usage
        if usage is None and exchange.inspector is not None:
            usage = exchange.inspector.usage  # it was broken off before its usage was written down
        if usage is not None and (tokens := tokens_of(usage, self._counted)):
            self._tokens.charge(client, now, tokens)

    def take_over(self, previous: Quota) -> None:
        """Go on with the counts of a route's quotas before a reload, as far as their limits are the same ones."""
        if self._settings[0] != previous._settings[0]:
            return
        before = {limit.kind: limit for limit in previous._limits}
        for place, limit in enumerate(self._limits):
            index = 1 if limit.kind == "requests" else 2
            if limit.kind in before and self._settings[index] == previous._settings[index]:
                limiter = before[limit.kind].limiter
                self._limits[place] = limit._replace(limiter=limiter)
                if limit.kind == "tokens":
                    self._tokens = limiter

    def close(self) -> None:
        """Give back what was taken ahead."""
        for limit in self._limits:
            limit.limiter.close()


def build_quota(route: str, limits: Limits, tallies: Tallies, limiters: Limiters) -> Quota | None:
    """The quotas of a route, None where it has none. Raises StreamproxyError if their store can't be used."""
    return Quota(route, limits, tallies, limiters) if limits.requests is not None or limits.tokens is not None else None


def tokens_of(usage: Usage, counted: Counted) -> int:
    """How many tokens of a usage count; what was not reported counts as none."""
    tokens = 0
    if counted != "output":
        tokens += usage.input or 0
    if counted != "input":
        tokens += usage.output or 0
    return max(0, tokens)


def refusal(kind: Kind, decision: Decision) -> QuotaReached:
    """What a client is told that has used all it may."""
    numbers = (
        (b"limit", b"%d" % decision.limit),
        (b"remaining", b"%d" % decision.remaining),
        (b"reset", b"%ds" % math.ceil(decision.reset)),
    )
    fields = [(b"x-ratelimit-%b-%b" % (name, kind.encode()), value) for name, value in numbers]
    return QuotaReached(_DETAILS[kind], retry_after=decision.retry_after, fields=fields)
