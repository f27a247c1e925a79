"""One timer for things that fall due equally late."""

from __future__ import annotations

import asyncio

from streamproxy.store.expiry import Expiry
from tests.doubles.clock import Clock
from tests.doubles.until import until


def made(monkeypatch_clock: Clock, expired: list[str], delay: float = 10.0) -> Expiry[str]:
    expiry = Expiry[str](delay, expired.append)
    expiry._loop = monkeypatch_clock  # type: ignore[assignment]  # it has what timers need
    return expiry


def test_each_member_falls_due_when_it_is_old_enough_and_one_timer_is_enough() -> None:
    clock, expired = Clock(), list[str]()
    expiry = made(clock, expired)
    expiry.add("a")
    clock.advance(4)
    expiry.add("b")
    assert len(clock.timers) == 1
    clock.advance(6)
    assert expired == ["a"]
    assert len(clock.timers) == 1
    clock.advance(4)
    assert expired == ["a", "b"]
    assert clock.timers == []


def test_a_member_that_is_added_again_is_the_youngest() -> None:
    clock, expired = Clock(), list[str]()
    expiry = made(clock, expired)
    expiry.add("a")
    expiry.add("b")
    clock.advance(5)
    expiry.add("a")
    assert list(expiry) == ["b", "a"]
    clock.advance(5)
    assert expired == ["b"]
    clock.advance(5)
    assert expired == ["b", "a"]


def test_what_was_discarded_or_taken_out_does_not_fall_due() -> None:
    clock, expired = Clock(), list[str]()
    expiry = made(clock, expired)
    for name in "abc":
        expiry.add(name)
    expiry.discard("b")
    assert expiry.pop_oldest() == "a"
    clock.advance(100)
    assert expired == ["c"]
    assert expiry.pop_oldest() is None


async def test_what_is_cleared_leaves_no_timer() -> None:
    expired = list[str]()
    expiry = Expiry[str](0.001, expired.append)
    expiry.add("a")
    expiry.clear()
    await asyncio.sleep(0.01)
    assert expired == []
    expiry.add("b")
    await until(lambda: expired, "the entry to expire")
    assert len(expiry) == 0
