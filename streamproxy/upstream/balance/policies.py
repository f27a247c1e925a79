"""Balancing policies: how one of the available endpoints is picked.

A balancer is any object with ``pick(candidates, key)``. There is always at least one candidate, and each of them may
receive the request: probes, ejection and retries decide elsewhere which endpoints are available. A balancer reads four
attributes of a candidate: its ``url``, its ``share`` (the weight, reduced during a slow start), the number of its live
``streams``, and the last ``load`` that its engine reported. ``key`` is the value that ``hash`` hashes; the other
policies ignore it.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from streamproxy.upstream.load import LoadReading


class Candidate(Protocol):
    """The attributes of an endpoint that a balancer reads."""

    @property
    def url(self) -> str: ...
    @property
    def share(self) -> float: ...
    @property
    def streams(self) -> int: ...
    @property
    def load(self) -> LoadReading | None: ...


C = TypeVar("C", bound=Candidate)


class Balancer(Protocol):
    """Picks one of the candidates."""

    def pick(self, candidates: Sequence[C], key: bytes | None) -> C: ...


class RoundRobin:
    """Smooth weighted round robin: picks are proportional to the shares and spread evenly.

    Each candidate has a credit. A pick adds its share to every credit, picks the candidate with the largest credit, and
    subtracts the sum of all shares from it. The credits always add up to 0, and no candidate lags by more than one
    round. Credits of candidates that have been absent for long are dropped.
    """

    def __init__(self) -> None:
        self._credits: dict[Any, float] = {}

    def pick(self, candidates: Sequence[C], key: bytes | None = None) -> C:
        credits = self._credits
        if len(credits) > 4 * len(candidates) + 16:
            credits = self._credits = {one: credits.get(one, 0.0) for one in candidates}
        best, total = candidates[0], 0.0
        most = -math.inf
        for candidate in candidates:
            credit = credits.get(candidate, 0.0) + candidate.share
            credits[candidate] = credit
            total += candidate.share
            # Sums of fractions are inexact, and a tie must not be decided by the last bit.
            if credit > most + 1e-9:
                best, most = candidate, credit
        credits[best] -= total
        return best


class LeastStreams:
    """Picks the fewest live streams relative to the share. Ties take turns by their shares."""

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def pick(self, candidates: Sequence[C], key: bytes | None = None) -> C:
        least = math.inf
        tied: list[C] = []
        for candidate in candidates:
            load = candidate.streams / candidate.share
            if load < least:
                least, tied = load, [candidate]
            elif load == least:
                tied.append(candidate)
        return tied[0] if len(tied) == 1 else self._turns.pick(tied)


WAITING: Final = 4.0  # running requests weigh as much as one waiting request
FULL: Final = 0.95  # the share of its cache in use from which an endpoint is picked last


class LeastLoad:
    """Picks the least load relative to the share, as reported by the engines.

    The score is 4 for each request that waits in the engine, plus 1 for each request that runs, plus 1 for each stream
    that was added here since the last reading, minus 1 for each that ended since. Endpoints whose cache is nearly full
    rank after all others. If there is no reading, or it is older than ``stale`` seconds, the score is the number of the
    endpoint's live streams. Ties take turns by their shares.
    """

    def __init__(self, stale: float, clock: Callable[[], float] = monotonic) -> None:
        self._stale = stale
        self._clock = clock
        self._turns = RoundRobin()

    def pick(self, candidates: Sequence[C], key: bytes | None = None) -> C:
        oldest = self._clock() - self._stale
        least = (True, math.inf)
        tied: list[C] = []
        for candidate in candidates:
            load = _load(candidate, oldest)
            if load < least:
                least, tied = load, [candidate]
            elif load == least:
                tied.append(candidate)
        return tied[0] if len(tied) == 1 else self._turns.pick(tied)


def _load(candidate: Candidate, oldest: float) -> tuple[bool, float]:
    reading = candidate.load
    if reading is None or reading.at < oldest:
        return False, candidate.streams / candidate.share
    unseen = max(0, candidate.streams - reading.streams)
    score = WAITING * reading.waiting + reading.running + unseen
    return reading.cache is not None and reading.cache > FULL, score / candidate.share


class RandomTwo:
    """Draws two candidates by their shares, and picks the one with fewer live streams relative to its share.

    The distribution is nearly as even as that of `LeastStreams`, and many proxies that balance this way do not all pick
    the same endpoint at once. ``uniform`` returns random numbers in [0, 1).
    """

    def __init__(self, uniform: Callable[[], float] = random.random) -> None:
        self._uniform = uniform

    def pick(self, candidates: Sequence[C], key: bytes | None = None) -> C:
        if len(candidates) == 1:
            return candidates[0]
        one = self._draw(candidates)
        other = self._draw([candidate for candidate in candidates if candidate is not one])
        return other if other.streams / other.share < one.streams / one.share else one

    def _draw(self, candidates: Sequence[C]) -> C:
        mark = self._uniform() * sum(candidate.share for candidate in candidates)
        for candidate in candidates:
            mark -= candidate.share
            if mark < 0.0:
                return candidate
        return candidates[-1]


class Hash:
    """Picks the same endpoint for the same key: weighted rendezvous hashing.

    Each candidate gets a score from the key and its URL, and the highest score wins. An endpoint that leaves moves only
    its own keys, an endpoint that joins takes only the keys it will own, and all processes agree without communication.
    The score -share / ln(h), with h uniform in (0, 1), makes the number of keys proportional to the share
    (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005). Without a key, `LeastStreams` picks.
    """

    def __init__(self) -> None:
        self._keyless = LeastStreams()

    def pick(self, candidates: Sequence[C], key: bytes | None) -> C:
        if key is None:
            return self._keyless.pick(candidates)
        return max(candidates, key=lambda candidate: _score(key, candidate))


class PrefixHash:
    """Picks the same endpoint for the same key, like `Hash`, but limits the load of each endpoint.

    The candidates are tried in the order of their scores for the key. The first with room is picked: with this stream
    it has no more than ``load_factor`` times its share of all live streams, rounded up (Mirrokni, Thorup and
    Zadimoghaddam, "Consistent hashing with bounded loads", 2018). Since the factor is at least 1, one always has room.
    Without a key, `LeastStreams` picks.
    """

    def __init__(self, load_factor: float) -> None:
        self._factor = load_factor
        self._keyless = LeastStreams()

    def pick(self, candidates: Sequence[C], key: bytes | None) -> C:
        if key is None:
            return self._keyless.pick(candidates)
        streams, shares = 1, 0.0
        for candidate in candidates:
            streams += candidate.streams
            shares += candidate.share
        allowed = self._factor * streams / shares
        first = max(candidates, key=lambda candidate: _score(key, candidate))
        if _has_room(first, allowed):
            return first
        ranked = sorted(candidates, key=lambda candidate: _score(key, candidate), reverse=True)
        return next((one for one in ranked if _has_room(one, allowed)), first)


def _has_room(candidate: Candidate, allowed: float) -> bool:
    # Sums of fractions are inexact, and an exact integer must not be rounded up.
    return candidate.streams + 1 <= math.ceil(allowed * candidate.share - 1e-9)


def _score(key: bytes, candidate: Candidate) -> float:
    digest = hashlib.blake2b(key + b"\0" + candidate.url.encode(), digest_size=8).digest()
    # 53 bits plus a half, so that the result is neither 0 nor 1.
    uniform = ((int.from_bytes(digest) >> 11) + 0.5) / (1 << 53)
    return -candidate.share / math.log(uniform)


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "least_streams": LeastStreams,
    "round_robin": RoundRobin,
    "random_two": RandomTwo,
    "hash": Hash,
}
