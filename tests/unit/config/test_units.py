from __future__ import annotations

import pytest

from streamproxy.config.units import Rate, count, duration, is_off, rate, size, switch


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("3ms", 0.003),
        ("15s", 15.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        (5, 5.0),
        (0.1, 0.1),
    ],
)
def test_a_duration_is_seconds(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5x", "5 s", "-1s", "1m30s", "s", "1e3", "inf", "nan", "1d", "5S", True, None, []]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize("number", [-1, -0.5, float("inf"), float("nan")])
def test_a_duration_is_a_finite_number_of_at_least_zero(number: float) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(number)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("64KiB", 65536),
        ("10MiB", 10 * 1024**2),
        ("1GiB", 1024**3),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1MB", 10**6),
        ("1GB", 10**9),
        ("12B", 12),
        ("4096", 4096),
        ("1.5KiB", 1536),
        (4096, 4096),
        (0, 0),
    ],
)
def test_a_size_is_bytes(text: object, total: int) -> None:
    assert size(text) == total


@pytest.mark.parametrize("text", ["", "64k", "64 KiB", "-1", "1.5B", "1.0001KiB", "KiB", "1TB", "64kib", True, None])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        size(text)


@pytest.mark.parametrize("text", ["off", "Off", "OFF", "false", "no", "null", "~", False, None])
def test_off_has_the_spellings_of_yaml(text: object) -> None:
    assert is_off(text)


@pytest.mark.parametrize("text", ["", "0", 0, "on", "none", [], {}])
def test_nothing_else_is_off(text: object) -> None:
    assert not is_off(text)


def test_a_switch_is_on_or_off() -> None:
    assert [switch(text) for text in ("on", "On", "true", "yes", True)] == [True] * 5
    assert [switch(text) for text in ("off", "OFF", "false", "no", False)] == [False] * 5


@pytest.mark.parametrize("text", ["", "1", "maybe", 1, 0, None])
def test_what_is_no_switch_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write on or off"):
        switch(text)


def test_a_count_is_a_whole_number() -> None:
    assert [count(text) for text in ("0", "12", "10_000", 7)] == [0, 12, 10000, 7]


@pytest.mark.parametrize("text", ["", "-1", "1.0", "0x10", "1_", "²", True, None])
def test_what_is_no_count_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        count(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100/1m", Rate(100, 60.0)),
        ("10/s", Rate(10, 1.0)),
        ("1/m", Rate(1, 60.0)),
        ("1000000/1h", Rate(1_000_000, 3600.0)),
        ("5/250ms", Rate(5, 0.25)),
        ("3/1.5s", Rate(3, 1.5)),
        ("60/60", Rate(60, 60.0)),
        ("1/24h", Rate(1, 86_400.0)),
        (Rate(7, 2.0), Rate(7, 2.0)),
    ],
)
def test_a_rate_is_a_count_and_a_period(text: object, expected: Rate) -> None:
    assert rate(text) == expected
    assert rate(str(rate(text))) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "100/", "/1m", "100/1d", "100 / 1m", "-1/1m", "1.5/1m", "1e3/1m", "100/1m/2", "0/1m", "1/0s"),
        *("1/25h", 100, 1.5, True, None, [], "1" * 16 + "/s", "²/s"),
    ],
)
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        rate(text)
