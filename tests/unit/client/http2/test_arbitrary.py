"""Whatever frames an upstream sends, in whatever order, no stream is forgotten, and none looks complete that is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuzz.targets.http2_client import check, mutate


@given(st.lists(st.integers(0, 1 << 32), min_size=1, max_size=12))
def test_a_complete_response_is_what_another_client_reads_whatever_comes(seeds: list[int]) -> None:
    data = b""
    for seed in seeds:  # each adds, drops, repeats, swaps or changes a frame
        data = mutate(data, 1 << 16, seed)
    check(data)
