"""Upstreams that a reload has dropped: closed with their last exchange, not before and not later."""

from __future__ import annotations

from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.upstream import Upstream
from streamproxy.upstream.retired import Retired
from tests.doubles.until import until
from tests.unit.upstream.fakes import FakeClient, endpoint, settings


def begin(ledger: Ledger, upstream: str) -> Exchange:
    exchange = Exchange(request_id="x", route="r", upstream=upstream, method="GET", path="/")
    ledger.open(exchange)
    return exchange


def build(name: str) -> tuple[Upstream, FakeClient]:
    one = endpoint(f"http://{name}")
    assert isinstance(one.client, FakeClient)
    return Upstream(name, [one], settings()), one.client


async def until_closed(client: FakeClient) -> None:
    await until(lambda: client.log == ["closed"])


async def retire_another(retired: Retired) -> None:
    """A barrier: what was to be closed before is closed when this one is."""
    upstream, client = build("another")
    retired.add([upstream])
    await until_closed(client)


async def test_an_upstream_without_exchanges_is_closed_at_once() -> None:
    ledger = Ledger()
    upstream, client = build("a")
    begin(ledger, "b")
    retired = Retired(ledger)
    retired.add([upstream])
    await until_closed(client)
    assert (len(retired), ledger.observers) == (0, [])


async def test_an_upstream_is_closed_with_the_last_exchange_that_was_live() -> None:
    ledger = Ledger()
    upstream, client = build("a")
    first, second = begin(ledger, "a"), begin(ledger, "a")
    retired = Retired(ledger)
    retired.add([upstream])
    later = begin(ledger, "a")  # under the configuration after it
    ledger.close(first)
    await retire_another(retired)
    assert client.log == []
    ledger.close(second)
    await until_closed(client)
    assert (len(retired), ledger.observers) == (0, [])
    ledger.close(later)


async def test_the_other_observers_hear_of_the_exchange_that_closes_an_upstream() -> None:
    ledger = Ledger()
    heard: list[Exchange] = []
    upstream, client = build("a")
    exchange = begin(ledger, "a")
    retired = Retired(ledger)
    retired.add([upstream])
    ledger.observers = [*ledger.observers, heard.append]
    ledger.close(exchange)
    await until_closed(client)
    assert (heard, ledger.observers) == ([exchange], [heard.append])


async def test_two_generations_of_a_name_are_closed_each_with_its_own() -> None:
    ledger = Ledger()
    retired = Retired(ledger)
    (first, first_client), (second, second_client) = build("a"), build("a")
    old = begin(ledger, "a")
    retired.add([first])
    new = begin(ledger, "a")
    retired.add([second])
    ledger.close(old)
    await until_closed(first_client)
    await retire_another(retired)
    # Who of the two an exchange uses is told by its name, so the second waits for both.
    assert second_client.log == []
    ledger.close(new)
    await until_closed(second_client)


async def test_at_the_end_all_are_closed() -> None:
    ledger = Ledger()
    upstream, client = build("a")
    begin(ledger, "a")
    retired = Retired(ledger)
    retired.add([upstream])
    await retired.aclose()
    assert (client.log, len(retired), ledger.observers) == (["closed"], 0, [])
