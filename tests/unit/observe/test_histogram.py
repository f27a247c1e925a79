"""Fine buckets: percentiles that are near the truth, and shown counts that are exact."""

from __future__ import annotations

import itertools
import math
import pickle
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.admin.update import quantiles
from streamproxy.exchange.histogram import BYTES, GROWTH, SECONDS, TIME_BUCKETS, TOKENS, Histogram, Scale

SCALES = pytest.mark.parametrize("scale", [SECONDS, BYTES, TOKENS], ids=lambda scale: scale.name)


@SCALES
def test_bounds_rise_and_have_the_shown_ones_among_them(scale: Scale) -> None:
    assert list(scale.bounds) == sorted(set(scale.bounds))
    assert [scale.bounds[end] for end in scale.ends] == list(scale.shown)


def test_no_fine_bucket_of_seconds_is_wider_than_promised() -> None:
    bounds = SECONDS.bounds
    assert all(upper / lower <= GROWTH * 1.000001 for lower, upper in itertools.pairwise(bounds))
    assert bounds[-1] == TIME_BUCKETS[-1] == 640


@SCALES
@given(data=st.data())
def test_a_value_is_in_the_bucket_of_the_first_bound_that_is_not_below_it(scale: Scale, data: st.DataObject) -> None:
    bound = st.sampled_from(scale.bounds)
    beside = bound.flatmap(lambda at: st.sampled_from([math.nextafter(at, 0), at, math.nextafter(at, math.inf)]))
    value = data.draw(beside | st.floats(0, allow_nan=False) | st.floats(scale.bounds[0], scale.bounds[-1]))
    histogram = Histogram(scale)
    histogram.observe(value)
    assert histogram.counts == {bisect_left(scale.bounds, value): 1}


@SCALES
def test_each_bound_and_its_neighbours_find_their_bucket(scale: Scale) -> None:
    for number, bound in enumerate(scale.bounds):
        histogram = Histogram(scale)
        for value in (math.nextafter(bound, 0), bound, math.nextafter(bound, math.inf)):
            histogram.observe(value)
        assert histogram.counts == {number: 2, number + 1: 1}


def test_observations_count_the_same_however_often_the_counts_are_read() -> None:
    seen, unseen = Histogram(SECONDS), Histogram(SECONDS)
    for number in range(2000):
        value = number * 7919 % 2000 / 100
        seen.observe(value)
        unseen.observe(value)
        assert seen.count == number + 1
    assert unseen.counts == seen.counts


@given(st.lists(st.floats(0, 2000), max_size=50))
def test_the_shown_counts_are_those_of_the_shown_bounds(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    expected = [0] * (len(TIME_BUCKETS) + 1)
    for value in values:
        histogram.observe(value)
        expected[bisect_left(TIME_BUCKETS, value)] += 1
    assert histogram.shown() == expected
    assert (histogram.count, histogram.sum) == (len(values), pytest.approx(sum(values)))


@given(st.lists(st.floats(0.001, 600), min_size=1, max_size=50))
def test_percentiles_are_within_a_few_per_cent(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    found = quantiles(histogram)
    assert found["count"] == len(values)
    ordered = sorted(values)
    for shown, q in ((found["p50"], 0.5), (found["p90"], 0.9), (found["p99"], 0.99)):
        true = ordered[max(0, -int(-q * len(values) // 1) - 1)]
        assert shown is not None
        assert true / GROWTH * 0.999 <= shown <= true * GROWTH * 1.001


def test_a_clock_of_a_second_shows_a_second() -> None:
    histogram = Histogram(SECONDS)
    for number in range(600):
        histogram.observe(0.999 + (number % 5) / 1000)
    found = quantiles(histogram)
    assert found["p50"] == pytest.approx(1.0, rel=0.03)
    assert found["p99"] == pytest.approx(1.0, rel=0.04)


def test_of_a_window_only_what_is_new_counts() -> None:
    then = Histogram(SECONDS)
    then.observe(30.0)
    now = Histogram(SECONDS)
    now.add(then.counts, then.sum)
    assert quantiles(now, then) == {"count": 0, "p50": None, "p90": None, "p99": None}
    now.observe(0.2)
    assert quantiles(now, then)["p99"] == pytest.approx(0.2, rel=0.04)


@given(st.lists(st.floats(0, 2000), max_size=20), st.lists(st.floats(0, 2000), max_size=20))
def test_histograms_add_up_and_can_be_pickled(one: list[float], other: list[float]) -> None:
    first, second, both = Histogram(SECONDS), Histogram(SECONDS), Histogram(SECONDS)
    for histogram, values in ((first, one), (second, other), (both, one + other)):
        for value in values:
            histogram.observe(value)
    first.add(second.counts, second.sum)
    got = pickle.loads(pickle.dumps(first))
    assert (got.scale, got.counts, got.sum) == (SECONDS, both.counts, pytest.approx(both.sum))
