"""What a scrape says, and that it says the same whenever it comes."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from streamproxy import __version__, errors
from streamproxy.exchange.exchange import TIME_BUCKETS, Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.formats.inspector import Usage
from streamproxy.observe.json_line import json_line
from streamproxy.observe.metrics import FAMILIES, OPENMETRICS, TEXT, Metrics
from streamproxy.observe.series import Series, Totals
from streamproxy.upstream.load import LoadReading
from streamproxy.version import BUILD
from tests.unit.observe.exchanges import ERRORS, ROUTES, new_exchange, step, streaming

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass
class Endpoint:
    url: str
    up: bool = True
    streams: int = 0
    idle: int = 0
    active: int = 0
    load: LoadReading | None = None


@dataclass
class Upstream:
    name: str
    endpoints: list[Endpoint] = field(default_factory=list)


class Scene:
    """A ledger that is observed, and its exposition as a dictionary."""

    def __init__(self, upstreams: tuple[Upstream, ...] = ()) -> None:
        self.ledger = Ledger()
        self.metrics = Metrics(self.ledger, lambda: upstreams, engine="uvicorn")
        self.metrics.declare(ROUTES)
        self.ledger.observers.append(self.metrics.observe)

    def samples(self) -> Samples:
        pieces, _ = self.metrics.exposition()
        families = parse_text(b"".join(pieces).decode())
        found: Samples = {}
        for family in families:
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in found, "a sample occurs twice"
                found[key] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((f"streamproxy_{name}", tuple(sorted(labels.items()))))

    def begin(self, exchange: Exchange) -> Exchange:
        """Enter an exchange; a stream has had two gaps between its reads."""
        self.ledger.open(exchange)
        if exchange.streaming:
            exchange.count_gap(0.03125)
            exchange.count_gap(0.03125)
        return exchange

    def end(self, exchange: Exchange, error: errors.ExchangeError | None = None) -> None:
        exchange.error = error
        self.begin(exchange)
        self.ledger.close(exchange)


LLM = {"route": "chat", "upstream": "llm"}


def test_every_pair_shows_from_the_start() -> None:
    scene = Scene()
    for route, upstream in ROUTES:
        assert scene.value("response_bytes_total", route=route, upstream=upstream) == 0
        assert scene.value("ttfb_seconds_count", route=route, upstream=upstream) == 0
        assert scene.value("streams_active", route=route, upstream=upstream) == 0
        assert scene.value("keepalives_total", route=route) == 0
        assert scene.value("disconnects_total", route=route, side="client", phase="body") == 0
        assert scene.value("upstream_errors_total", route=route, upstream=upstream, error="connection_refused") == 0


def test_a_finished_stream_is_in_every_series() -> None:
    scene = Scene()
    scene.end(streaming(new_exchange()))
    assert scene.value("requests_total", route="chat", method="POST", code="200") == 1
    assert scene.value("response_bytes_total", **LLM) == 3000
    assert scene.value("request_bytes_total", **LLM) == 10
    assert scene.value("events_total", **LLM) == 2
    assert scene.value("keepalives_total", route="chat") == 4
    assert scene.value("retries_total", route="chat", upstream="llm") == 2
    assert scene.value("backpressure_seconds_total", route="chat") == 0.5
    assert scene.value("ttfb_seconds_sum", **LLM) == 2.5
    assert scene.value("upstream_ttfb_seconds_sum", **LLM) == 1.0
    assert scene.value("stream_duration_seconds_count", **LLM) == 1
    assert scene.value("stream_bytes_sum", **LLM) == 3000
    assert scene.value("stream_bytes_bucket", le="1024.0", **LLM) == 0
    assert scene.value("stream_bytes_bucket", le="4096.0", **LLM) == 1
    assert scene.value("chunk_gap_seconds_count", **LLM) == 2
    assert scene.value("chunk_gap_seconds_sum", **LLM) == 0.0625
    assert scene.value("streams_active", **LLM) == 0


def test_a_stream_shows_its_numbers_while_it_runs() -> None:
    scene = Scene()
    exchange = scene.begin(streaming(new_exchange()))
    assert scene.value("streams_active", **LLM) == 1
    assert scene.value("response_bytes_total", **LLM) == 3000
    assert scene.value("chunk_gap_seconds_count", **LLM) == 2
    assert scene.value("ttfb_seconds_count", **LLM) == 1
    assert scene.value("stream_bytes_count", **LLM) == 0
    exchange.response_bytes += 7
    assert scene.value("response_bytes_total", **LLM) == 3007
    assert scene.value("response_bytes_total", **LLM) == 3007, "looking changes nothing"


def test_a_request_without_a_body_yet_is_no_stream() -> None:
    scene = Scene()
    exchange = new_exchange()
    exchange.phase = "head"
    scene.ledger.open(exchange)
    assert scene.value("streams_active", **LLM) == 0
    scene.ledger.close(exchange)
    assert scene.value("stream_duration_seconds_count", **LLM) == 0


def test_the_queue_shows_who_waits_and_for_how_long_they_did() -> None:
    scene = Scene()
    exchange = new_exchange()
    exchange.queued_at = 100.0
    scene.ledger.open(exchange)
    assert scene.value("queue_depth", route="chat") == 1
    assert scene.value("queue_seconds_count", route="chat") == 0
    exchange.queued, exchange.queued_at = 1.5, 0.0
    assert scene.value("queue_depth", route="chat") == 0
    assert scene.value("queue_seconds_sum", route="chat") == 1.5
    streaming(exchange)
    scene.ledger.close(exchange)
    assert scene.value("queue_seconds_count", route="chat") == 1


def test_an_aborted_stream_gives_each_histogram_its_one_observation() -> None:
    scene = Scene()
    scene.end(streaming(new_exchange()), errors.ResponseIncomplete())
    for name in ("ttfb_seconds", "upstream_ttfb_seconds", "stream_duration_seconds", "stream_bytes"):
        assert scene.value(f"{name}_count", **LLM) == 1
    assert scene.value("disconnects_total", route="chat", side="upstream", phase="body") == 1
    assert scene.value("upstream_errors_total", route="chat", upstream="llm", error="http_response_incomplete") == 1


def test_a_client_that_left_before_the_head_counts_with_499() -> None:
    scene = Scene()
    exchange = new_exchange()
    exchange.phase = "head"
    scene.end(exchange, errors.ClientDisconnected())
    assert scene.value("requests_total", route="chat", method="POST", code="499") == 1
    assert scene.value("disconnects_total", route="chat", side="client", phase="head") == 1


def test_a_client_that_left_mid_stream_keeps_its_status() -> None:
    scene = Scene()
    scene.end(streaming(new_exchange()), errors.ClientDisconnected())
    assert scene.value("requests_total", route="chat", method="POST", code="200") == 1
    assert scene.value("disconnects_total", route="chat", side="client", phase="body") == 1
    assert scene.value("disconnects_total", route="chat", side="upstream", phase="body") == 0


def test_an_answer_before_the_request_was_complete_took_no_time() -> None:
    scene = Scene()
    exchange = streaming(new_exchange())
    exchange.request_read_at = exchange.sent_at = 0.0
    scene.end(exchange)
    assert scene.value("ttfb_seconds_bucket", le="0.001", **LLM) == 1
    assert scene.value("upstream_ttfb_seconds_bucket", le="0.001", **LLM) == 1


def test_labels_are_never_taken_from_a_request() -> None:
    scene = Scene()
    before = {labels for _, labels in scene.samples()}
    exchange = new_exchange(route="-", upstream="", method="PROPFIND-\u00e9", path="/secret")
    exchange.status = 404
    scene.end(exchange, errors.NoRoute())
    added = {labels for _, labels in scene.samples()} - before
    assert added == {(("code", "404"), ("method", "OTHER"), ("route", "-"))}


def test_rejections_of_the_protocol_count_without_a_route() -> None:
    scene = Scene()
    scene.metrics.rejected(431)
    scene.metrics.rejected(431)
    assert scene.value("requests_total", route="-", method="OTHER", code="431") == 2


def test_another_configuration_keeps_the_counts() -> None:
    scene = Scene()
    scene.end(streaming(new_exchange()))
    scene.metrics.declare([("new", "llm"), ("chat", "llm")])
    assert scene.value("response_bytes_total", route="new", upstream="llm") == 0
    assert scene.value("response_bytes_total", **LLM) == 3000


def test_a_pair_that_nobody_declared_is_counted_all_the_same() -> None:
    scene = Scene()
    scene.end(streaming(new_exchange(route="late", upstream="other")))
    assert scene.value("response_bytes_total", route="late", upstream="other") == 3000
    assert scene.value("disconnects_total", route="late", side="client", phase="queue") == 0


def test_endpoints_and_connections_are_those_of_the_upstreams() -> None:
    a = Endpoint("http://a", up=True, streams=2, idle=3, active=2)
    b = Endpoint("http://b", up=False, idle=1)
    twins = [Endpoint("http://unix", streams=1), Endpoint("http://unix", up=False, streams=4)]
    scene = Scene((Upstream("llm", [a, b]), Upstream("sockets", twins)))
    assert scene.value("endpoint_up", upstream="llm", endpoint="http://a") == 1
    assert scene.value("endpoint_up", upstream="llm", endpoint="http://b") == 0
    assert scene.value("endpoint_streams", upstream="llm", endpoint="http://a") == 2
    assert scene.value("connections", upstream="llm", state="idle") == 4
    assert scene.value("connections", upstream="llm", state="active") == 2
    assert scene.value("endpoint_streams", upstream="sockets", endpoint="http://unix") == 5
    assert scene.value("endpoint_up", upstream="sockets", endpoint="http://unix") == 0


def test_the_build_and_the_process_are_shown() -> None:
    samples = Scene().samples()
    (labels,) = [dict(labels) for name, labels in samples if name == "streamproxy_build_info"]
    assert labels["version"] == __version__
    assert labels["build"] == BUILD
    assert labels["engine"] == "uvicorn"
    assert samples["process_open_fds", ()] > 0


def test_time_buckets_reach_from_a_millisecond_to_minutes() -> None:
    bounds = {
        float(dict(labels)["le"]) for name, labels in Scene().samples() if name == "streamproxy_ttfb_seconds_bucket"
    }
    assert bounds == {*TIME_BUCKETS, float("inf")}
    assert min(bounds) == 0.001
    assert max(TIME_BUCKETS) == 640


COUNTERS = ("request_bytes", "response_bytes", "events", "keepalives", "retries", "backpressure")
HISTOGRAMS = ("queue", "ttfb", "upstream_ttfb", "chunk_gap", "stream_duration", "stream_bytes")


def assert_nothing_fell(now: Series, before: Series) -> None:
    for slot in COUNTERS:
        assert getattr(now, slot) >= getattr(before, slot), slot
    for slot in HISTOGRAMS:
        mine, theirs = getattr(now, slot), getattr(before, slot)
        assert all(mine.counts.get(number, 0) >= count for number, count in theirs.counts.items()), slot
        assert mine.sum >= theirs.sum - 1e-6, slot


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), rounds=st.integers(1, 25))
def test_flushed_and_live_add_up_to_the_same_whatever_the_moment(seed: int, count: int, rounds: int) -> None:
    """Counters and sums never fall from one scrape to the next, and looking at live exchanges changes nothing."""
    dice, scene, clock = random.Random(seed), Scene(), 100.0
    exchanges = []
    for number in range(count):
        route, upstream = dice.choice(ROUTES)
        exchange = new_exchange(route=route, upstream=upstream)
        exchange.request_id = exchange.id = f"id-{number}"
        exchanges.append(exchange)
        scene.ledger.open(exchange)
    with mock.patch("time.monotonic", side_effect=lambda: clock):
        last = scene.metrics.snapshot()
        for _ in range(rounds):
            clock += dice.randrange(1, 4000) / 16
            exchange = dice.choice(exchanges)
            if exchange.id in scene.ledger.live:
                step(exchange, dice, clock)
                if dice.random() < 0.2:
                    exchange.error = dice.choice(ERRORS)
                    scene.ledger.close(exchange)
            now = scene.metrics.snapshot()
            for pair, series in now.series.items():
                assert_nothing_fell(series, last.series[pair])
            live = [e for e in scene.ledger.live.values() if e.phase == "body"]
            assert sum(series.active for series in now.series.values()) == len(live)
            last = now
        for exchange in exchanges:
            scene.ledger.close(exchange)
        watched, unwatched = scene.metrics.snapshot(), Totals()
    for pair, series in watched.series.items():
        assert_nothing_fell(series, last.series[pair])
    unwatched.declare(ROUTES)
    for exchange in sorted(exchanges, key=lambda exchange: exchange.ended_at):
        unwatched.finish(exchange)
    unwatched.add_gaps(scene.ledger.gaps)
    for pair, series in watched.series.items():
        for slot in HISTOGRAMS:
            mine, theirs = getattr(series, slot), getattr(unwatched.series[pair], slot)
            assert (mine.counts, mine.sum) == (theirs.counts, pytest.approx(theirs.sum)), slot
        assert [getattr(series, slot) for slot in COUNTERS] == [
            getattr(unwatched.series[pair], slot) for slot in COUNTERS
        ]
    assert watched.requests == unwatched.requests


class Waiting:
    """A scene with one exchange on a clock that a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.clock)
        self.scene = Scene()
        self.exchange = new_exchange()
        self.scene.ledger.open(self.exchange)

    def stream(self) -> Exchange:
        """The response has begun at 103 s, and its last read was then."""
        exchange = streaming(self.exchange)
        exchange.backpressure, exchange.last_read_at = 0.0, 103.5
        self.clock = 104.0
        return exchange

    def __call__(self, name: str, **labels: str) -> float:
        value = self.scene.value(name, **(labels or LLM))
        assert value is not None
        return value

    def end(self, error: errors.ExchangeError | None) -> None:
        self.exchange.error = error
        self.scene.ledger.close(self.exchange)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


def test_a_client_that_takes_nothing_and_leaves_counts_every_second(waiting: Waiting) -> None:
    exchange = waiting.stream()
    exchange.blocked_since = 104.0
    waiting.clock = 106.5
    assert waiting("backpressure_seconds_total", route="chat") == 2.5
    waiting.clock = 109.0
    assert waiting("backpressure_seconds_total", route="chat") == 5.0
    waiting.end(errors.ClientDisconnected())
    waiting.clock = 200.0
    assert waiting("backpressure_seconds_total", route="chat") == 5.0


@pytest.mark.parametrize("error", [errors.ClientDisconnected(), errors.LimitReached()])
def test_a_wait_in_the_queue_counts_while_it_lasts_and_when_it_is_given_up(
    waiting: Waiting, error: errors.ExchangeError
) -> None:
    waiting.exchange.queued_at = 100.0
    waiting.clock = 103.0
    assert (waiting("queue_seconds_sum", route="chat"), waiting("queue_seconds_count", route="chat")) == (3.0, 0)
    waiting.clock = 107.0
    waiting.end(error)
    assert (waiting("queue_seconds_sum", route="chat"), waiting("queue_seconds_count", route="chat")) == (7.0, 1)
    assert waiting("ttfb_seconds_sum") == 0.0


def test_a_head_that_never_comes_counts_for_as_long_as_it_was_waited_for(waiting: Waiting) -> None:
    exchange = waiting.exchange
    exchange.phase, exchange.request_read_at, exchange.sent_at = "head", 101.0, 102.0
    waiting.clock = 110.0
    assert (waiting("upstream_ttfb_seconds_sum"), waiting("upstream_ttfb_seconds_count")) == (8.0, 0)
    assert (waiting("ttfb_seconds_sum"), waiting("ttfb_seconds_count")) == (9.0, 0)
    waiting.clock = 162.0
    waiting.end(errors.HeadTimeout())
    assert (waiting("upstream_ttfb_seconds_sum"), waiting("upstream_ttfb_seconds_count")) == (60.0, 1)
    assert (waiting("ttfb_seconds_sum"), waiting("ttfb_seconds_count")) == (61.0, 1)


def test_a_stream_that_ends_before_its_first_byte_has_a_time_to_it_all_the_same(waiting: Waiting) -> None:
    exchange = waiting.stream()
    exchange.first_byte_at = exchange.last_read_at = 0.0
    waiting.clock = 108.0
    assert (waiting("ttfb_seconds_sum"), waiting("ttfb_seconds_count")) == (7.0, 0)
    waiting.end(errors.ClientDisconnected())
    assert (waiting("ttfb_seconds_sum"), waiting("ttfb_seconds_count")) == (7.0, 1)


def test_durations_and_silences_of_a_live_stream_show_in_the_sums(waiting: Waiting) -> None:
    waiting.stream()
    waiting.clock = 110.0
    assert (waiting("stream_duration_seconds_sum"), waiting("stream_duration_seconds_count")) == (7.0, 0)
    assert (waiting("chunk_gap_seconds_sum"), waiting("chunk_gap_seconds_count")) == (6.5, 0)
    waiting.clock = 113.5
    waiting.end(errors.ReadTimeout())
    assert (waiting("stream_duration_seconds_sum"), waiting("stream_duration_seconds_count")) == (10.5, 1)
    assert (waiting("chunk_gap_seconds_sum"), waiting("chunk_gap_seconds_count")) == (10.0, 1)


@pytest.mark.parametrize(("silence", "gaps"), [(0.001, 0), (5.0, 1)])
def test_the_end_of_a_stream_is_a_read_only_if_it_was_waited_for(waiting: Waiting, silence: float, gaps: int) -> None:
    exchange = waiting.stream()
    waiting.clock = exchange.last_read_at + silence
    exchange.end_reads(waiting.clock)
    waiting.clock += 60.0  # the client takes its time
    waiting.end(None)
    assert waiting("chunk_gap_seconds_count") == gaps
    assert waiting("chunk_gap_seconds_sum") == silence * gaps


def test_each_attempt_has_its_own_wait_for_the_head(waiting: Waiting) -> None:
    exchange = waiting.exchange
    exchange.phase, exchange.request_read_at = "head", 100.0
    exchange.sent_at = 100.0
    waiting.clock = 110.0
    exchange.abandon_attempt(110.0)
    waiting.clock = 110.5  # a pause between two attempts is no wait for a head
    assert (waiting("upstream_ttfb_seconds_sum"), waiting("upstream_ttfb_seconds_count")) == (10.0, 1)
    exchange.sent_at = 111.0
    waiting.clock = 115.0
    exchange.fall_back("other", 115.0)
    other = {"route": "chat", "upstream": "other"}
    assert (waiting("upstream_ttfb_seconds_sum"), waiting("upstream_ttfb_seconds_count")) == (14.0, 2)
    assert (waiting("ttfb_seconds_sum"), waiting("ttfb_seconds_count")) == (15.0, 1)
    exchange.sent_at, exchange.head_at, exchange.phase = 115.0, 116.0, "body"
    exchange.first_byte_at = 117.0
    waiting.clock = 120.0
    waiting.end(None)
    assert (waiting("upstream_ttfb_seconds_sum"), waiting("upstream_ttfb_seconds_count")) == (14.0, 2)
    assert (waiting("ttfb_seconds_sum", **other), waiting("upstream_ttfb_seconds_sum", **other)) == (17.0, 1.0)


def test_the_log_and_the_metrics_say_the_same_seconds(waiting: Waiting) -> None:
    waiting.stream()
    waiting.clock = 110.0
    waiting.end(errors.ResponseIncomplete())
    waiting.clock = 111.0
    line = json.loads(json_line(waiting.exchange, waiting.exchange.ended_at))
    assert line["ttfb_ms"] == waiting("ttfb_seconds_sum") * 1000
    assert line["upstream_ttfb_ms"] == waiting("upstream_ttfb_seconds_sum") * 1000
    assert line["duration_ms"] == 10_000.0


def test_a_stream_of_a_model_is_counted_by_the_names_that_the_configuration_has() -> None:
    scene = Scene()
    scene.metrics.declare(ROUTES, models=["small"])
    for model in ("small", "made-up-by-a-client", "another"):
        exchange = new_exchange()
        scene.ledger.open(exchange)
        exchange.count_gap(0.2)
        exchange.recognise("chat", "openai", model)
        streaming(exchange).first_event_at = 104.0
        exchange.count_gap(0.5)
        exchange.usage = Usage(input=100, output=7, cache_read=64)
        assert exchange.model == model
        scene.ledger.close(exchange)

    def value(name: str, model: str, **labels: str) -> float | None:
        labels |= {"operation_name": "chat", "provider_name": "openai", "request_model": model}
        key = tuple(sorted((f"gen_ai_{label}", text) for label, text in labels.items()))
        return scene.samples().get((f"gen_ai_client_{name}", key))

    for model, count in (("small", 1), ("other", 2)):
        assert value("operation_time_to_first_chunk_seconds_count", model) == count
        assert value("operation_time_to_first_chunk_seconds_sum", model) == 3.0 * count
        assert value("operation_time_per_output_chunk_seconds_count", model) == count
        assert value("operation_time_per_output_chunk_seconds_sum", model) == pytest.approx(0.5 * count)
        assert value("operation_duration_seconds_count", model) == count
        assert value("token_usage_sum", model, token_type="input") == 100 * count
        assert value("token_usage_sum", model, token_type="output") == 7 * count
        assert value("token_usage_count", model, token_type="cache_read") == count
        assert value("token_usage_count", model, token_type="reasoning") is None
    assert scene.value("chunk_gap_seconds_count", **LLM) == 6


def test_what_is_no_end_of_an_exchange_is_counted_too() -> None:
    scene = Scene()
    tally = scene.metrics.tally("throttled", "chat", "tokens")
    assert scene.value("throttled_total", route="chat", limit="tokens") == 0
    tally.add()
    scene.metrics.tally("throttled", "chat", "tokens").add(2)
    assert scene.value("throttled_total", route="chat", limit="tokens") == 3
    scene.ledger.tallies.levels.append(lambda: [(("endpoint_load", "llm", "http://a", "waiting"), 4.0)])
    scene.ledger.tallies.levels.append(lambda: [(("shared_clients", "chat"), 5.0)])
    assert scene.value("endpoint_load", upstream="llm", endpoint="http://a", kind="waiting") == 4
    total = pickle.loads(pickle.dumps(scene.metrics.snapshot()))
    total.merge(scene.metrics.snapshot())
    assert total.counts["throttled", "chat", "tokens"] == 6
    assert total.levels["endpoint_load", "llm", "http://a", "waiting"] == 4, "the engine says it to every process"
    assert total.levels["shared_clients", "chat"] == 10


def test_a_failure_that_a_stream_reports_is_counted_as_such() -> None:
    scene = Scene()
    assert scene.value("error_events_total", **LLM) == 0
    scene.end(streaming(new_exchange()), errors.UpstreamReportedError())
    assert scene.value("error_events_total", **LLM) == 1
    assert scene.value("upstream_errors_total", error="upstream_error", **LLM) == 1
    assert scene.value("disconnects_total", route="chat", side="upstream", phase="body") == 0


def test_snapshots_of_processes_add_up() -> None:
    one, two = (
        Scene((Upstream("llm", [Endpoint("http://a", idle=1)]),)),
        Scene((Upstream("llm", [Endpoint("http://a", up=False, idle=2)]),)),
    )
    one.end(streaming(new_exchange()))
    two.end(streaming(new_exchange()))
    two.ledger.open(streaming(new_exchange()))
    total = pickle.loads(pickle.dumps(one.metrics.snapshot()))
    total.merge(pickle.loads(pickle.dumps(two.metrics.snapshot())))
    assert total.requests["chat", "POST", 200] == 2
    assert total.series["chat", "llm"].response_bytes == 9000
    assert total.series["chat", "llm"].active == 1
    assert total.series["chat", "llm"].ttfb.sum == 7.5
    assert total.connections["llm", "idle"] == 3
    assert total.endpoints["llm", "http://a"] == (False, 0)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4;q=0.5, */*;q=0.1", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.75,text/plain;q=0.5", OPENMETRICS),
        ("application/openmetrics-text; version=nonsense", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text", OPENMETRICS),
    ],
)
def test_the_format_is_what_the_scraper_accepts(accept: str, content_type: str) -> None:
    pieces, actual = Scene().metrics.exposition(accept)
    assert actual == content_type
    assert b"".join(pieces).endswith(b"# EOF\n") == (content_type == OPENMETRICS)


def test_openmetrics_parses_and_says_the_same() -> None:
    scene = Scene((Upstream("llm", [Endpoint("http://a")]),))
    scene.end(streaming(new_exchange()))
    pieces, _ = scene.metrics.exposition("application/openmetrics-text")
    parse: Callable[[str], Iterable[Metric]] = parse_openmetrics
    families = {family.name: family for family in parse(b"".join(pieces).decode())}
    assert {"streamproxy_" + family.name for family in FAMILIES} <= set(families)
    assert families["streamproxy_ttfb_seconds"].unit == "seconds"
    assert families["streamproxy_build"].type == "info"
    ours = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name.startswith("streamproxy_")
    }
    assert ours == {key: value for key, value in scene.samples().items() if key[0].startswith("streamproxy_")}


def test_reloads_are_counted_by_how_they_went_and_show_before_the_first() -> None:
    scene = Scene((Upstream("llm", [Endpoint("http://a")]),))
    name = "streamproxy_config_reloads_total"
    assert {key: value for key, value in scene.samples().items() if key[0] == name} == {
        (name, (("result", "ok"),)): 0.0,
        (name, (("result", "error"),)): 0.0,
    }
    scene.metrics.reloaded(ok=False)
    scene.metrics.reloaded(ok=True)
    scene.metrics.reloaded(ok=True)
    assert scene.samples()[name, (("result", "ok"),)] == 2.0
    assert scene.samples()[name, (("result", "error"),)] == 1.0


@pytest.mark.real("promtool")
def test_promtool_has_no_complaint() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is missing"
        pytest.skip("promtool is missing")
    scene = Scene((Upstream("llm", [Endpoint("http://a")]),))
    scene.end(streaming(new_exchange()))
    text = b"".join(scene.metrics.exposition()[0])
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_what_an_engine_says_is_shown_as_it_says_it() -> None:
    read = Endpoint("http://a", load=LoadReading(3.0, 1.0, 0.25, 0.0, 0))
    unread = Endpoint("http://b")
    metrics = Metrics(Ledger(), lambda: [Upstream("llm", [read, unread])])
    levels = {key[1:]: level for key, level in metrics.finished().levels.items() if key[0] == "endpoint_load"}
    assert levels == {
        ("llm", "http://a", "running"): 3.0,
        ("llm", "http://a", "waiting"): 1.0,
        ("llm", "http://a", "cache"): 0.25,
    }
