"""Dates as HTTP writes them."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.date import format_date


@given(st.integers(0, 253_402_300_799))
def test_a_date_is_an_imf_fixdate(seconds: int) -> None:
    assert format_date(seconds).decode() == formatdate(seconds, usegmt=True)


def test_numbers_have_two_digits() -> None:
    assert format_date(784_111_777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
