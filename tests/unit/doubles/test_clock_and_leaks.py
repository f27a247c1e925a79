"""The clock turned by hand, and the check for leaks."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.doubles import leaks as leaks_module
from tests.doubles.clock import Clock
from tests.doubles.leaks import LeakCheck


def test_time_stands_still_until_the_clock_is_turned(clock: Clock) -> None:
    before = clock()
    assert clock() == before
    clock.advance(2.5)
    assert clock() == clock.time() == before + 2.5


def test_timers_run_in_order_and_each_at_its_own_time(clock: Clock) -> None:
    calls: list[tuple[str, float]] = []
    start = clock()
    clock.call_later(2, lambda: calls.append(("second", clock())))
    clock.call_at(start + 1, lambda: calls.append(("first", clock())))
    clock.call_later(3, calls.append, ("never", 0.0)).cancel()
    clock.call_later(9, calls.append, ("later", 0.0))
    clock.advance(5)
    assert calls == [("first", start + 1), ("second", start + 2)]
    assert clock.timers == [start + 9]


def test_a_timer_that_arms_another_inside_the_turn_is_followed(clock: Clock) -> None:
    calls: list[float] = []

    def again() -> None:
        calls.append(clock())
        clock.call_later(1, again)

    clock.call_later(1, again)
    start = clock()
    clock.advance(3)
    assert calls == [start + 1, start + 2, start + 3]


async def test_what_goes_away_by_itself_is_no_leak() -> None:
    check = LeakCheck()
    going = asyncio.create_task(asyncio.sleep(0.02))
    await check.verify()
    assert going.done()


async def test_a_task_left_behind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks_module, "PATIENCE", 0.02)
    check = LeakCheck()
    task = asyncio.create_task(asyncio.Event().wait(), name="the forgotten one")
    with pytest.raises(AssertionError, match="the forgotten one"):
        await check.verify()
    task.cancel()
    await check.verify()


async def test_a_socket_left_behind_is_named_with_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks_module, "PATIENCE", 0.02)
    check = LeakCheck()
    server = socket.create_server(("127.0.0.1", 0))
    with server, pytest.raises(AssertionError, match=f"port {server.getsockname()[1]}"):
        await check.verify()
    await check.verify()


async def test_a_gauge_that_stays_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks_module, "PATIENCE", 0.02)
    check = LeakCheck()
    live = {"exchange": 1}
    check.gauge("live exchanges", lambda: live)
    with pytest.raises(AssertionError, match="live exchanges"):
        await check.verify()
    live.clear()
    await check.verify()
