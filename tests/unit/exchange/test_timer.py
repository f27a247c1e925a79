"""Deadlines: what is due when. No loop and no clock here: the time is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import HeadTimeout, ReadTimeout, RequestTimeout, WriteTimeout
from streamproxy.exchange.timer import CHUNK, EARLY, HEAD, KEEPALIVE, NOTHING, WRITE, Deadlines, TimeLimits
from streamproxy.wire.times import FOREVER

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


EARLY_LIMITS = TimeLimits(request=60, first_byte=300, write=120, keepalive=15, early=10)


def asked(waits: int) -> Deadlines:
    deadlines = waiting(waits, limits=EARLY_LIMITS, since=0.0)
    deadlines.early_at = 10.0
    return deadlines


@pytest.mark.parametrize("waits", [NOTHING, HEAD, CHUNK])
def test_an_early_head_is_due_whatever_is_waited_for(waits: int) -> None:
    deadlines = asked(waits)
    assert deadlines.decide(9.0) == (None, 10.0)
    assert deadlines.decide(10.0)[0] == EARLY


def test_nothing_is_early_where_nobody_asked() -> None:
    assert waiting(HEAD, limits=EARLY_LIMITS).decide(299.0)[0] is None


def test_a_client_that_still_sends_its_request_is_answered_when_it_is_done() -> None:
    deadlines = asked(NOTHING)
    deadlines.awaits_body(5.0)
    due, again = deadlines.decide(11.0)
    assert due is None
    assert 11.0 < again < 12.0
    deadlines.has_body(11.5)
    assert deadlines.decide(12.0)[0] == EARLY


def test_a_timeout_comes_before_an_early_comment() -> None:
    deadlines = asked(HEAD)
    deadlines.early_at = 300.0
    assert deadlines.decide(300.0)[0] is HeadTimeout


def test_a_client_that_takes_no_early_comment_has_the_write_timeout() -> None:
    deadlines = asked(HEAD)
    deadlines.early_at, deadlines.stuck_since = FOREVER, 20.0
    assert deadlines.decide(139.0)[0] is None
    assert deadlines.decide(140.0)[0] is WriteTimeout
