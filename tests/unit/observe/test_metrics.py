"""What a scrape says, and that it says the same whenever it comes."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from streamproxy import __version__, errors
from streamproxy.exchange.exchange import TIME_BUCKETS, Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.observe.metrics import FAMILIES, OPENMETRICS, TEXT, Metrics
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

    def end(self, exchange: Exchange, error: errors.ExchangeError | None = None) -> None:
        exchange.error = error
        self.ledger.open(exchange)
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
    exchange = streaming(new_exchange())
    scene.ledger.open(exchange)
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
    exchange.queued = 1.5
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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 6), rounds=st.integers(1, 25))
def test_flushed_and_live_add_up_to_the_same_whatever_the_moment(seed: int, count: int, rounds: int) -> None:
    """Counters never fall from one scrape to the next, and at the end a scraped ledger equals an unwatched one."""
    dice = random.Random(seed)
    watched, unwatched = Scene(), Scene()
    exchanges = []
    for number in range(count):
        route, upstream = dice.choice(ROUTES)
        exchange = new_exchange(route=route, upstream=upstream)
        exchange.request_id = exchange.id = f"id-{number}"
        exchanges.append(exchange)
        watched.ledger.open(exchange)
    last = watched.metrics.snapshot()
    for _ in range(rounds):
        exchange = dice.choice(exchanges)
        if exchange.id in watched.ledger.live:
            step(exchange, dice)
            if dice.random() < 0.2:
                exchange.error = dice.choice(ERRORS)
                watched.ledger.close(exchange)
        now = watched.metrics.snapshot()
        for pair, series in now.series.items():
            before = last.series[pair]
            for slot in ("request_bytes", "response_bytes", "events", "keepalives", "retries", "backpressure"):
                assert getattr(series, slot) >= getattr(before, slot)
            for slot in ("queue", "ttfb", "upstream_ttfb", "chunk_gap", "stream_duration", "stream_bytes"):
                mine, theirs = getattr(series, slot).counts, getattr(before, slot).counts
                assert all(new >= old for new, old in zip(mine, theirs, strict=True))
        live = [e for e in watched.ledger.live.values() if e.phase == "body"]
        assert sum(series.active for series in now.series.values()) == len(live)
        last = now
    for exchange in exchanges:
        watched.ledger.close(exchange)
        unwatched.ledger.open(exchange)
        unwatched.ledger.close(exchange)
    durations = "streamproxy_stream_duration_seconds"
    ends = [
        {key: value for key, value in scene.samples().items() if not key[0].startswith(("process_", durations))}
        for scene in (watched, unwatched)
    ]
    assert ends[0] == ends[1]


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
