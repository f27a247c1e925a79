"""Whatever frames a peer of HTTP/2 sends, in whatever order, our side keeps its own rules.

What our server writes is whole and allowed. Of an upstream's streams none is forgotten, and none looks complete that is
not.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.targets import load


@pytest.mark.parametrize("part", ["http2_server", "http2_client"])
@given(seeds=st.lists(st.integers(0, 1 << 32), min_size=1, max_size=12))
def test_each_side_keeps_its_rules_whatever_it_reads(part: str, seeds: list[int]) -> None:
    target = load(part)
    assert target.mutate is not None
    data = b""
    for seed in seeds:  # each adds, drops, repeats, swaps or changes a frame
        data = target.mutate(data, 1 << 16, seed)
    target.check(data)
