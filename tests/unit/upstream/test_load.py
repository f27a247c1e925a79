"""What engines say of their load, and who is picked for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.client.base import IteratorSource
from streamproxy.config.model import Load, LoadSource
from streamproxy.upstream import Endpoint
from streamproxy.upstream.balance.policies import LeastLoad
from streamproxy.upstream.load import ENGINES, MOST, LoadReading, MetricReader, names_of
from streamproxy.upstream.poller import LoadPoller
from tests.doubles.until import until
from tests.unit.upstream.fakes import FakeClient, FakeResponse, endpoint

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b\\" 9"} 3.0
vllm:num_requests_running{engine="1",model_name="other"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0"} 1.0
vllm:num_requests_waiting_by_reason{engine="0"} 77.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:generation_tokens_total 1.7e+06 1712345678901
"""
SGLANG = b"sglang:num_running_reqs 4\nsglang:num_queue_reqs 0\nsglang:token_usage 0.97\n"
TRTLLM = b"trtllm_num_requests_running 4\r\ntrtllm_num_requests_waiting 2\r\ntrtllm_kv_cache_utilization 1e-1\r\n"
TGI = b"tgi_batch_current_size 4\ntgi_queue_size 9\n"


def read(body: bytes, engine: str = "vllm") -> tuple[float, float, float | None] | None:
    reader = MetricReader(ENGINES[engine])
    assert reader.feed(body)
    reading = reader.reading(0.0, 0)
    return None if reading is None else (reading.running, reading.waiting, reading.cache)


@pytest.mark.parametrize(
    ("engine", "body", "load"),
    [
        ("vllm", VLLM, (5.0, 1.0, 0.5)),
        ("vllm", VLLM.replace(b"kv_cache", b"gpu_cache"), (5.0, 1.0, 0.5)),
        ("sglang", SGLANG, (4.0, 0.0, 0.97)),
        ("trtllm", TRTLLM, (4.0, 2.0, 0.1)),
        ("tgi", TGI, (4.0, 9.0, None)),
        ("sglang", SGLANG + b'sglang:num_queue_reqs{priority="-1"} 3\n', (4.0, 0.0, 0.97)),
        ("sglang", SGLANG + b'sglang:num_queue_reqs{x="a",priority=""} 3\n', (4.0, 3.0, 0.97)),
        ("vllm", VLLM.replace(b'"other"', b'"a,priority=\\"1"'), (5.0, 1.0, 0.5)),
    ],
)
def test_the_metrics_of_each_engine_are_read(engine: str, body: bytes, load: tuple[float, float, float | None]) -> None:
    assert read(body, engine) == load


def test_metrics_of_ones_own_are_read_by_their_names() -> None:
    names = names_of(LoadSource(path="/m", running="jobs", waiting="jobs:queued", cache="full"))
    reader = MetricReader(names)
    reader.feed(b'jobs 1\njobs:queued{a="b"} 2\nfull .5')
    assert names.path == "/m"
    assert reader.reading(7.0, 3) == LoadReading(1.0, 2.0, 0.5, 7.0, 3)


@pytest.mark.parametrize("number", ["NaN", "+Inf", "-Inf", "-1", "1_0", "0x10", "", "1e999", "infinity", "9" * 100])
def test_a_number_that_is_none_makes_no_reading(number: str) -> None:
    assert read(b"tgi_batch_current_size 4\ntgi_queue_size 9\ntgi_queue_size " + number.encode() + b"\n", "tgi") in (
        None,
        (4.0, 9.0, None) if not number else None,
    )


@pytest.mark.parametrize("body", [b"", b"tgi_queue_size 9\n", b"<html>", b"# tgi_queue_size 9\n", b"xtgi_queue_size 1"])
def test_what_lacks_a_number_of_requests_is_no_reading(body: bytes) -> None:
    assert read(body, "tgi") is None


def test_a_body_of_any_size_is_kept_up_to_a_limit() -> None:
    reader = MetricReader(ENGINES["tgi"])
    chunk = TGI + b"# " + b"x" * 65536 + b"\n"
    taken = 0
    while reader.feed(chunk):
        taken += len(chunk)
    assert taken <= MOST
    assert reader.reading(0.0, 0) is None


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_no_bytes_are_too_strange_for_the_reader(before: bytes, behind: bytes) -> None:
    reader = MetricReader(ENGINES["tgi"])
    reader.feed(before + b"\n" + TGI + behind)
    reading = reader.reading(0.0, 0)
    assert reading is None or (math.isfinite(reading.running) and reading.waiting >= 9.0)


numbers = st.floats(0, 1e9, allow_nan=False)
texts = st.text(st.characters(codec="utf-8", exclude_characters='\n"\\'), max_size=8)


@given(st.lists(st.tuples(texts, numbers), min_size=1, max_size=5), numbers)
def test_the_samples_of_all_labels_are_added_up(samples: list[tuple[str, float]], waiting: float) -> None:
    lines = [f'tgi_batch_current_size{{l="{label}"}} {number!r}' for label, number in samples]
    found = read("\n".join([*lines, f"tgi_queue_size {waiting!r}"]).encode(), "tgi")
    assert found == (sum(number for _, number in samples), waiting, None)


@given(st.integers(0, 60))
def test_a_body_in_pieces_reads_the_same(cut: int) -> None:
    reader = MetricReader(ENGINES["tgi"])
    reader.feed(TGI[:cut])
    reader.feed(TGI[cut:])
    reading = reader.reading(0.0, 0)
    assert reading is not None
    assert (reading.running, reading.waiting) == (4.0, 9.0)


# Picking.


def engine(name: str, *, streams: int = 0, load: LoadReading | None = None) -> Endpoint:
    one = endpoint(name)
    one.streams, one.load = streams, load
    return one


def said(
    running: float, waiting: float, *, cache: float | None = None, at: float = 100.0, streams: int = 0
) -> LoadReading:
    return LoadReading(running, waiting, cache, at, streams)


def pick(*endpoints: Endpoint, now: float = 101.0) -> str:
    return LeastLoad(3.0, lambda: now).pick(endpoints).authority.decode()


def test_a_request_that_waits_weighs_as_much_as_four_that_run() -> None:
    assert pick(engine("a", load=said(0, 1)), engine("b", load=said(3, 0))) == "b"
    assert pick(engine("a", load=said(0, 1)), engine("b", load=said(5, 0))) == "a"


def test_streams_that_the_reading_has_not_seen_are_added() -> None:
    assert pick(engine("a", load=said(2, 0, streams=2), streams=5), engine("b", load=said(4, 0))) == "b"
    assert pick(engine("a", load=said(2, 0, streams=2), streams=3), engine("b", load=said(4, 0))) == "a"


def test_a_full_cache_comes_last_whatever_its_score() -> None:
    assert pick(engine("a", load=said(0, 0, cache=0.96)), engine("b", load=said(50, 9, cache=0.95))) == "b"
    assert pick(engine("a", load=said(0, 0, cache=0.99)), engine("b", load=said(1, 0, cache=0.96))) == "a"


def test_a_stale_reading_counts_for_nothing() -> None:
    old = engine("a", load=said(99, 99, at=97.9), streams=1)
    assert pick(old, engine("b", load=said(2, 0))) == "a"
    assert pick(old, engine("b", streams=0)) == "b"


def test_equals_take_turns() -> None:
    balancer = LeastLoad(3.0, lambda: 101.0)
    both = [engine("a", load=said(1, 0)), engine("b", load=said(1, 0))]
    assert {balancer.pick(both).authority for _ in range(2)} == {b"a", b"b"}


# Reading.


class Engine(FakeClient):
    """Answers each reading with the next of its bodies, the last one again and again."""

    def __init__(self, *bodies: Any) -> None:
        super().__init__(200)
        self.bodies = list(bodies)
        self.asked = 0
        self.closed_early = False

    @asynccontextmanager
    async def stream(self, method: str, url: str, **request: Any) -> AsyncIterator[FakeResponse]:
        body = self.bodies[min(self.asked, len(self.bodies) - 1)]
        self.asked += 1
        assert (method, request["extensions"]["target"]) == ("GET", b"/metrics")
        response = FakeResponse(200 if not isinstance(body, int) else body, [])
        response.source = IteratorSource(self._pieces(b"" if isinstance(body, int) else body))
        try:
            yield response
        except BaseException:
            self.closed_early = True
            raise

    async def _pieces(self, body: Any) -> AsyncIterator[bytes]:
        if isinstance(body, bytes):
            yield body
            return
        while True:  # a body that never ends
            yield body()
            await asyncio.sleep(0)


SETTINGS = Load(source="tgi", interval=0.001, stale=0.05)


def polled(*bodies: Any) -> tuple[Endpoint, Engine, LoadPoller]:
    client = Engine(*bodies)
    one = Endpoint("http://e", client, authority=b"e")
    poller = LoadPoller("u", SETTINGS, uniform=lambda: 0.0)
    poller.watch(one)
    return one, client, poller


async def test_a_reading_says_how_many_streams_of_ours_it_has_seen() -> None:
    one, _, poller = polled(TGI)
    one.streams = 2
    await until(lambda: one.load is not None)
    await poller.aclose()
    assert one.load is not None
    assert (one.load.running, one.load.waiting, one.load.streams) == (4.0, 9.0, 2)


async def test_metrics_without_end_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    one, client, poller = polled(lambda: b"x" * 65536)
    await until(lambda: client.asked > 1)
    await poller.aclose()
    assert one.load is None
    assert client.closed_early
    assert "over 1048576 bytes" in caplog.text


async def test_metrics_that_never_come_take_the_last_reading_away_when_it_is_stale() -> None:
    one, _, poller = polled(TGI, lambda: b"")
    await until(lambda: one.load is not None)
    await until(lambda: one.load is None)
    await poller.aclose()


@pytest.mark.parametrize("answer", [404, b"tgi_batch_current_size NaN\ntgi_queue_size 1\n"])
async def test_an_answer_that_is_no_reading_takes_the_last_one_away_and_is_logged_once(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one, client, poller = polled(TGI, answer)
    await until(lambda: client.asked > 4)
    await poller.aclose()
    assert one.load is None
    assert caplog.text.count("cannot be read") == 1
