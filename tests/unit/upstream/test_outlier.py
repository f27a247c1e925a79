"""Which endpoints are ejected, for how long, and which never."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy import errors
from streamproxy.config.model import Outlier
from streamproxy.exchange.exchange import Phase
from streamproxy.upstream import Endpoint
from streamproxy.upstream.outlier import Outliers, failed_by
from tests.unit.upstream.fakes import endpoint, new_exchange

SETTINGS = Outlier(consecutive_failures=3, eject_for=30.0, max_ejected_percent=50)


def fleet(count: int) -> list[Endpoint]:
    return [endpoint(f"e{number}") for number in range(count)]


def fail(outliers: Outliers, one: Endpoint, everyone: list[Endpoint], times: int, now: float = 0.0) -> float | None:
    """Fail so often; gives what the last failure came to."""
    seconds = None
    for _ in range(times):
        seconds = outliers.failed(one, everyone, now)
    return seconds


def test_failures_in_a_row_eject() -> None:
    everyone, outliers = fleet(2), Outliers(SETTINGS)
    assert [outliers.failed(everyone[0], everyone, 0.0) for _ in range(3)] == [None, None, 30.0]


def test_a_success_in_between_starts_the_count_again() -> None:
    everyone, outliers = fleet(2), Outliers(SETTINGS)
    assert fail(outliers, everyone[0], everyone, 2) is None
    outliers.succeeded(everyone[0])
    assert fail(outliers, everyone[0], everyone, 2) is None
    assert fail(outliers, everyone[0], everyone, 1) == 30.0


def test_ejections_double_up_to_ten_times() -> None:
    everyone, outliers = fleet(2), Outliers(SETTINGS)
    now, times = 0.0, []
    fail(outliers, everyone[0], everyone, 2)
    for _ in range(6):
        seconds = fail(outliers, everyone[0], everyone, 1, now)  # still in a row: one chance
        assert seconds is not None
        times.append(seconds)
        now += seconds
    assert times == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_earlier_ejections_are_forgotten_after_a_long_good_time() -> None:
    everyone, outliers = fleet(2), Outliers(SETTINGS)
    assert fail(outliers, everyone[0], everyone, 3, 0.0) == 30.0
    assert fail(outliers, everyone[0], everyone, 1, 30.0) == 60.0
    assert fail(outliers, everyone[0], everyone, 1, 90.0 + 300.0) == 30.0


def test_the_last_endpoint_is_never_ejected() -> None:
    one = fleet(1)
    assert fail(Outliers(SETTINGS.model_copy(update={"max_ejected_percent": 100})), one[0], one, 50) is None


def test_the_last_one_that_is_healthy_is_never_ejected() -> None:
    everyone = fleet(3)
    everyone[1].healthy = everyone[2].healthy = False
    assert fail(Outliers(SETTINGS), everyone[0], everyone, 50) is None


@given(st.integers(1, 9), st.integers(1, 100), st.lists(st.integers(0, 8), max_size=80))
def test_never_all_and_never_more_than_the_percentage(count: int, percent: int, failing: list[int]) -> None:
    everyone, outliers = (
        fleet(count),
        Outliers(Outlier(consecutive_failures=1, eject_for=30.0, max_ejected_percent=percent)),
    )
    for place in failing:
        one = everyone[place % count]
        if outliers.failed(one, everyone, 0.0) is not None:
            assert not one.ejected
            one.ejected = True
    ejected = sum(one.ejected for one in everyone)
    assert ejected < count
    assert ejected * 100 <= percent * count


def test_a_refused_ejection_is_asked_for_again() -> None:
    everyone, outliers = fleet(2), Outliers(SETTINGS)
    everyone[1].ejected = True
    assert fail(outliers, everyone[0], everyone, 5) is None
    everyone[1].ejected = False
    assert fail(outliers, everyone[0], everyone, 1) == 30.0


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (errors.ConnectionRefused(), True),
        (errors.ConnectTimeout(), True),
        (errors.TlsFailed(), True),
        (errors.ConnectionTerminated(), True),
        (errors.BadResponse(), True),
        (errors.ResponseIncomplete(), True),
        (errors.ReadTimeout(), False),
        (errors.ClientDisconnected(), False),
        (errors.WriteTimeout(), False),
        (errors.LimitReached(), False),
        (errors.BodyTooLarge(), False),
        (ValueError(), False),
    ],
)
async def test_only_what_is_the_endpoints_fault_counts(error: Exception, blamed: bool) -> None:
    assert failed_by(error, new_exchange()) is blamed


@pytest.mark.parametrize(
    ("reason", "phase", "blamed"),
    [
        (errors.HeadTimeout(), "head", True),
        (errors.HeadTimeout(), "request", False),  # `total` passed while the client was still sending
        (errors.HeadTimeout(), "connect", False),
        (errors.ReadTimeout(), "body", False),
        (errors.ClientDisconnected(), "head", False),
        (errors.ClientDisconnected(), "body", False),
        (errors.StoppedByOperator(), "body", False),
        (None, "head", False),
    ],
)
async def test_a_cancelled_attempt_is_judged_by_why(
    reason: errors.ExchangeError | None, phase: Phase, blamed: bool
) -> None:
    exchange = new_exchange()
    exchange.interruption, exchange.phase = reason, phase
    assert failed_by(asyncio.CancelledError(), exchange) is blamed
