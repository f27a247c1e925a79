"""When a silent connection is asked for a sign of life, and when it is dead."""

from __future__ import annotations

import pytest

from streamproxy.client.http2.liveness import ASK, DEAD, Liveness
from streamproxy.exchange.timer import SECOND_LOOK


def test_a_connection_is_asked_after_its_silence() -> None:
    liveness = Liveness(15.0, 10.0)
    assert liveness.begin() == 15.0
    liveness.last_read = 4.0
    assert liveness.look(15.0) == 4.0
    assert liveness.look(19.0) == ASK


def test_any_byte_is_an_answer() -> None:
    liveness = Liveness(15.0, 10.0)
    assert liveness.look(15.0) == ASK
    assert liveness.asked(15.0) == 10.0
    liveness.last_read = 16.0
    assert liveness.look(25.0) == 6.0


def test_no_byte_within_the_time_for_an_answer_is_death() -> None:
    liveness = Liveness(15.0, 10.0)
    assert liveness.look(15.0) == ASK
    liveness.asked(15.0)
    assert liveness.look(24.0) == 1.0
    assert liveness.look(25.0) == DEAD


def test_a_short_silence_is_watched_during_a_long_wait_for_the_answer() -> None:
    liveness = Liveness(1.0, 10.0)
    assert liveness.look(1.0) == ASK
    assert liveness.asked(1.0) == 1.0
    liveness.last_read = 1.5
    assert liveness.look(2.0) == 0.5
    assert liveness.look(2.5) == ASK


def test_new_streams_begin_with_a_silence_of_their_own() -> None:
    liveness = Liveness(15.0, 10.0)
    liveness.look(15.0)
    liveness.asked(15.0)
    assert liveness.begin() == 15.0
    assert liveness.look(100.0) == ASK


def test_a_process_that_was_held_up_looks_again_before_the_connection_is_dead() -> None:
    liveness = Liveness(15.0, 10.0)
    liveness.asked(15.0)
    assert liveness.look(60.0) == SECOND_LOOK
    assert liveness.look(60.0 + SECOND_LOOK) == DEAD


def test_an_answer_that_waited_while_the_process_was_held_up_counts() -> None:
    liveness = Liveness(15.0, 10.0)
    liveness.asked(15.0)
    assert liveness.look(60.0) == SECOND_LOOK
    liveness.last_read = 60.1
    assert liveness.look(60.25) == pytest.approx(14.85)
