"""Bytes, and every way in which they may come."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def splits(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    """Chunks that make up ``whole``, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
