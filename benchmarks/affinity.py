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
from typing import Final, NamedTuple

from streamproxy.upstream.affinity import key_of
from streamproxy.upstream.balance.policies import LeastStreams, PrefixHash

USERS: Final = 200
TURNS: Final = 10
ENDPOINTS: Final = 4
ANSWER: Final = 6.0  # seconds, in the mean
PAUSE: Final = 12.0  # seconds that a user reads and writes, in the mean
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


def run(balancer: PrefixHash | LeastStreams, seed: int) -> Stayed:
    """All the chats, with one balancer."""
    rng = random.Random(seed)
    endpoints = [Endpoint(f"http://e{number}") for number in range(ENDPOINTS)]
    numbers = itertools.count()
    # When, and which user's turn begins, or at which endpoint an answer ends.
    events: list[tuple[float, int, int, Endpoint | None]] = []
    for user in range(USERS):
        heapq.heappush(events, (rng.uniform(0.0, PAUSE), next(numbers), user, None))
    turns, last = [0] * USERS, [""] * USERS
    stayed, requests = 0, Counter[str]()
    while events:
        now, _, user, ends = heapq.heappop(events)
        if ends is not None:
            ends.streams -= 1
            if turns[user] < TURNS:
                heapq.heappush(events, (now + rng.expovariate(1 / PAUSE), next(numbers), user, None))
            continue
        picked = balancer.pick(endpoints, key_of(body(user, turns[user]), LIMIT))
        picked.streams += 1
        requests[picked.url] += 1
        stayed += picked.url == last[user]
        last[user] = picked.url
        turns[user] += 1
        heapq.heappush(events, (now + rng.expovariate(1 / ANSWER), next(numbers), user, picked))
    return Stayed(stayed / (USERS * (TURNS - 1)), max(requests.values()) / min(requests.values()))


def main() -> None:
    """Print the shares for a few seeds."""
    print("seed  least_streams  prefix  prefix, load_factor 1.5  fullest ÷ emptiest")
    for seed in range(5):
        streams, prefix, loose = (run(one, seed) for one in (LeastStreams(), PrefixHash(1.25), PrefixHash(1.5)))
        print(f"{seed:4}  {streams.share:13.1%}  {prefix.share:6.1%}  {loose.share:23.1%}  {prefix.spread:18.2f}")


if __name__ == "__main__":
    main()
