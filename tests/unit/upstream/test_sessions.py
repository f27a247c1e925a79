"""Sessions that stick to the endpoint that has named them."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.upstream.sessions import SETS, WAYS, Sessions, SessionTable, shared_memory
from tests.unit.upstream.fakes import endpoint

A, B = endpoint("a"), endpoint("b")
ID = b"mcp-session-id"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sessions(table: SessionTable | None = None, upstream: str = "u", clock: Clock | None = None) -> Sessions:
    return Sessions(table or SessionTable(), upstream, "header:Mcp-Session-Id", 60.0, clock or Clock())


def test_a_session_is_found_at_the_endpoint_that_has_named_it() -> None:
    known = sessions()
    known.learn([(ID, b"one")], A)
    known.learn([(ID, b"two")], B)
    assert known.find([(ID, b"one")], [B, A]) is A
    assert known.find([(ID, b"two")], [B, A]) is B
    assert known.find([(ID, b"three")], [A, B]) is None
    assert known.find([], [A, B]) is None


def test_an_endpoint_that_is_no_candidate_is_not_given_the_session() -> None:
    known = sessions()
    known.learn([(ID, b"one")], A)
    assert known.find([(ID, b"one")], [B]) is None
    assert known.find([(ID, b"one")], [A, B]) is A


def test_a_session_is_forgotten_the_ttl_after_its_last_use() -> None:
    clock = Clock()
    known = sessions(clock=clock)
    known.learn([(ID, b"one")], A)
    for _ in range(3):
        clock.now += 59.0
        assert known.find([(ID, b"one")], [A]) is A
    clock.now += 61.0
    assert known.find([(ID, b"one")], [A]) is None


def test_a_session_that_moves_is_found_at_its_new_endpoint() -> None:
    known = sessions()
    known.learn([(ID, b"one")], A)
    known.learn([(ID, b"one")], B)
    assert known.find([(ID, b"one")], [A, B]) is B


def test_upstreams_do_not_share_their_sessions() -> None:
    table = SessionTable()
    sessions(table).learn([(ID, b"one")], A)
    assert sessions(table, "v").find([(ID, b"one")], [A]) is None


def test_processes_that_share_the_memory_share_the_sessions() -> None:
    descriptor = shared_memory()
    here, there = SessionTable(descriptor), SessionTable(descriptor)
    os.close(descriptor)
    sessions(here).learn([(ID, b"one")], B)
    assert sessions(there).find([(ID, b"one")], [A, B]) is B


def test_a_flood_of_sessions_pushes_out_the_ones_that_were_used_longest_ago() -> None:
    table = SessionTable()
    for number in range(WAYS):
        table.learn((7 + number * SETS, number), number, 100.0 + number)
    assert table.find((7, 0), 50.0, 200.0) == 0  # used again
    table.learn((7 + 99 * SETS, 99), 99, 150.0)
    assert table.find((7, 0), 50.0, 200.0) == 0
    assert table.find((7 + SETS, 1), 50.0, 200.0) is None
    assert table.find((7 + 99 * SETS, 99), 50.0, 200.0) == 99


@given(st.integers(0, 39), st.integers(1, 255))
def test_an_entry_that_was_half_written_is_none(at: int, flip: int) -> None:
    table = SessionTable()
    table.learn((3, 5), 9, 1000.0)
    table._memory[3 * 40 * WAYS + at] ^= flip
    assert table.find((3, 5), 0.0, 2000.0) is None


def test_a_name_without_reason_is_none() -> None:
    known = sessions()
    known.learn([(ID, b"x" * 5000)], A)
    known.learn([(ID, b"")], A)
    assert known.find([(ID, b"x" * 5000)], [A]) is None
    assert known.find([(ID, b"")], [A]) is None
