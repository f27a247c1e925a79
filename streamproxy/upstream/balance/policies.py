"""How an endpoint is picked among those that are available.

A balancer is anything with ``pick(candidates, key)``. The candidates are never empty, and all of them may be given the
request; which endpoints are available is decided elsewhere (probes, ejection, retries). A balancer reads four
attributes of a candidate: its ``url``, its ``share`` (the weight, less during a slow start), its live ``streams``, and
the ``load`` that its engine gave last.
``key`` is what ``hash`` hashes; the others ignore it.
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
    """What a balancer reads of an endpoint."""

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
    """Picks one of the candidates, of which there is at least one."""

    def pick(self, candidates: Sequence[C], key: bytes | None) -> C: ...


class RoundRobin:
    """Smooth weighted round robin: every candidate in turn, by its share, and never several times in a row if another
    is due.

    Each candidate has a credit. A pick adds to every credit the share, takes the candidate with the largest, and
    takes the sum of the shares from it: the credits always add up to 0, and none lags behind by more than a round.
    Those of candidates that have not been seen for long are dropped.
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
            # Sums of fractions are inexact: what is equal on paper must not depend on the last bit.
            if credit > most + 1e-9:
                best, most = candidate, credit
        credits[best] -= total
        return best


class LeastStreams:
    """The fewest live streams for its share; those that are equal take turns by their shares."""

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


WAITING: Final = 4.0  # requests that run weigh as much as one that waits
FULL: Final = 0.95  # of its cache in use, from where on an endpoint is picked last


class LeastLoad:
    """The least load for its share, by what the engines say of themselves.

    The score is 4 for each request that waits in the engine, 1 for each that runs, and 1 for each stream that has
    been added here since the engine was asked. A stream that has ended since then makes up for one that has begun. An
    endpoint whose cache is nearly full comes after all others. Where the reading is older than ``stale`` seconds, or
    there is none, the score is the endpoint's live streams. Those that are equal take turns by their shares.
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
    """Draw two by their shares; the one with fewer live streams for its share is picked.

    Nearly as even as `LeastStreams`, and many proxies that do so at once don't all run to the same endpoint.
    ``uniform`` gives random numbers in [0, 1).
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
    """The same endpoint for the same key: weighted rendezvous hashing.

    Every candidate gets a score from the key and its URL, and the highest wins. So an endpoint that leaves moves its
    own keys and no others, one that joins takes only the keys that it will have, and all processes agree without
    speaking to each other. The score -share / ln(h), with h uniform in (0, 1), gives each its share of the keys
    (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005). Without a key, the fewest streams decide.
    """

    def __init__(self) -> None:
        self._keyless = LeastStreams()

    def pick(self, candidates: Sequence[C], key: bytes | None) -> C:
        if key is None:
            return self._keyless.pick(candidates)
        return max(candidates, key=lambda candidate: _score(key, candidate))


class PrefixHash:
    """The same endpoint for the same key, as `Hash`, but none is given much more than its share of the streams.

    The candidates are gone through in the order of their scores for the key, and the first is picked that has room: no
    more than ``load_factor`` times its share of all live streams, this one among them, rounded up (Mirrokni, Thorup and
    Zadimoghaddam, "Consistent hashing with bounded loads", 2018). As the factor is at least 1, there always is one.
    Without a key, the fewest streams decide.
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
    # Sums of fractions are inexact: what is whole on paper must not be rounded up.
    return candidate.streams + 1 <= math.ceil(allowed * candidate.share - 1e-9)


def _score(key: bytes, candidate: Candidate) -> float:
    digest = hashlib.blake2b(key + b"\0" + candidate.url.encode(), digest_size=8).digest()
    # 53 bits, a half added so that neither 0 nor 1 can come out.
    uniform = ((int.from_bytes(digest) >> 11) + 0.5) / (1 << 53)
    return -candidate.share / math.log(uniform)


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "least_streams": LeastStreams,
    "round_robin": RoundRobin,
    "random_two": RandomTwo,
    "hash": Hash,
}
