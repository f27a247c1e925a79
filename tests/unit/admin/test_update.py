"""What an update says: quantiles, rates, and which streams come first."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.admin.overview import MOST_ROUTES, Overviews
from streamproxy.admin.sample import Sampler
from streamproxy.admin.update import Sort, Update, View, quantile
from streamproxy.exchange.exchange import TIME_BUCKETS
from streamproxy.upstream.load import LoadReading
from tests.unit.admin.proxy import Before, OneEndpoint, OneUpstream, SeenProxy

BOUNDS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([4, 0, 0, 0], 0.5, 0.5),  # evenly between 0 and the first bound
        ([0, 4, 0, 0], 0.5, 1.5),
        ([2, 2, 0, 0], 0.5, 1.0),
        ([1, 0, 1, 0], 0.99, 3.96),  # the empty bucket between them has no share
        ([0, 0, 0, 3], 0.5, 4.0),  # above the highest bound nothing is known
        ([1, 0, 0, 9], 0.99, 4.0),
    ],
)
def test_quantiles_are_those_of_prometheus(counts: list[int], q: float, expected: float | None) -> None:
    assert quantile(BOUNDS, counts, q) == (pytest.approx(expected) if expected is not None else None)


@given(st.lists(st.integers(0, 1000), min_size=len(TIME_BUCKETS) + 1, max_size=len(TIME_BUCKETS) + 1))
def test_quantiles_never_fall_and_stay_within_the_bounds(counts: list[int]) -> None:
    found = [quantile(TIME_BUCKETS, counts, q) for q in (0.01, 0.5, 0.9, 0.99, 1.0)]
    if not sum(counts):
        assert found == [None] * 5
        return
    values = [value for value in found if value is not None]
    assert len(values) == 5
    assert values == sorted(values)
    assert 0 <= values[0] <= values[-1] <= TIME_BUCKETS[-1]


@pytest.fixture
def proxy() -> SeenProxy:
    return SeenProxy()


@pytest.fixture
def overviews(proxy: SeenProxy) -> Overviews:
    return Overviews(proxy)


async def updated(overviews: Overviews, view: View | None = None) -> Update:
    return overviews.update(await overviews.look(), view or View())


@pytest.mark.parametrize(
    ("sort", "ascending", "first"),
    [
        ("age", False, ["old", "big", "busy"]),
        ("age", True, ["busy", "big", "old"]),
        ("bytes", False, ["big", "busy", "old"]),
        ("bytes", True, ["old", "busy", "big"]),
        ("events", False, ["busy", "big", "old"]),
    ],
)
async def test_the_first_streams_are_those_of_the_order(
    proxy: SeenProxy, overviews: Overviews, sort: Sort, ascending: bool, first: list[str]
) -> None:
    for age, (name, events, size) in enumerate([("busy", 9, 5), ("big", 5, 9), ("old", 1, 1)]):
        stream = proxy.stream(name, events=events, size=size)
        stream.started_at -= age
    update = await updated(overviews, View(sort, ascending))
    assert [stream["id"] for stream in update["streams"]] == first


async def test_rates_are_those_since_the_look_before(
    proxy: SeenProxy, overviews: Overviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    quick, slow = proxy.stream("quick", events=100), proxy.stream("slow", events=1000)
    first = await updated(overviews)
    assert first["totals"]["events_per_s"] is None
    assert [stream["rate"] for stream in first["streams"]] == [10.0, 100.0]  # over the life of each so far
    now += 2.0
    quick.events += 40
    slow.events += 2
    slow.response_bytes += 500
    second = await updated(overviews, View("rate"))
    assert [(stream["id"], stream["rate"]) for stream in second["streams"]] == [("quick", 20.0), ("slow", 1.0)]
    assert (second["totals"]["events_per_s"], second["totals"]["bytes_per_s"]) == (21.0, 250.0)
    assert second["routes"][0]["events_per_s"] == 21.0


async def test_a_route_filter_leaves_its_streams_and_the_sums_of_all(proxy: SeenProxy, overviews: Overviews) -> None:
    for number in range(5):
        proxy.stream(f"chat-{number}")
    proxy.stream("other", route="files")
    update = await updated(overviews, View(route="chat", limit=2))
    assert [stream["id"] for stream in update["streams"]] == ["chat-0", "chat-1"]
    assert (update["matching"], update["totals"]["live"]) == (5, 6)
    assert {row["route"]: row["live"] for row in update["routes"]} == {"chat": 5, "files": 1}


async def test_an_update_does_not_grow_with_the_streams(proxy: SeenProxy, overviews: Overviews) -> None:
    for number in range(3000):
        proxy.stream(f"id-{number}", route=f"route-{number % 300}")
    update = await updated(overviews, View(limit=50))
    assert (len(update["streams"]), update["matching"]) == (50, 3000)
    assert (len(update["routes"]), update["hidden_routes"]) == (MOST_ROUTES, 200)


async def test_the_window_forgets_what_is_longer_ago_than_a_minute(
    proxy: SeenProxy, overviews: Overviews, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    proxy.ledger.close(proxy.stream("early"))
    assert (await updated(overviews))["routes"][0]["window"] == {}
    for _ in range(12):
        now += 6.0
        update = await updated(overviews)
    row = update["routes"][0]
    assert "ttfb" not in row["window"]
    assert row["start"]["ttfb"]["count"] == 1
    now += 1.0
    proxy.ledger.close(proxy.stream("late"))
    update = await updated(overviews)
    row = update["routes"][0]
    assert (row["window"]["ttfb"]["count"], row["start"]["ttfb"]["count"]) == (1, 2)
    assert row["window"]["ttfb"]["p50"] == pytest.approx(0.25, rel=0.04)
    assert 50 <= update["window"] <= 60


async def test_an_exchange_that_ends_during_a_look_counts_once(
    proxy: SeenProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        proxy.stream(f"id-{number}", events=1)
    sampler = Sampler(proxy.ledger, proxy.metrics)
    sleep = asyncio.sleep

    async def between(seconds: float) -> None:
        for name in ("id-3", "id-250", "id-499"):  # one that was looked at, and those that were not yet
            if exchange := proxy.ledger.live.get(name):
                proxy.ledger.close(exchange)
                proxy.stream(f"new-{name}", events=1)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", between)
    sample = await sampler.take()
    assert sum(series.events for series in sample.now.series.values()) == 500
    assert len(sample.live) == 500
    after = await sampler.take()
    assert sum(series.events for series in after.now.series.values()) == 503


async def test_streams_of_a_process_that_drains_are_among_the_others_and_count_in_its_own_numbers(
    proxy: SeenProxy, overviews: Overviews
) -> None:
    proxy.stream("own", size=10)
    other = SeenProxy().stream("other", size=30, events=4)
    proxy.predecessor = Before(other)
    update = await updated(overviews, View("bytes"))
    assert [(row["id"], row.get("draining")) for row in update["streams"]] == [("other", True), ("own", None)]
    assert (update["matching"], update["totals"]["live"], update["routes"][0]["live"]) == (2, 2, 2)
    # What it has counted comes with its totals, and is not added again.
    assert (await overviews.look()).sample.now.series["chat"].response_bytes == 10
    other.events += 400
    assert (await updated(overviews, View("rate")))["streams"][0]["id"] == "other"


async def test_endpoints_that_are_down_come_first_with_their_connections(
    proxy: SeenProxy, overviews: Overviews
) -> None:
    up, down = OneEndpoint("http://a"), OneEndpoint("http://b")
    down.up = False
    up.load = LoadReading(3.0, 0.0, 0.5, 0.0, 0)
    proxy.upstreams.append(OneUpstream("llm", up, down))
    update = await updated(overviews)
    assert [(row["endpoint"], row["up"]) for row in update["endpoints"]] == [("http://b", False), ("http://a", True)]
    assert [row["load"] for row in update["endpoints"]] == [None, {"running": 3.0, "waiting": 0.0, "cache": 0.5}]
    assert update["upstreams"] == [{"upstream": "llm", "idle": 4, "active": 2}]


async def test_an_update_says_why_the_proxy_is_not_ready_and_what_a_reload_found(
    proxy: SeenProxy, overviews: Overviews
) -> None:
    proxy.reasons, proxy.reload_problems = ["draining"], ("f.yaml:3:1: foo: unknown key",)
    update = await updated(overviews)
    assert (update["ready"], update["reasons"]) == (False, ["draining"])
    assert update["reload"] == ["f.yaml:3:1: foo: unknown key"]


async def test_the_requests_that_no_route_took_are_shown_as_well(proxy: SeenProxy, overviews: Overviews) -> None:
    exchange = proxy.begin("lost", route="-")
    exchange.upstream = ""
    assert [row["route"] for row in (await updated(overviews))["routes"]] == ["-"]
    proxy.ledger.close(exchange)
    update = await updated(overviews)
    assert update["totals"]["requests"] == 1
    assert update["ends"] == {"complete": 1}
