"""An origin of several upstreams, each of which gets its share of the requests.

Smooth weighted choice: each request raises every upstream's credit by its weight; the one with the most is chosen and
pays the sum of all weights. So of 100 requests with the weights 95 and 5 the second gets exactly 5, spread evenly.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamproxy.exchange.call import Call
from streamproxy.origins.base import Origin, OriginResponse


class WeightedOrigin:
    """The origin of one upstream, and its weight among the others; a weight of 0 gets no requests."""

    __slots__ = ("credit", "name", "origin", "weight")

    def __init__(self, name: str, weight: int, origin: Origin) -> None:
        self.name = name
        self.weight = weight
        self.origin = origin
        self.credit = 0


class SharesOrigin(Origin):
    """Sends each request to one of ``shares``, which are the upstreams of a route with their weights."""

    __slots__ = ("_total", "shares")

    def __init__(self, shares: Sequence[WeightedOrigin]) -> None:
        self.shares = shares
        self._total = sum(share.weight for share in shares)

    async def open(self, call: Call) -> OriginResponse:
        share = self.choose()
        call.exchange.upstream = share.name
        return await share.origin.open(call)

    def choose(self) -> WeightedOrigin:
        """The share that the next request belongs to."""
        chosen = self.shares[0]
        for share in self.shares:
            share.credit += share.weight
            if share.credit > chosen.credit:
                chosen = share
        chosen.credit -= self._total
        return chosen
