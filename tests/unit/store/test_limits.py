"""Limits against a bucket that is filled bit by bit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.config.units import rate
from streamproxy.store.limits import Bucket, Counts

# Steps of time in sixteenths, which floats have exactly.
STEPS = st.lists(st.tuples(st.integers(0, 64), st.integers(1, 3)), max_size=60)
RATES = st.sampled_from(["1/1s", "4/1s", "8/2s", "2/1m", "100/1m"])


class Reference:
    """A bucket of exact numbers: full at the beginning, and filled as time goes on."""

    def __init__(self, text: str, burst: int | None) -> None:
        one = rate(text)
        self.limit = one.amount if burst is None else burst
        self.per_second = Fraction(one.amount) / Fraction(one.seconds)
        self.level = Fraction(self.limit)
        self.at = Fraction(0)

    def fill(self, now: Fraction) -> None:
        self.level = min(Fraction(self.limit), self.level + (now - self.at) * self.per_second)
        self.at = now


@given(RATES, st.one_of(st.none(), st.integers(3, 9)), STEPS)
def test_requests_are_let_in_as_by_a_bucket_of_units(
    text: str, burst: int | None, steps: list[tuple[int, int]]
) -> None:
    counts, reference, now = Counts(Bucket.of(rate(text), burst)), Reference(text, burst), Fraction(1000)
    reference.at = now
    for step, units in steps:
        now += Fraction(step, 16)
        reference.fill(now)
        decision = counts.take("a", float(now), units)
        assert decision.allowed == (reference.level >= units)
        if decision.allowed:
            reference.level -= units
        else:
            missing = (units - reference.level) / reference.per_second
            assert decision.retry_after == pytest.approx(float(missing)) or units > reference.limit
        assert decision.remaining == int(reference.level)
        assert decision.limit == reference.limit
        assert decision.reset == pytest.approx(float((reference.limit - reference.level) / reference.per_second))


@given(RATES, STEPS)
def test_whoever_waits_as_long_as_he_was_told_is_let_in(text: str, steps: list[tuple[int, int]]) -> None:
    counts, now = Counts(Bucket.of(rate(text), 3)), 1000.0
    for step, units in steps:
        now += step / 16
        decision = counts.take("a", now, units)
        if not decision.allowed:
            now += decision.retry_after
            assert counts.take("a", now, units).allowed


@given(RATES, STEPS)
def test_tokens_are_charged_whatever_they_come_to_and_paid_back(text: str, steps: list[tuple[int, int]]) -> None:
    counts, reference, now = Counts(Bucket.of(rate(text))), Reference(text, None), Fraction(1000)
    reference.at = now
    for step, units in steps:
        now += Fraction(step, 16)
        reference.fill(now)
        decision = counts.look("a", float(now))
        assert decision.allowed == (reference.level >= 1)
        assert decision.remaining == max(0, int(reference.level))
        if not decision.allowed:
            assert decision.retry_after == pytest.approx(float((1 - reference.level) / reference.per_second))
        counts.charge("a", float(now), units * 3)
        reference.level -= units * 3


def test_clients_are_counted_apart() -> None:
    counts = Counts(Bucket.of(rate("1/1m")))
    assert counts.take("a", 0.0).allowed
    assert not counts.take("a", 0.0).allowed
    assert counts.take("b", 0.0).allowed


def test_a_refused_request_takes_nothing() -> None:
    counts = Counts(Bucket.of(rate("1/10s")))
    counts.take("a", 0.0)
    for now in range(1, 10):
        assert not counts.take("a", float(now)).allowed
    assert counts.take("a", 10.0).allowed


def test_no_more_clients_are_kept_than_may_be_and_those_who_owe_nothing_are_not() -> None:
    counts = Counts(Bucket.of(rate("1/1s")), most=100)
    for number in range(1000):
        counts.take(f"c{number}", 0.0)
        assert len(counts) <= 100
    for number in range(200):
        counts.take("a", 10.0 + 10 * number)
    assert len(counts) == 1


def test_a_client_that_is_seen_again_is_not_the_oldest() -> None:
    counts = Counts(Bucket.of(rate("2/1h")), most=2)
    for client in ("a", "b", "a", "c"):
        counts.take(client, 0.0)
    assert not counts.take("a", 0.0).allowed
    assert counts.take("b", 0.0).remaining == 1  # it was forgotten
