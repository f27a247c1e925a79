"""Shares of upstreams: each gets what its weight says, spread evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.origins.base import Origin
from streamproxy.origins.shares import SharesOrigin, WeightedOrigin


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any))
def test_in_every_round_each_share_gets_exactly_its_weight(weights: list[int]) -> None:
    shares = SharesOrigin([WeightedOrigin(str(number), weight, Origin()) for number, weight in enumerate(weights)])
    for _ in range(2):
        chosen = [int(shares.choose().name) for _ in range(sum(weights))]
        assert [chosen.count(number) for number in range(len(weights))] == weights


def test_a_small_share_is_spread_over_the_round() -> None:
    shares = SharesOrigin([WeightedOrigin("a", 3, Origin()), WeightedOrigin("b", 1, Origin())])
    assert "".join(shares.choose().name for _ in range(8)) == "aabaaaba"
