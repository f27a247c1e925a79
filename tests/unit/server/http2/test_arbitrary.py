"""Whatever frames a client sends, in whatever order, the protocol keeps its own rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuzz.targets.http2_server import check, mutate


@given(st.lists(st.integers(0, 1 << 32), min_size=1, max_size=12))
def test_what_is_written_is_whole_and_allowed_whatever_is_read(seeds: list[int]) -> None:
    data = b""
    for seed in seeds:  # each adds, drops, repeats, swaps or changes a frame
        data = mutate(data, 1 << 16, seed)
    check(data)
