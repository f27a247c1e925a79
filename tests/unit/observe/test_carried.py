"""Totals and live exchanges that go from one process to another as JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import UpstreamReportedError
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.histogram import TOKENS, Histogram
from streamproxy.exchange.ledger import Ledger
from streamproxy.formats.inspector import Usage
from streamproxy.observe.access_log import record
from streamproxy.observe.carried import attributes, pack, pack_exchange, unpack, unpack_exchange
from streamproxy.observe.metrics import Metrics
from streamproxy.observe.series import GenAi, Series, Totals
from tests.unit.observe.exchanges import new_exchange, step, streaming


def counted() -> Totals:
    totals = Totals()
    totals.declare([("chat", "llm")])
    series = totals.series["chat", "llm"]
    series.active, series.response_bytes, series.backpressure = 3, 70, 0.5
    series.ttfb.observe(0.2)
    series.stream_bytes.observe(2000)
    totals.requests["chat", "POST", 200] = 9
    totals.disconnects["chat", "client", "body"] = 2
    totals.upstream_errors["chat", "llm", "dns_error"] = 1
    totals.reloads["ok"] = 4
    totals.endpoint(("llm", "http://a"), False, 7)
    totals.connections["llm", "idle"] = 5
    totals.genai["chat", "openai", "small"] = genai = GenAi()
    genai.duration.observe(1.5)
    genai.tokens["input"] = Histogram(TOKENS)
    genai.tokens["input"].observe(70_000_000_000)
    totals.count(("throttled", "chat", "tokens"), 6)
    totals.level(("shared_clients", "chat"), 2.0)
    return totals


def carried(data: dict[str, Any]) -> Totals:
    return unpack(json.loads(json.dumps(data)))


def test_every_number_arrives() -> None:
    totals = counted()
    assert pack(carried(pack(totals))) == pack(totals)
    # A slot that is added to the class can't be forgotten here.
    assert set(pack(totals)) == set(attributes(Totals))
    assert set(pack(totals)["series"][0][2]) == set(attributes(Series))


def test_what_another_version_counts_otherwise_is_dropped_and_the_rest_stays() -> None:
    data = pack(counted())
    data["later"] = [1]
    series = data["series"][0][2]
    series["later"] = 3
    series["ttfb"]["bounds"] = [1.0, 2.0]
    del series["events"]
    got = carried(data).series["chat", "llm"]
    assert (got.response_bytes, got.events, got.ttfb.sum, got.stream_bytes.sum) == (70, 0, 0.0, 2000.0)
    assert unpack({}).series == {}


@pytest.mark.parametrize("data", [{"series": 1}, {"series": [["a", "b"]]}, {"requests": [["a", "b", 200, "many"]]}])
def test_what_is_no_totals_is_an_error(data: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        unpack(data)


def test_the_numbers_of_the_process_before_count_once_and_stay_when_it_is_gone() -> None:
    metrics = Metrics(Ledger(), lambda: (), engine="uvicorn")
    for _ in range(2):
        metrics.inherit(counted())
        totals = metrics.snapshot()
        assert totals.requests["chat", "POST", 200] == 9
        assert totals.series["chat", "llm"].active == 3
        assert totals.endpoints
    metrics.settle_inherited()
    totals = metrics.snapshot()
    assert (totals.requests["chat", "POST", 200], totals.series["chat", "llm"].active) == (9, 0)
    assert totals.endpoints == {}


@given(st.integers(0, 20), st.integers())
def test_a_live_exchange_looks_the_same_at_the_other_end(steps: int, seed: int) -> None:
    dice, exchange = random.Random(seed), streaming(new_exchange())
    for _ in range(steps):
        step(exchange, dice)
    exchange.query, exchange.principal, exchange.stream = b"key=\xff", "token:ann", "name"
    exchange.usage = dice.choice((None, Usage(input=3, reasoning=1)))
    exchange.failure = dice.choice((None, UpstreamReportedError("overloaded")))
    mirror = Exchange("", "", "", "", "")
    unpack_exchange(json.loads(json.dumps(pack_exchange(exchange))), mirror)
    assert record(mirror, 1e6, live=True) == record(exchange, 1e6, live=True)
