"""What the ledger promises to those who observe it."""

from __future__ import annotations

import logging
from unittest import mock

import pytest

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from tests.unit.observe.exchanges import new_exchange


def test_an_observer_hears_of_each_end_once() -> None:
    ledger = Ledger()
    heard: list[str] = []
    ledger.observers.append(lambda exchange: heard.append(exchange.id))
    exchange = new_exchange()
    ledger.open(exchange)
    ledger.close(exchange)
    ledger.close(exchange)
    assert heard == ["id-1"]
    assert ledger.live == {}


def test_a_fault_of_one_observer_does_not_keep_the_end_from_the_others() -> None:
    def broken(exchange: Exchange) -> None:
        raise KeyError("boom")

    ledger = Ledger()
    heard: list[str] = []
    ledger.observers += [broken, lambda exchange: heard.append(exchange.id)]
    exchange = new_exchange()
    ledger.open(exchange)
    with mock.patch.object(logging.getLogger("streamproxy.exchange"), "exception") as logged:
        ledger.close(exchange)
    assert heard == ["id-1"]
    assert logged.call_args.args[1] == "id-1"


@pytest.mark.parametrize("request_id", [".", ".."])
def test_an_id_that_a_url_cannot_name_is_replaced(request_id: str) -> None:
    ledger = Ledger()
    exchange = new_exchange()
    exchange.id = exchange.request_id = request_id
    ledger.open(exchange)
    assert exchange.id not in (".", "..")
    assert ledger.live == {exchange.id: exchange}
    assert exchange.request_id == request_id
