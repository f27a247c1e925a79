"""What is remembered of the exchanges that have ended."""

from __future__ import annotations

import gc
import time
import weakref

from hypothesis import given
from hypothesis import strategies as st

from streamproxy import errors
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.ended import KEPT_COMPLETE, KEPT_OTHERS, Ended
from streamproxy.observe.json_line import encode
from tests.unit.observe.exchanges import finished, new_exchange, streaming


def ended(request_id: str, error: errors.ExchangeError | None = None) -> Exchange:
    exchange = new_exchange()
    exchange.id, exchange.error = request_id, error
    return exchange


def test_the_latest_end_comes_first_whatever_way_it_ended() -> None:
    kept = Ended()
    for name, error in (("a", None), ("b", errors.ReadTimeout()), ("c", None)):
        kept.observe(ended(name, error))
    rows = kept.newest(time.monotonic())
    assert [(row["id"], row["end"], row["error"]) for row in rows] == [
        ("c", "complete", None),
        ("b", "timeout", "connection_read_timeout"),
        ("a", "complete", None),
    ]
    assert len({row["number"] for row in rows}) == 3


def test_many_that_completed_do_not_push_out_the_one_that_did_not() -> None:
    kept = Ended()
    kept.observe(ended("bad", errors.ResponseIncomplete()))
    for number in range(1000):
        kept.observe(ended(f"good-{number}"))
    rows = kept.newest(time.monotonic())
    assert len(rows) == KEPT_COMPLETE + 1
    assert rows[-1]["id"] == "bad"


def test_no_more_is_kept_than_fits() -> None:
    kept = Ended()
    for number in range(1000):
        kept.observe(ended(f"bad-{number}", errors.ClientDisconnected()))
    assert len(kept.newest(time.monotonic())) == KEPT_OTHERS
    assert kept.counts == {"client_disconnect": 1000}


def test_neither_the_exchange_nor_its_error_is_kept_alive() -> None:
    class Marked(errors.InternalError):
        pass

    kept = Ended()
    error = Marked()
    alive = weakref.ref(error)
    kept.observe(ended("a", error))
    del error
    gc.collect()
    assert alive() is None
    assert kept.newest(time.monotonic())[0]["error"] == "proxy_internal_error"


def test_a_row_has_the_values_of_the_access_log() -> None:
    exchange = streaming(new_exchange())
    exchange.query = b"token=SECRET"
    exchange.error = errors.StoppedByOperator()
    kept = Ended()
    kept.observe(exchange)
    (row,) = kept.newest(time.monotonic() + 5)
    assert row["path"] == "/v1/x?token=***"
    assert (row["status"], row["ttfb_ms"], row["response_bytes"], row["events"]) == (200, 2500.0, 3000, 2)
    assert (row["end"], row["phase"], row["time"]) == ("cancelled", "body", "2023-11-14T22:13:20.250Z")
    assert 5 <= row["ago"] < 6


@given(st.lists(finished(), max_size=5))
def test_whatever_ended_can_be_shown(exchanges: list[Exchange]) -> None:
    kept = Ended()
    for exchange in exchanges:
        kept.observe(exchange)
    rows = kept.newest(time.monotonic())
    assert len(rows) == len(exchanges)
    assert encode(rows).isascii()
