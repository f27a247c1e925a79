"""The laws of picking an endpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.upstream.balance.policies import BALANCERS, Hash, LeastStreams, RandomTwo, RoundRobin


class Fake:
    """A candidate of which only what a balancer reads is there."""

    def __init__(self, url: str, share: float = 1.0, streams: int = 0) -> None:
        self.url = url
        self.share = share
        self.streams = streams

    def __repr__(self) -> str:
        return f"{self.url}({self.share}, {self.streams})"


def fakes(shares: Sequence[float]) -> list[Fake]:
    return [Fake(f"http://e{number}", share) for number, share in enumerate(shares)]


counts = st.integers(2, 8)
weights = st.lists(st.integers(1, 9), min_size=1, max_size=6)
keys = st.binary(min_size=1, max_size=20)
KEYS = [f"key-{number}".encode() for number in range(2000)]


@given(st.sampled_from(sorted(BALANCERS)), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), min_size=1), keys)
def test_a_pick_is_one_of_the_candidates(name: str, candidates: list[tuple[int, int]], key: bytes) -> None:
    given_ones = [Fake(f"http://e{n}", share, streams) for n, (share, streams) in enumerate(candidates)]
    balancer = BALANCERS[name]()
    for some in (given_ones, given_ones[:1], given_ones[::-1]):
        assert balancer.pick(some, key) in some


@given(counts, st.integers(1, 60))
def test_least_streams_opens_fairly_within_one(count: int, streams: int) -> None:
    candidates, balancer = fakes([1.0] * count), LeastStreams()
    for _ in range(streams):
        balancer.pick(candidates).streams += 1
    open_now = [candidate.streams for candidate in candidates]
    assert max(open_now) - min(open_now) <= 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=80), weights)
def test_least_streams_always_picks_the_least_load(steps: list[tuple[bool, int]], shares: list[int]) -> None:
    candidates, balancer = fakes([float(share) for share in shares]), LeastStreams()
    for opens, place in steps:
        if opens:
            picked = balancer.pick(candidates)
            assert all(picked.streams * other.share <= other.streams * picked.share for other in candidates)
            picked.streams += 1
        elif (one := candidates[place % len(candidates)]).streams:
            one.streams -= 1


def test_least_streams_gives_equals_their_turn_by_weight() -> None:
    candidates, balancer = fakes([1.0, 3.0]), LeastStreams()
    picks = Counter(balancer.pick(candidates).url for _ in range(40))
    assert picks == {"http://e0": 10, "http://e1": 30}


@given(weights, st.integers(1, 5))
def test_round_robin_gives_each_its_weight_in_every_round(shares: list[int], rounds: int) -> None:
    candidates, balancer = fakes([float(share) for share in shares]), RoundRobin()
    picks = Counter(balancer.pick(candidates).url for _ in range(sum(shares) * rounds))
    assert [picks[candidate.url] for candidate in candidates] == [share * rounds for share in shares]


@given(counts, st.integers(1, 40))
def test_round_robin_is_fair_within_one_at_any_moment(count: int, requests: int) -> None:
    candidates, balancer = fakes([1.0] * count), RoundRobin()
    picks = Counter(balancer.pick(candidates).url for _ in range(requests))
    assert max(picks.values()) - min(picks[candidate.url] for candidate in candidates) <= 1


def test_round_robin_is_smooth() -> None:
    candidates, balancer = fakes([5.0, 1.0, 1.0]), RoundRobin()
    picks = [balancer.pick(candidates).url[-1] for _ in range(7)]
    assert picks == ["0", "0", "1", "0", "2", "0", "0"]


def test_round_robin_goes_on_fairly_when_one_leaves_and_comes_back() -> None:
    candidates, balancer = fakes([1.0, 1.0, 1.0]), RoundRobin()
    for _ in range(10):
        balancer.pick(candidates)
    for _ in range(10):
        balancer.pick(candidates[:2])
    picks = Counter(balancer.pick(candidates).url for _ in range(30))
    assert all(9 <= number <= 11 for number in picks.values())


def test_round_robin_does_not_remember_endpoints_for_ever() -> None:
    balancer = RoundRobin()
    for number in range(1000):
        balancer.pick(fakes([1.0, 1.0]))
        assert len(balancer._credits) <= 4 * 2 + 16 + 2, number


def test_random_two_takes_the_less_loaded_of_the_two_it_drew() -> None:
    candidates = fakes([1.0, 1.0, 1.0])
    candidates[0].streams = 5
    draws = iter([0.0, 0.0])  # the first of three, then the first of the two others
    assert RandomTwo(lambda: next(draws)).pick(candidates).url == "http://e1"


def test_random_two_draws_by_weight() -> None:
    candidates = fakes([1.0, 3.0])
    for mark, first in ((0.0, "http://e0"), (0.24, "http://e0"), (0.26, "http://e1"), (0.999, "http://e1")):
        assert RandomTwo(lambda mark=mark: mark).pick(candidates).url == first


def test_random_two_never_picks_the_most_loaded() -> None:
    candidates = [Fake("a", streams=9), Fake("b", streams=1), Fake("c", streams=2)]
    balancer = RandomTwo()
    assert "a" not in {balancer.pick(candidates).url for _ in range(200)}


@given(keys, counts)
def test_hash_is_the_same_whatever_the_order(key: bytes, count: int) -> None:
    candidates = fakes([1.0] * count)
    assert Hash().pick(candidates, key) is Hash().pick(candidates[::-1], key)


@given(keys, counts, st.integers(0, 7))
def test_an_endpoint_that_leaves_moves_only_its_own_keys(key: bytes, count: int, leaver: int) -> None:
    candidates = fakes([1.0] * count)
    gone = candidates[leaver % count]
    before = Hash().pick(candidates, key)
    after = Hash().pick([candidate for candidate in candidates if candidate is not gone], key)
    assert after is before or before is gone


def test_a_joining_endpoint_takes_about_its_share_and_no_more() -> None:
    candidates = fakes([1.0] * 5)
    moved = sum(Hash().pick(candidates[:4], key) is not Hash().pick(candidates, key) for key in KEYS)
    assert 0.15 * len(KEYS) < moved < 0.25 * len(KEYS)


def test_hash_respects_weights() -> None:
    candidates = fakes([1.0, 3.0])
    heavy = sum(Hash().pick(candidates, key) is candidates[1] for key in KEYS)
    assert 0.71 * len(KEYS) < heavy < 0.79 * len(KEYS)


@given(keys)
def test_a_growing_share_only_brings_keys_back(key: bytes) -> None:
    candidates = fakes([1.0, 1.0, 1.0])
    mine = []
    for share in (0.1, 0.4, 0.7, 1.0):
        candidates[0].share = share
        mine.append(Hash().pick(candidates, key) is candidates[0])
    assert all(later or not earlier for earlier, later in pairwise(mine))


def test_hash_without_a_key_looks_at_the_streams() -> None:
    candidates = [Fake("a", streams=3), Fake("b", streams=1)]
    assert Hash().pick(candidates, None).url == "b"


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_one_candidate_is_picked_by_all(name: str) -> None:
    only = Fake("a", streams=7)
    assert BALANCERS[name]().pick([only], b"k") is only
