"""The steps of a drain, without sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from streamproxy.errors import StoppedByShutdown
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.process import drain as steps
from streamproxy.process.drain import Stop, drain
from tests.doubles.until import until


class Engine:
    """Notes when it was told to drain."""

    def __init__(self) -> None:
        self.drained = asyncio.Event()

    def drain(self) -> None:
        self.drained.set()


class App:
    """What a drain needs of the application."""

    def __init__(self) -> None:
        self.draining = False
        self.ledger = Ledger()

    def begin(self, tracker: Position | None = None) -> Exchange:
        """An exchange that runs until it is interrupted, or its task cancelled."""
        exchange = Exchange(request_id="x", route="r", upstream="u", method="GET", path="/")
        exchange.inspector = tracker
        self.ledger.open(exchange)
        exchange.task = asyncio.get_running_loop().create_task(self._run(exchange))
        return exchange

    async def _run(self, exchange: Exchange) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            exchange.error = exchange.interruption
            self.ledger.close(exchange)


@dataclass
class Position:
    """Where an event stream stands."""

    between_events: bool


@dataclass
class Parts:
    """A drain and all it works with."""

    app: App
    engine: Engine
    stop: Stop

    async def drain(self, *, delay: float = 0.0, timeout: float | None = 0.0) -> None:
        self.stop.on_signal()
        async with asyncio.timeout(10):
            await drain(self.app, self.engine, self.stop, delay=delay, timeout=timeout)


@pytest.fixture
def parts() -> Parts:
    return Parts(App(), Engine(), Stop())


async def test_the_first_signal_begins_and_the_second_hurries() -> None:
    stop = Stop()
    stop.on_signal()
    assert (stop.begun.is_set(), stop.at_once.is_set()) == (True, False)
    stop.on_signal()
    assert stop.at_once.is_set()


async def test_it_is_not_ready_at_once_and_accepts_through_the_delay(parts: Parts) -> None:
    draining = asyncio.get_running_loop().create_task(parts.drain(delay=3600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert parts.app.draining
    assert not parts.engine.drained.is_set()
    parts.stop.on_signal()
    await draining
    assert parts.engine.drained.is_set()


async def test_it_ends_with_the_last_exchange(parts: Parts) -> None:
    exchange = parts.app.begin()
    draining = asyncio.get_running_loop().create_task(parts.drain(timeout=None))
    await parts.engine.drained.wait()
    assert not draining.done()
    assert exchange.task is not None
    exchange.task.cancel()
    await draining
    assert exchange.interruption is None


async def test_what_outlives_the_timeout_is_ended(parts: Parts) -> None:
    exchanges = [parts.app.begin() for _ in range(3)]
    await parts.drain(timeout=0.01)
    assert [type(exchange.error) for exchange in exchanges] == [StoppedByShutdown] * 3


async def test_a_stream_inside_an_event_has_a_moment_and_others_have_none(parts: Parts) -> None:
    inside, between = parts.app.begin(Position(False)), parts.app.begin(Position(True))
    draining = asyncio.get_running_loop().create_task(parts.drain())
    await until(lambda: between.error is not None)
    assert inside.interruption is None
    inside.inspector = Position(True)
    await draining
    assert isinstance(inside.error, StoppedByShutdown)


async def test_the_moment_is_over_when_it_is_over(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MOMENT", 0.03)
    inside = parts.app.begin(Position(False))
    await parts.drain()
    assert isinstance(inside.error, StoppedByShutdown)


async def test_the_second_signal_waits_for_no_event(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MOMENT", 3600.0)
    inside = parts.app.begin(Position(False))
    draining = asyncio.get_running_loop().create_task(parts.drain(timeout=None))
    await parts.engine.drained.wait()
    parts.stop.on_signal()
    await draining
    assert isinstance(inside.error, StoppedByShutdown)


async def test_a_stream_that_ends_by_itself_meanwhile_is_left_alone(parts: Parts) -> None:
    inside = parts.app.begin(Position(False))
    draining = asyncio.get_running_loop().create_task(parts.drain())
    await parts.engine.drained.wait()
    assert inside.task is not None
    inside.task.cancel()
    await draining
    assert inside.interruption is None
