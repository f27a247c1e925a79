"""Bests, medians, ratios and verdicts."""

from __future__ import annotations

import pytest

from benchmarks.sitting import Sample
from benchmarks.summary import GOALS, Goal, Quoted, added, held_back, quote, ratio, values, verdict


def samples(load: str, peer: str, number: str, *found: float) -> list[Sample]:
    return [Sample(turn, load, peer, {number: value}) for turn, value in enumerate(found, 1)]


def test_the_best_of_a_cost_is_the_least_and_of_a_rate_the_most() -> None:
    assert quote(samples("tiny", "nginx", "cpu_us", 30, 20, 40), "tiny", "nginx", "cpu_us") == Quoted(20, 30)
    assert quote(samples("tiny", "nginx", "per_second", 3, 9, 4), "tiny", "nginx", "per_second") == Quoted(9, 4)
    assert quote([], "tiny", "nginx", "cpu_us") is None


def test_a_ratio_compares_within_a_round_before_it_compares_rounds() -> None:
    # The machine was twice as slow in the second round, for both.
    assert ratio({1: 10.0, 2: 20.0, 3: 11.0}, {1: 5.0, 2: 10.0, 3: 5.5}) == Quoted(2.0, 2.0)
    assert ratio({1: 10.0, 2: 30.0}, {1: 5.0, 3: 1.0}) == Quoted(2.0, 2.0)
    assert ratio({1: 10.0}, {2: 5.0}) is None
    assert ratio({1: 10.0}, {1: 0.0}) is None


def test_what_is_added_is_less_the_median_without_a_proxy_and_never_negative() -> None:
    found = samples("events", "direct", "p50_us", 20, 30, 40) + samples("events", "envoy", "p99_us", 120, 25)
    assert added(found, "events", "p99_us", "envoy") == {1: 100, 2: 0}


def test_values_are_of_one_peer_under_one_load() -> None:
    found = samples("tiny", "a", "x", 1) + samples("events", "a", "x", 2) + samples("tiny", "b", "x", 3)
    assert values(found, "tiny", "a", "x") == {1: 1}


@pytest.mark.parametrize(("median", "word"), [(0.9, "goal"), (0.91, "must"), (1.2, "must"), (1.21, "missed")])
def test_the_verdict_is_on_the_median(median: float, word: str) -> None:
    goal = Goal("x", 1.2, 0.9, lambda _: None)
    assert verdict(goal, Quoted(0.1, median)) == word
    assert verdict(goal, None) == "not measured"


def test_goals_are_measured_against_the_peer_that_they_name() -> None:
    found = [
        *samples("tiny", "streamproxy", "cpu_us", 40),
        *samples("tiny", "envoy", "cpu_us", 50),
        *samples("tiny", "nginx", "cpu_us", 20),
        *samples("tiny", "recipe", "cpu_us", 2000),
        *samples("idle", "streamproxy", "kib_a_stream", 15),
    ]
    measured = {goal.what: goal.measure(found) for goal in GOALS}
    assert measured["CPU a request ÷ Envoy's"] == Quoted(0.8, 0.8)
    assert measured["CPU an event ÷ nginx's"] is None
    assert measured["CPU a request ÷ the usual recipe's"] == Quoted(0.02, 0.02)
    assert measured["memory an idle stream"] == Quoted(15, 15)
    assert measured["1 GB download: CPU ÷ Envoy's"] is None


def test_a_bottleneck_is_named_but_not_for_the_peer_that_is_none() -> None:
    found = [
        Sample(1, "tiny", "direct", {"limit": 0.99}),
        Sample(1, "tiny", "nginx", {"limit": 0.95}),
        Sample(2, "tiny", "nginx", {"limit": 0.92}),
        Sample(1, "tiny", "envoy", {"limit": 0.5}),
    ]
    assert held_back(found) == ["tiny, nginx"]
