"""Which endpoints are available, and what becomes of those that are not."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.config.model import Outlier
from streamproxy.upstream import Endpoint
from streamproxy.upstream.endpoint import SLOW_START
from streamproxy.upstream.roster import Roster
from tests.doubles.clock import Clock
from tests.doubles.until import until
from tests.unit.upstream.fakes import client_of, endpoint

SETTINGS = Outlier(consecutive_failures=2, eject_for=0.02, max_ejected_percent=50)


async def test_an_unhealthy_endpoint_is_not_available_and_comes_back(clock: Clock) -> None:
    a, b = endpoint("a"), endpoint("b")
    roster = Roster("u", [a, b], clock=clock)
    assert (roster.available, roster.only) == ([a, b], None)
    roster.judge(a, False, "status 500")
    assert (roster.available, roster.only, a.up) == ([b], b, False)
    roster.judge(b, False, "no answer")
    assert (roster.available, roster.only) == ([], None)
    roster.judge(a, True, "good")
    assert roster.only is a


async def test_every_change_is_logged_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    a = endpoint("a")
    roster = Roster("u", [a], clock=clock)
    for healthy in (True, False, False, True):
        roster.judge(a, healthy, "status 500")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "upstream u: endpoint http://a is unhealthy: status 500"
    ]


async def test_an_endpoint_that_came_back_starts_slowly(clock: Clock) -> None:
    a, b = endpoint("a", weight=4), endpoint("b")
    roster = Roster("u", [a, b], clock=clock)
    roster.judge(a, False, "bad")
    roster.judge(a, True, "good")
    shares = []
    for _ in range(5):
        roster.fresh()
        shares.append(a.share)
        clock.advance(SLOW_START / 4)
    assert shares == [0.4, 1.0, 2.0, 3.0, 4.0]
    assert b.share == 1.0


async def test_an_ejected_endpoint_comes_back_by_itself() -> None:
    a, b = endpoint("a"), endpoint("b")
    roster = Roster("u", [a, b], SETTINGS)
    roster.failed(a)
    assert a.up
    roster.failed(a)
    assert (roster.available, a.up) == ([b], False)
    await until(lambda: a.up)
    assert roster.available == [a, b]
    assert a.share < 1.0
    await roster.aclose()


async def test_an_endpoint_is_up_only_when_probes_and_requests_agree() -> None:
    a, b = endpoint("a"), endpoint("b")
    roster = Roster("u", [a, b], SETTINGS.model_copy(update={"eject_for": 60.0}))
    roster.judge(a, False, "bad")
    roster.judge(a, True, "good")
    for _ in range(2):
        roster.failed(a)
    assert not a.up
    roster.judge(a, False, "bad")
    roster.judge(a, True, "good")
    assert not a.up
    await roster.aclose()


async def test_a_removed_endpoint_ends_what_it_began_and_is_closed_then() -> None:
    a, b = endpoint("a"), endpoint("b")
    roster = Roster("u", [a], SETTINGS)
    a.streams = 2
    roster.replace([a], [b], slowly=True)
    assert (roster.endpoints, roster.only) == ([b], b)
    assert b.share < 1.0
    a.streams = 1
    roster.ended(a)
    await asyncio.sleep(0)
    assert client_of(a).log == []
    a.streams = 0
    roster.ended(a)
    roster.ended(a)
    await asyncio.sleep(0)
    assert client_of(a).log == ["closed"]
    await roster.aclose()
    assert client_of(a).log == client_of(b).log == ["closed"]


async def test_closing_ends_timers_and_leaving_endpoints_too() -> None:
    a, b, c = endpoint("a"), endpoint("b"), endpoint("c")
    roster = Roster("u", [a, b], SETTINGS.model_copy(update={"eject_for": 60.0}))
    roster.failed(a)
    roster.failed(a)
    b.streams = 1
    roster.replace([b], [c], slowly=False)
    await roster.aclose()
    assert [client_of(one).log for one in (a, b, c)] == [["closed"]] * 3
    assert roster._ejections == {}


STEPS = st.lists(
    st.tuples(st.sampled_from(["good", "bad", "fail", "succeed", "begin", "end", "leave", "join"]), st.integers(0, 9)),
    max_size=60,
)


@given(STEPS, st.sampled_from([30, 50, 100]))
def test_whatever_happens_the_available_are_those_that_are_up_and_ejection_leaves_one(
    steps: list[tuple[str, int]], percent: int
) -> None:
    async def scenario() -> None:
        everyone = [endpoint(f"e{number}") for number in range(3)]
        roster = Roster(
            "u", everyone, Outlier(consecutive_failures=1, eject_for=60.0, max_ejected_percent=percent), clock=Clock()
        )
        for step, number in steps:
            one = everyone[number % len(everyone)]
            there, up_before = one in roster.endpoints, len(roster.available)
            if step in ("good", "bad") and there:
                roster.judge(one, step == "good", "told so")
            elif step == "fail":
                roster.failed(one)
                assert not (up_before and not roster.available), "an ejection left nothing"
            elif step == "succeed":
                roster.succeeded(one)
            elif step == "begin" and there:
                one.streams += 1
            elif step == "end" and one.streams:
                one.streams -= 1
                roster.ended(one)
            elif step == "leave" and there:
                roster.replace([one], [], slowly=True)
            elif step == "join":
                everyone.append(endpoint(f"e{len(everyone)}"))
                roster.replace([], everyone[-1:], slowly=True)
            await asyncio.sleep(0)
            check(roster, everyone)
        await roster.aclose()
        assert [client_of(one).log for one in everyone] == [["closed"]] * len(everyone)

    def check(roster: Roster, everyone: list[Endpoint]) -> None:
        assert roster.available == [one for one in roster.endpoints if one.healthy and not one.ejected]
        assert roster.only is (roster.available[0] if len(roster.available) == 1 else None)
        for one in roster.fresh():
            assert 0.0 < one.share <= one.weight
        for one in everyone:
            closed = client_of(one).log == ["closed"]
            assert closed == (one not in roster.endpoints and not one.streams), one

    asyncio.run(scenario())
