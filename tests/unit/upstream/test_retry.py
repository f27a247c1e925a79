"""When a failed attempt is followed by another."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy import errors
from streamproxy.config.model import Retry
from streamproxy.upstream.retry import Budget, decide, kind_of, pause, repeatable, retry_after
from streamproxy.wire.headers import Headers

SETTINGS = Retry(attempts=3, backoff=0.1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ConnectionRefused(), "connect"),
        (errors.ConnectTimeout(), "connect"),
        (errors.DnsFailed(), "connect"),
        (errors.TlsFailed(), "connect"),
        (errors.ConnectionTerminated(), "reset"),
        (errors.BadResponse(), None),
        (errors.HeadTimeout(), None),
        (errors.ResponseIncomplete(), None),
    ],
)
def test_an_error_is_what_the_file_calls_it(error: errors.ExchangeError, kind: str | None) -> None:
    assert kind_of(error) == kind


@pytest.mark.parametrize(
    ("failure", "sent", "may_repeat", "again"),
    [
        ("connect", False, False, True),  # nothing was sent: any method
        ("reset", True, False, False),
        ("reset", True, True, True),
        ("503", True, False, False),
        ("503", True, True, True),
        ("500", True, True, False),
        ("200", True, True, False),
    ],
)
def test_the_rules_of_another_attempt(failure: str, sent: bool, may_repeat: bool, again: bool) -> None:
    assert decide(SETTINGS, failure=failure, sent=sent, repeatable=may_repeat) is again


@given(st.sampled_from(["connect", "reset", "502", "503", "504", "200"]), st.booleans())
def test_what_was_sent_and_must_not_happen_twice_never_does(failure: str, other: bool) -> None:
    assert not decide(SETTINGS, failure=failure, sent=True, repeatable=False)
    only = SETTINGS.model_copy(update={"on": ("connect",)})
    assert not decide(only, failure="503", sent=other, repeatable=True)


@pytest.mark.parametrize(
    ("method", "headers", "allowed", "expected"),
    [
        ("GET", [], False, True),
        ("PUT", [], False, True),
        ("DELETE", [], False, True),
        ("POST", [], False, False),
        ("PATCH", [], False, False),
        ("POST", [], True, True),
        ("POST", [(b"idempotency-key", b"k")], False, True),
    ],
)
def test_who_may_be_repeated(method: str, headers: Headers, allowed: bool, expected: bool) -> None:
    assert repeatable(method, headers, SETTINGS.model_copy(update={"non_idempotent": allowed})) is expected


@given(st.integers(1, 20), st.floats(0, 0.999), st.none() | st.floats(0, 1e6))
def test_a_pause_keeps_its_bound(attempt: int, drawn: float, asked: float | None) -> None:
    wait = pause(SETTINGS, attempt, asked, lambda: drawn)
    assert 0.0 <= wait <= 1.0
    if asked is not None:
        assert wait >= min(asked, 1.0)
    else:
        assert wait <= 0.1 * 2 ** (attempt - 1)


NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"Retry-After", b"7")], 7.0),
        ([(b"retry-after", b"Thu, 01 Jan 2026 12:00:05 GMT")], 5.0),
        ([(b"retry-after", b"Thu, 01 Jan 2026 11:00:00 GMT")], 0.0),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"-3")], None),
        ([(b"retry-after", b"9" * 400)], None),
        ([(b"retry-after", b"\xb2")], None),
        ([(b"retry-after", b"Thu, 01 Jan 99999999999999999999 12:00:00 GMT")], None),
        ([(b"retry-after", b"Thu, 01 Jan 2026 12:00:00 +99999999999999999999")], None),
        ([(b"retry-after", b"Thu, 01 Jan 2026 12:00:00 +9999")], None),
    ],
)
def test_retry_after_is_read_in_both_forms(headers: Headers, seconds: float | None) -> None:
    assert retry_after(headers, NOON) == seconds


def spend_all(budget: Budget, now: float) -> int:
    spent = 0
    while budget.spend(now):
        spent += 1
    return spent


def test_a_quiet_upstream_may_still_be_asked_again_a_few_times() -> None:
    assert spend_all(Budget(floor=3.0, window=10), 5.0) == 30


def test_retries_are_a_fifth_of_the_requests() -> None:
    budget = Budget(ratio=0.2, floor=3.0, window=10)
    for number in range(5000):
        budget.request(100.0 + number / 500)
    assert spend_all(budget, 109.9) == 1000


def test_the_budget_comes_back_as_the_window_slides() -> None:
    budget = Budget(floor=3.0, window=10)
    assert spend_all(budget, 50.0) == 30
    assert spend_all(budget, 59.9) == 0
    assert spend_all(budget, 60.0) == 30


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200))
def test_retries_never_exceed_the_budget_of_any_window(steps: list[tuple[bool, float]]) -> None:
    budget, now = Budget(ratio=0.2, floor=0.5, window=4), 1000.0
    requests: list[float] = []
    retries: list[float] = []
    for is_request, passed in steps:
        now += passed
        if is_request:
            budget.request(now)
            requests.append(now)
        elif budget.spend(now):
            retries.append(now)
        begin = int(now) - 3
        recent = [sum(1 for when in times if when >= begin) for times in (requests, retries)]
        # The window holds its retries at the most that it ever allowed while they were taken.
        assert recent[1] <= max(0.2 * len(requests), 2.0)
