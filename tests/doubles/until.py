"""Waiting for something to become true: the only place where tests poll.

A test never sleeps for as long as something "should take". It waits with `until` (or `wait_until` where there is no
event loop) for what it wants to see, and the time-out is only there so that a broken program fails with a message
instead of hanging. It is generous: a passing test never waits for it, however slow the machine is.

What must *not* happen has no moment to wait for. A test shows it with a clock that it turns by hand
(`tests.doubles.clock`), or with a barrier: something that is certain to come later, for example a second request.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

PATIENCE = 60.0  # seconds
STEP = 0.002  # seconds
TURNS = 20  # turns of the event loop that are tried first, without a pause
REST = 4  # times as long as a look took, up to `LONGEST`: one that is dear leaves the machine to what is waited for
LONGEST = 0.1  # seconds

T = TypeVar("T")


@overload
async def until(
    look: Callable[[], Awaitable[T]], what: str = ..., *, holds: Callable[[T], object] = ..., timeout: float = ...
) -> T: ...
@overload
async def until(
    look: Callable[[], T], what: str = ..., *, holds: Callable[[T], object] = ..., timeout: float = ...
) -> T: ...
async def until(
    look: Callable[[], Any], what: str = "", *, holds: Callable[[Any], object] = bool, timeout: float = PATIENCE
) -> Any:
    """Call ``look``, and await its result if it can be awaited, until ``holds(result)`` is true; return that result.

    After ``timeout`` seconds it raises an `AssertionError` that names ``what`` and what ``look`` returned last.
    """
    value: Any = None
    turns = 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            while True:
                began = loop.time()
                seen = look()
                value = await seen if inspect.isawaitable(seen) else seen
                if holds(value):
                    return value
                turns += 1
                took = loop.time() - began
                quick = turns < TURNS and took < STEP
                await asyncio.sleep(0 if quick else min(max(STEP, REST * took), LONGEST))
    except TimeoutError:
        raise AssertionError(_complaint(what, timeout, value)) from None


async def soon(attempt: Callable[[], Awaitable[float]], within: float, tries: int = 5) -> None:
    """Attempt something until it took at most ``within`` seconds, as it gives itself, ``tries`` times at most.

    For what is promised within a time: a machine that stands still in between may spoil an attempt, hardly all.
    """
    took = [await attempt()]
    while took[-1] > within and len(took) < tries:
        took.append(await attempt())
    assert took[-1] <= within, f"took {took} s, each longer than {within:g} s"


def wait_until(
    look: Callable[[], T], what: str = "", *, holds: Callable[[T], object] = bool, timeout: float = PATIENCE
) -> T:
    """`until` for code that runs without an event loop."""
    deadline = time.monotonic() + timeout
    while not holds(value := look()):
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(what, timeout, value))
        time.sleep(STEP)
    return value


def _complaint(what: str, timeout: float, value: object) -> str:
    return f"waited {timeout:g} s for {what or 'a condition'}; saw {value!r} last"
