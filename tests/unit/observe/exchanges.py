"""Exchanges as the observers may meet them, and a strategy for any of them."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from streamproxy import errors
from streamproxy.exchange.exchange import Exchange
from streamproxy.formats.inspector import Usage
from streamproxy.observe.series import PHASES

ROUTES = (("chat", "llm"), ("events", "clock"), ("files", "llm"))
ERRORS: tuple[errors.ExchangeError | None, ...] = (
    None,
    None,
    errors.ClientDisconnected(),
    errors.ConnectionTerminated(),
    errors.ResponseIncomplete(),
    errors.HeadTimeout(),
    errors.WriteTimeout(),
    errors.LimitReached(),
    errors.StoppedByOperator(),
    errors.InternalError(),
)


def new_exchange(*, route: str = "chat", upstream: str = "llm", method: str = "POST", path: str = "/v1/x") -> Exchange:
    """An exchange that has just begun, at 100 s of the clock."""
    exchange = Exchange(request_id="id-1", route=route, upstream=upstream, method=method, path=path)
    exchange.started_at = 100.0
    exchange.started_wall = 1_700_000_000.25
    exchange.client = "192.0.2.7"
    return exchange


def streaming(exchange: Exchange) -> Exchange:
    """Give an exchange a stream of three chunks: read after 1 s, sent after 2, head after 3, first byte after 3.5."""
    exchange.endpoint = "http://127.0.0.1:8000"
    exchange.request_read_at, exchange.sent_at = 101.0, 102.0
    exchange.head_at, exchange.first_byte_at = 103.0, 103.5
    exchange.phase, exchange.status, exchange.streaming = "body", 200, True
    exchange.request_bytes, exchange.response_bytes, exchange.chunks, exchange.events = 10, 3000, 3, 2
    exchange.keepalives, exchange.backpressure, exchange.retries = 4, 0.5, 2
    return exchange


def step(exchange: Exchange, dice: random.Random, now: float = 0.0) -> None:
    """Move an exchange on as the proxy might, at ``now`` or some time later: numbers grow, the phase only advances."""
    now = now or (exchange.last_read_at or exchange.started_at) + dice.randrange(1, 4000) / 16
    if exchange.phase == "queue" and not exchange.queued and dice.random() < 0.5:
        if exchange.queued_at:
            exchange.queued, exchange.queued_at = now - exchange.queued_at, 0.0
        else:
            exchange.queued_at = now
    place = PHASES.index(exchange.phase)
    if exchange.queued_at and not exchange.queued:
        return
    exchange.phase = PHASES[min(place + dice.randrange(2), len(PHASES) - 1)]
    if dice.random() < 0.7 and not exchange.request_read_at:
        exchange.request_read_at = now
    if exchange.phase in ("head", "body") and not exchange.sent_at and dice.random() < 0.7:
        exchange.sent_at = now
    exchange.request_bytes += dice.randrange(1000)
    if exchange.phase != "body":
        return
    exchange.status, exchange.streaming = exchange.status or 200, exchange.streaming or dice.random() < 0.5
    exchange.head_at = exchange.head_at or now
    if dice.random() < 0.7:
        exchange.first_byte_at = exchange.first_byte_at or now
        exchange.response_bytes += dice.randrange(100_000)
        exchange.chunks += 1
        exchange.events += dice.randrange(3)
        if exchange.streaming and exchange.last_read_at:
            exchange.count_gap(now - exchange.last_read_at)
        exchange.last_read_at = now
    exchange.keepalives += dice.randrange(2)
    exchange.retries += dice.randrange(2)
    exchange.backpressure, exchange.blocked_since = exchange.backpressure_until(now), 0.0
    if dice.random() < 0.3:
        exchange.blocked_since = now


@st.composite
def finished(draw: st.DrawFn) -> Exchange:
    """An exchange that ended anywhere, with anything that a client can send in it."""
    text = st.text(st.characters(), max_size=20)
    exchange = new_exchange(method=draw(text), path=draw(text))
    exchange.request_id, exchange.client, exchange.trace_id = draw(text), draw(text), draw(text)
    exchange.query = draw(st.binary(max_size=30))
    dice = draw(st.randoms(use_true_random=False))
    for _ in range(draw(st.integers(0, 12))):
        step(exchange, dice)
    exchange.error = draw(st.sampled_from(ERRORS))
    if draw(st.booleans()):
        exchange.settle((exchange.last_read_at or exchange.started_at) + 1.0)
    if draw(st.booleans()):
        exchange.protocol, exchange.attempts = draw(st.sampled_from(["", "HTTP/1.1"])), draw(st.integers(0, 3))
    if draw(st.booleans()):
        exchange.recognise("chat", "openai", draw(text))
        exchange.finish_reason, exchange.stream = draw(text), draw(text)
        exchange.usage = draw(st.sampled_from([None, Usage(), Usage(input=3, reasoning=0)]))
    return exchange
