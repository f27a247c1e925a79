"""How many turns of a conversation find its cache with ``prefix``: ``python -m benchmarks.affinity``.

A simulation by events, without a clock and the same each time. Each of 200 users has a chat of ten turns over four
endpoints: a turn is answered for some seconds, and the next comes after a pause. A turn that goes where the one before
went finds the beginning of the conversation in that engine's cache.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

from streamproxy.upstream.affinity import key_of
from streamproxy.upstream.balance.policies import LeastStreams, PrefixHash

USERS: Final = 200
TURNS: Final = 10
ENDPOINTS: Final = 4
ANSWER: Final = 6.0  # seconds, in the mean
LIMIT: Final = 4096  # bytes of a plain prompt that count


class Endpoint:
    """An endpoint as a balancer sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.share = 1.0
        self.streams = 0
        self.load = None


class Stayed(NamedTuple):
    """The share of turns that went where the one before went, and the requests of the fullest ÷ the emptiest."""

    share: float
    spread: float


def body(user: int, turn: int) -> bytes:
    """The request of a user's turn, with all that was said before."""
    said = [{"role": "user", "content": f"I am user {user}, and I ask."}]
    for number in range(turn):
        said += [{"role": "assistant", "content": f"answer {number}"}, {"role": "user", "content": f"and {number}?"}]
    return json.dumps({"model": "m", "messages": [{"role": "system", "content": "You help."}, *said]}).encode()


@cache
def key(user: int, turn: int) -> bytes | None:
    """The key of that request; it is the same in every run."""
    return key_of(body(user, turn), LIMIT)


def run(balancer: PrefixHash | LeastStreams, seed: int, pause: float) -> Stayed:
    """All the chats, with one balancer. ``pause`` is the mean of the seconds in which a user reads and writes."""
    rng = random.Random(seed)
    endpoints = [Endpoint(f"http://e{number}") for number in range(ENDPOINTS)]
    numbers = itertools.count()
    # When, and which user's turn begins, or at which endpoint an answer ends.
    events: list[tuple[float, int, int, Endpoint | None]] = []
    for user in range(USERS):
        heapq.heappush(events, (rng.uniform(0.0, ANSWER + pause), next(numbers), user, None))
    turns, last = [0] * USERS, [""] * USERS
    stayed, requests = 0, Counter[str]()
    while events:
        now, _, user, ends = heapq.heappop(events)
        if ends is not None:
            ends.streams -= 1
            if turns[user] < TURNS:
                heapq.heappush(events, (now + rng.expovariate(1 / pause), next(numbers), user, None))
            continue
        picked = balancer.pick(endpoints, key(user, turns[user]))
        picked.streams += 1
        requests[picked.url] += 1
        stayed += picked.url == last[user]
        last[user] = picked.url
        turns[user] += 1
        heapq.heappush(events, (now + rng.expovariate(1 / ANSWER), next(numbers), user, picked))
    return Stayed(stayed / (USERS * (TURNS - 1)), max(requests.values()) / min(requests.values()))


def main() -> None:
    """Print the shares: for pauses that leave so many streams at once, and for factors."""
    factors = (1.25, 1.5, 2.0)
    print("streams at once  least_streams  " + "  ".join(f"prefix, {factor:g}" for factor in factors))
    for pause in (0.3, 6.0, 18.0):
        at_once = USERS * ANSWER / (ANSWER + pause)
        shares = [_mean(lambda: LeastStreams(), pause)]
        shares += [_mean(lambda factor=factor: PrefixHash(factor), pause) for factor in factors]
        print(
            f"{at_once:15.0f}  {shares[0]:13.1%}  "
            + "  ".join(f"{share:{len(f'prefix, {f:g}')}.1%}" for share, f in zip(shares[1:], factors, strict=True))
        )


def _mean(balancer: Callable[[], PrefixHash | LeastStreams], pause: float) -> float:
    return sum(run(balancer(), seed, pause).share for seed in range(3)) / 3


if __name__ == "__main__":
    main()
