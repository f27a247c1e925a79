"""Waiting for a condition, with and without an event loop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from tests.doubles.until import until, wait_until


def counter() -> Callable[[], int]:
    return count().__next__


async def counted(numbers: Callable[[], int]) -> int:
    return numbers()


async def test_it_returns_what_it_saw_when_the_condition_held() -> None:
    numbers = counter()
    assert await until(numbers, holds=lambda value: value > 30) == 31
    assert await until(lambda: counted(numbers)) == 32
    assert wait_until(numbers, holds=lambda value: value > 34) == 35


async def test_it_fails_with_what_was_waited_for_and_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"^waited 0 s for a miracle; saw 0 last$"):
        await until(lambda: 0, "a miracle", timeout=0)
    with pytest.raises(AssertionError, match=r"^waited 0 s for a miracle; saw 0 last$"):
        wait_until(lambda: 0, "a miracle", timeout=0)


async def test_an_error_of_the_condition_ends_the_wait() -> None:
    def broken() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until(broken)
