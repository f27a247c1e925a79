"""The first chunks of a model's stream are read after they were written, and before anybody asks what they said."""

from __future__ import annotations

import asyncio
import logging

import pytest

from streamproxy.dialects.openai import OpenAIDialect
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import SharedTimer, TimeLimits, Timer
from streamproxy.formats.inspector import Inspector
from streamproxy.proxy.plan import RelayPlan
from streamproxy.proxy.reading import Reading

EVENT = b'data: {"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


def reading(inspector: Inspector | None = None, max_events: int | None = None) -> tuple[Reading, Exchange]:
    """What reads a stream of a model, and the exchange that it notes what it reads in."""
    exchange = Exchange("request", "route", "upstream", "POST", "/v1/chat/completions")
    exchange.streaming = True
    self = Reading()
    self._exchange = exchange
    self._inspector = exchange.inspector = inspector or OpenAIDialect().inspector(200, b"text/event-stream", False)
    self._plan = RelayPlan(None, ndjson=False, anti_buffering=False, error_event=False, max_events=max_events)
    limits = TimeLimits()
    self._timer = Timer(limits, exchange, SharedTimer(limits))
    self._reads, self._noted, self._unread, self._over = True, -1, b"", False
    return self, exchange


async def test_an_event_is_read_in_the_next_turn_and_timed_by_when_it_came() -> None:
    self, exchange = reading()
    assert self._count(EVENT, 5.0) == EVENT
    assert (exchange.chunks, exchange.response_bytes, exchange.events) == (1, len(EVENT), 0)
    await asyncio.sleep(0)
    assert (exchange.events, exchange.model, exchange.first_event_at) == (1, "m", 5.0)
    assert exchange.catch_up is None


async def test_who_asks_the_inspector_meanwhile_finds_it_up_to_date() -> None:
    self, exchange = reading()
    self._count(EVENT[:-1], 5.0)
    inspector = exchange.inspected()
    assert inspector is not None
    assert not inspector.between_events
    self._count(b"\n", 6.0)
    inspector = exchange.inspected()
    assert inspector is not None
    assert inspector.between_events
    assert inspector.spoke
    await asyncio.sleep(0)
    assert exchange.events == 1  # nothing was read twice


async def test_chunks_are_read_in_order_however_fast_they_come() -> None:
    self, exchange = reading()
    for at in range(len(EVENT)):
        self._count(EVENT[at : at + 1], float(at + 1))
    self._count(EVENT, 1000.0)
    assert exchange.events == 2  # once it has spoken, a chunk is read at once
    assert exchange.first_event_at == len(EVENT)
    assert exchange.catch_up is None


async def test_a_stream_with_a_limit_of_events_is_read_before_it_passes() -> None:
    self, exchange = reading(max_events=1)
    assert self._count(EVENT + EVENT, 5.0) == EVENT
    assert self._over
    assert exchange.catch_up is None


async def test_an_inspector_that_fails_afterwards_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Inspector):
        def feed(self, chunk: bytes) -> None:
            raise RuntimeError("on purpose")

    self, exchange = reading(Failing())
    assert self._count(EVENT, 5.0) == EVENT
    with caplog.at_level(logging.CRITICAL, "streamproxy.proxy"):
        await asyncio.sleep(0)
    assert exchange.inspector is None
    assert self._count(EVENT, 6.0) == EVENT
    assert exchange.chunks == 2
