"""Deadlines: what is due when. No loop and no clock here: the time is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import HeadTimeout, ReadTimeout, RequestTimeout, WriteTimeout
from streamproxy.exchange.timer import CHUNK, FOREVER, HEAD, KEEPALIVE, NOTHING, WRITE, Deadlines, TimeLimits

LIMITS = TimeLimits(request=60, first_byte=300, idle=200, write=120, total=1000, keepalive=15)


def waiting(waits: int, *, limits: TimeLimits = LIMITS, since: float = 100.0) -> Deadlines:
    deadlines = Deadlines(limits, 0.0)
    deadlines.waits, deadlines.since = waits, since
    return deadlines


@pytest.mark.parametrize(
    ("waits", "limit", "error"), [(HEAD, 300, HeadTimeout), (CHUNK, 200, ReadTimeout), (WRITE, 120, WriteTimeout)]
)
def test_each_wait_has_its_own_limit(waits: int, limit: float, error: type[Exception]) -> None:
    deadlines = waiting(waits)
    assert deadlines.decide(100 + limit - 0.001)[0] is None
    assert deadlines.decide(100 + limit)[0] is error


def test_waiting_for_nothing_is_not_limited_but_by_the_total() -> None:
    assert waiting(NOTHING).decide(999.9)[0] is None
    assert waiting(NOTHING).decide(1000)[0] is HeadTimeout
    assert waiting(CHUNK, since=999).decide(1000)[0] is ReadTimeout


def test_a_client_that_owes_its_body_is_blamed_and_not_the_upstream() -> None:
    deadlines = waiting(HEAD)
    deadlines.body_since = 390.0
    assert deadlines.decide(440)[0] is None
    assert deadlines.decide(450)[0] is RequestTimeout


def test_a_keepalive_is_due_only_while_a_chunk_is_waited_for() -> None:
    for waits, due in ((CHUNK, KEEPALIVE), (WRITE, None)):
        deadlines = waiting(waits)
        deadlines.keepalive_since = 100.0
        assert deadlines.decide(115)[0] == due


def test_a_keepalive_puts_off_no_time_out() -> None:
    deadlines = waiting(CHUNK)
    deadlines.keepalive_since = 299.0
    assert deadlines.decide(300)[0] is ReadTimeout


def test_without_limits_there_is_nothing_to_look_at() -> None:
    assert waiting(CHUNK, limits=TimeLimits()).decide(1e9) == (None, FOREVER)


STATES = st.tuples(st.sampled_from([NOTHING, HEAD, CHUNK, WRITE]), st.floats(0, 50), st.sampled_from([0.0, 20.0]))
LIMIT = st.sampled_from([FOREVER, 1.0, 5.0, 30.0])


@given(STATES, STATES, st.tuples(LIMIT, LIMIT, LIMIT, LIMIT, LIMIT, LIMIT))
def test_the_timer_is_never_late_whatever_begins_after_it_was_armed(
    before: tuple[int, float, float], after: tuple[int, float, float], limits: tuple[float, ...]
) -> None:
    """Whatever is due in a state that began at or after ``now`` is due no earlier than the moment to look again."""
    now = 50.0
    deadlines = Deadlines(TimeLimits(*limits), 0.0)
    deadlines.waits, deadlines.since, deadlines.body_since = before
    due, again = deadlines.decide(now)
    if due is not None:
        return
    deadlines.waits, deadlines.since, deadlines.body_since = after[0], now, now if after[2] else 0.0
    deadlines.keepalive_since = now
    early = min(again, 1e6) - 0.001
    if early > now:
        assert deadlines.decide(early)[0] is None
