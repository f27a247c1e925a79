"""What is read from /proc, and the time between two readings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.proc import TICK, Cpu, cpu, cpu_between, parse_pss, parse_stat, pss, tree

STAT = "4711 (a (very) odd name) S 42 4711 4711 0 -1 4194560 901 0 3 0 120 30 7 2 20 0 4 0 12345 0 0"
ROLLUP = """\
5583a9e4b000-7ffd0a9f3000 ---p 00000000 00:00 0                          [rollup]
Rss:               10456 kB
Pss:                4321 kB
Pss_Dirty:          2048 kB
"""


def test_a_process_name_with_spaces_and_parentheses_moves_no_field() -> None:
    assert parse_stat(STAT) == (42, 120 + 30 + 7 + 2)


def test_pss_is_bytes_and_not_one_of_its_parts() -> None:
    assert parse_pss(ROLLUP) == 4321 * 1024
    assert parse_pss("Rss: 10 kB\n") == 0


def test_time_is_the_sum_over_threads_and_processes() -> None:
    before = Cpu({1: {1: 1_000_000_000, 2: 500_000_000}}, {1: 150})
    after = Cpu({1: {1: 1_250_000_000, 2: 600_000_000, 3: 50_000_000}, 9: {9: 100_000_000}}, {1: 190, 9: 10})
    assert cpu_between(before, after) == pytest.approx(0.25 + 0.1 + 0.05 + 0.1)


def test_a_thread_that_ended_does_not_take_its_time_along() -> None:
    before = Cpu({1: {1: 1_000_000_000, 2: 900_000_000}}, {1: 190})
    after = Cpu({1: {1: 1_100_000_000}}, {1: 240})
    assert cpu_between(before, after) == pytest.approx(50 * TICK)


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert cpu_between(Cpu({1: {1: 5}}, {1: 1}), Cpu({}, {})) == 0.0


def test_a_tree_holds_its_children_and_their_memory_and_time_can_be_read() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = tree(os.getpid())
        assert {os.getpid(), child.pid} <= set(pids)
        assert child.pid not in tree(child.pid)[1:]
        assert pss([os.getpid()]) > 1_000_000
        first = cpu([os.getpid()])
        sum(range(100_000))
        assert cpu_between(first, cpu([os.getpid()])) >= 0.0
        assert set(first.threads) == {os.getpid()}
    finally:
        child.communicate(b"\n")
    assert child.returncode == 0
    assert cpu([child.pid]) == Cpu({}, {})
