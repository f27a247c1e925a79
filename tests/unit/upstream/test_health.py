"""What probes say of an endpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.config.model import Health
from streamproxy.upstream.health import ProbeHistory, first_delay, next_delay


def health(healthy_after: int = 2, unhealthy_after: int = 3) -> ProbeHistory:
    return ProbeHistory(Health(healthy_after=healthy_after, unhealthy_after=unhealthy_after))


def verdicts(one: ProbeHistory, results: str) -> str:
    """The state after each result: a probe is good (g) or bad (b), an endpoint up (+) or down (-)."""
    out = ""
    for result in results:
        one.result(result == "g")
        out += "+" if one.healthy else "-"
    return out


@pytest.mark.parametrize(
    ("results", "states"),
    [
        ("g", "+"),
        ("b", "-"),  # the first counts alone
        ("gbbb", "+++-"),
        ("gbbgbbb", "++++++-"),  # in a row
        ("gbbbg", "+++--"),
        ("gbbbgg", "+++--+"),
        ("gbbbgbgg", "+++----+"),
        ("bg", "--"),
        ("bgg", "--+"),
    ],
)
def test_probes_in_a_row_decide(results: str, states: str) -> None:
    assert verdicts(health(), results) == states


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4))
def test_a_change_is_told_once_and_only_when_it_is_one(results: list[bool], up: int, down: int) -> None:
    one = health(up, down)
    for good in results:
        before = one.healthy
        assert one.result(good) == (one.healthy != before)
        assert one.healthy == before or one.healthy == good


@given(st.floats(0.1, 100), st.floats(0, 0.999))
def test_probes_are_spread_but_keep_to_their_interval(interval: float, drawn: float) -> None:
    assert 0.0 <= first_delay(interval, lambda: drawn) <= 0.1 * interval
    assert 0.89 * interval <= next_delay(interval, lambda: drawn) <= 1.11 * interval
