"""The order in which a process starts, serves and ends, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import socket

import pytest

from streamproxy.process.drain import Stop
from streamproxy.process.lifecycle import Lifecycle, Main, StartFailed
from tests.unit.admin.proxy import SeenProxy

WHOLE = ["start", "accepting", "leaving", "drain", "stop", "gone"]


class Steps(Main):
    """Writes down its steps; ``fails`` names the one that goes wrong."""

    def __init__(self, fails: str = "", error: BaseException | None = None) -> None:
        self.taken: list[str] = []
        self.fails = fails
        self.error = error or StartFailed("a worker ended while it started")

    def take(self, step: str) -> None:
        self.taken.append(step)
        if step == self.fails:
            raise self.error

    @property
    def listeners(self) -> list[socket.socket]:
        return []

    async def start(self) -> None:
        self.take("start")

    async def drain(self, stop: Stop) -> None:
        self.take("drain")

    async def stop(self) -> None:
        self.take("stop")


class Recorded(Lifecycle):
    def __init__(self, stop: Stop, control: SeenProxy, steps: Steps) -> None:
        super().__init__(stop, control, steps)
        self.steps = steps

    async def _accepting(self) -> None:
        self.steps.take("accepting")

    async def _leaving(self) -> None:
        self.steps.take("leaving")

    async def _gone(self) -> None:
        self.steps.take("gone")


async def test_each_step_is_taken_once_and_in_order() -> None:
    stop, control, steps = Stop(), SeenProxy(), Steps()
    running = asyncio.create_task(Recorded(stop, control, steps).run())
    await asyncio.sleep(0)
    assert (steps.taken, control.ready()) == (["start", "accepting"], [])
    stop.begun.set()
    await running
    assert steps.taken == WHOLE
    assert control.ready() == ["draining"]


async def test_a_process_that_was_taken_over_is_not_shown_as_draining() -> None:
    stop, control = Stop(), SeenProxy()
    stop.succeeded()
    await Recorded(stop, control, Steps()).run()
    assert control.ready() == []


async def test_a_start_that_fails_is_an_error_and_what_has_begun_is_ended() -> None:
    steps = Steps("start")
    with pytest.raises(StartFailed):
        await Recorded(Stop(), SeenProxy(), steps).run()
    assert steps.taken == ["start", "stop", "gone"]


async def test_a_start_that_a_signal_has_ended_is_no_failure() -> None:
    stop, steps = Stop(), Steps("start")
    stop.on_signal()
    await Recorded(stop, SeenProxy(), steps).run()
    assert steps.taken == ["start", "drain", "stop", "gone"]


@pytest.mark.parametrize(
    ("step", "taken"),
    [
        ("accepting", ["start", "accepting", "leaving", "stop", "gone"]),
        ("leaving", ["start", "accepting", "leaving", "stop", "gone"]),
        ("drain", WHOLE),
    ],
)
async def test_an_error_leaves_no_step_out_that_ends_something(step: str, taken: list[str]) -> None:
    stop, steps = Stop(), Steps(step, OSError("no more"))
    stop.begun.set()
    with pytest.raises(OSError, match="no more"):
        await Recorded(stop, SeenProxy(), steps).run()
    assert steps.taken == taken


async def test_a_process_that_is_cancelled_ends_in_order_too() -> None:
    steps = Steps()
    running = asyncio.create_task(Recorded(Stop(), SeenProxy(), steps).run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert steps.taken == ["start", "accepting", "leaving", "stop", "gone"]
