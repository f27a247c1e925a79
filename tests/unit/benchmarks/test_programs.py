"""The compiled upstream and generator, against each other."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.instructions import collected, count
from benchmarks.loads import LOADS, carries, measure
from benchmarks.loads.http1 import abort, download, upload
from benchmarks.loads.http2 import requests as http2_requests
from benchmarks.peers import PEERS, SEVERAL, Launch, Peer, Place
from benchmarks.peers.ours import streamproxy
from benchmarks.peers.published import EVENTS_OF_REDIS
from benchmarks.programs import BenchError, Generator, Upstream, build, fetch, running
from benchmarks.report_tables import TABLES
from benchmarks.rig import Cores, Programs, Session, Sizes, choose_cores
from benchmarks.workers import off, spread
from streamproxy import load_config

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

SIZES = Sizes(seconds=0.1, idle_streams=20, keepalive=1, download=4_000_000, aborts=20)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    out = tmp_path_factory.mktemp("programs")
    return Programs(*build(out), out)


@pytest.fixture
def session(programs: Programs) -> Session:
    return Session(PEERS["direct"], SIZES, programs, Cores(set(), set(), set()))


def busy(numbers: dict[str, float]) -> object:
    """Whether anything was measured at all."""
    return numbers.get("per_second", 1.0) > 0


def measured(
    name: str, peer: Peer, sizes: Sizes, programs: Programs, holds: Callable[[dict[str, float]], object] = busy
) -> dict[str, float]:
    """What comes of a load in the first of ever longer times in which a busy machine gets to do what ``holds`` asks."""
    for seconds in (sizes.seconds, 10 * sizes.seconds):
        session = Session(peer, sizes._replace(seconds=seconds), programs, Cores(set(), set(), set()))
        with contextlib.suppress(BenchError):
            numbers = measure(LOADS[name], session)
            if holds(numbers):
                return numbers
    longest = sizes._replace(seconds=100 * sizes.seconds)
    return measure(LOADS[name], Session(peer, longest, programs, Cores(set(), set(), set())))


def test_programs_are_compiled_once(programs: Programs) -> None:
    before = programs.load.stat().st_mtime_ns
    assert build(programs.directory) == (programs.upstream, programs.load)
    assert programs.load.stat().st_mtime_ns == before


def test_without_a_compiler_the_harness_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError, match="no gcc"):
        build(tmp_path)


def test_responses_are_counted_and_timed(programs: Programs) -> None:
    numbers = measured("tiny", PEERS["direct"], SIZES, programs)
    assert numbers["per_second"] > 0
    assert 0 < numbers["p50_us"] <= numbers["p99_us"]
    assert numbers["errors"] == 0


def test_a_core_that_two_share_is_as_busy_as_both_and_two_cores_as_the_busier(programs: Programs) -> None:
    def session(*cores: set[int]) -> Session:
        return Session(PEERS["direct"], SIZES, programs, Cores(*cores))

    assert session({1}, {0}, {0}).busiest(0.25, 0.5) == 0.75
    assert session({2}, {0}, {1}).busiest(0.25, 0.5) == 0.5
    assert session(set(), set(), set()).busiest(0.25, 0.5) == 0.75


def test_a_proxy_that_does_not_start_says_where_it_told_why(programs: Programs) -> None:
    peer = Peer("broken", "broken", lambda: "1", lambda _: Launch(["sh", "-c", "echo no key is set; exit 3"], {}))
    with (
        pytest.raises(BenchError, match=r"status 3 .*broken\.log") as failed,
        Session(peer, SIZES, programs, Cores(set(), set(), set())),
    ):
        pass
    log = Path(str(failed.value).rpartition(" ")[2])
    assert log.read_text() == "no key is set\n"


AFFINITY = "import os; print(sorted(os.sched_getaffinity(0))); raise SystemExit(3)"


@pytest.mark.parametrize("several", [False, True])
def test_several_processes_are_not_kept_on_one_core(programs: Programs, several: bool) -> None:
    cores = choose_cores()
    if not cores.proxy:
        pytest.skip("there is one core")
    launch = Launch([sys.executable, "-c", AFFINITY], {})
    peer = Peer("spread" if several else "kept", "", lambda: "1", lambda _: launch, several=several)
    with pytest.raises(BenchError) as failed, Session(peer, SIZES, programs, cores):
        pass
    log = Path(str(failed.value).rpartition(" ")[2])
    assert log.read_text() == f"{sorted(cores.several if several else cores.proxy)}\n"
    assert len(cores.several) > 1


def test_as_many_workers_are_measured_as_the_name_says(tmp_path: Path) -> None:
    for name, workers in (("streamproxy-1-worker", 1), ("streamproxy-2-workers", 2)):
        launch = SEVERAL[name].launch
        assert launch is not None
        launch(Place(1, 2, tmp_path, 15))
        assert load_config(tmp_path / "streamproxy.yaml").server.workers == workers


def test_events_carry_the_time_at_which_they_were_written(programs: Programs) -> None:
    numbers = measured("events", PEERS["direct"], SIZES, programs)
    assert numbers["per_second"] > 0
    assert 0 < numbers["p50_us"] <= numbers["p99_us"] <= numbers["p999_us"]
    assert numbers["errors"] == 0


def test_chats_begin_anew_when_they_end(programs: Programs) -> None:
    peer, sizes = replace(PEERS["direct"], streams=3), SIZES._replace(seconds=1.0)
    gap = pytest.approx(20_000, rel=0.5)
    numbers = measured("llm", peer, sizes, programs, lambda numbers: numbers["gap_p50_us"] == gap)
    assert numbers["errors"] == 0
    assert numbers["p50_us"] > 0  # of first events: all chats had begun before the measurement
    assert numbers["gap_p50_us"] == gap


def test_a_load_is_measured_only_with_peers_that_can_carry_it() -> None:
    assert carries("tiny", PEERS["recipe"])
    assert not carries("h2-tiny", PEERS["recipe"])
    assert carries("share", PEERS["streamproxy"])
    assert carries("share", PEERS["streamproxy-share"])
    assert not carries("share", PEERS["streamproxy-resume"])
    assert not carries("tiny", PEERS["streamproxy-share"])
    assert carries("published", PEERS["streamproxy-events"])
    assert carries("published", PEERS["nchan"])
    assert not carries("published", PEERS["streamproxy"])
    assert not carries("tiny", PEERS["nchan"])


TINY = Sizes(0.1, 4, 1, 100_000, 4, streams=(2, 4), sustained=4)
WITHOUT = ("fresh", "ttfb", "flood", "streams", "sustained", "models", "resume", "share")
THROUGH = ("h2-tiny", "h2-events", "websocket")


@pytest.mark.parametrize("name", WITHOUT)
def test_a_load_runs_without_a_proxy(programs: Programs, name: str) -> None:
    peer = replace(PEERS["direct"], streams=4)
    numbers = measured(name, peer, TINY, programs)
    assert numbers["errors"] == 0
    assert numbers.get("per_second", 1.0) > 0


@pytest.mark.parametrize("name", THROUGH)
def test_a_load_of_another_protocol_runs_through_the_proxy(programs: Programs, name: str) -> None:
    if name == "h2-tiny" and shutil.which("h2load") is None:
        pytest.skip("needs h2load")
    peer = replace(PEERS["streamproxy-pure"], streams=4)
    numbers = measured(name, peer, TINY, programs)
    assert numbers["cpu_us"] > 0
    assert numbers["errors"] == 0


@pytest.mark.parametrize(("path", "options", "different"), [("/fresh", ["fresh=1"], True), ("/tiny", [], False)])
def test_heads_are_the_same_or_never_the_same(
    programs: Programs, path: str, options: list[str], different: bool
) -> None:
    """Between the two stands a listener that sees the heads of three requests and of their responses."""
    requests, responses = set(), set()
    with (
        running([str(programs.upstream)], cores=set(), piped=True) as upstream,
        socket.create_server(("127.0.0.1", 0)) as listener,
        running(
            [str(programs.load), "download", str(listener.getsockname()[1]), path, "count=3", "conns=1", *options],
            cores=set(),
            piped=True,
        ) as load,
    ):
        generator = Generator(load)
        client, _ = listener.accept()
        generator.ready()
        generator.mark()
        with client, socket.create_connection(("127.0.0.1", Upstream(upstream).port)) as server:
            for _ in range(3):
                requests.add(client.recv(65536))
                server.sendall(max(requests))
                answer = server.recv(65536)
                responses.add(answer.partition(b"\r\n\r\n")[0])
                client.sendall(answer)
            assert generator.result()["errors"] == 0
    assert (len(requests), len(responses)) == ((3, 3) if different else (1, 1))


def test_what_is_published_comes_to_every_client(programs: Programs) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")
    events = PEERS["streamproxy-events"]
    peer = replace(events, launch=streamproxy(build="pure", upstream=EVENTS_OF_REDIS), streams=4)
    numbers = measured("published", peer, TINY._replace(seconds=0.5), programs)
    assert numbers["cpu_us"] > 0
    assert numbers["errors"] == 0


def test_the_streams_of_each_worker_are_counted(programs: Programs) -> None:
    assert sum(spread(2, 40, 1000.0, programs)) == 40
    assert off([40, 60]) == pytest.approx(0.2)


def test_every_load_is_run_by_a_test() -> None:
    own = {"tiny", "events", "llm", "idle", "download", "upload", "abort", "published"}
    assert {*own, *WITHOUT, *THROUGH} == set(LOADS)


def test_every_load_has_a_table() -> None:
    assert set(TABLES) == set(LOADS)


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("streamproxy")])
def test_each_of_our_peers_has_a_configuration_that_is_valid(name: str, tmp_path: Path) -> None:
    launch = PEERS[name].launch
    assert launch is not None
    launch(Place(1, 2, tmp_path, 15, 1, 3))
    assert "bench" in {route.name for route in load_config(tmp_path / "streamproxy.yaml").routes}


def test_every_idle_stream_gets_its_keepalive(programs: Programs) -> None:
    one = pytest.approx(1.0, abs=0.2)
    numbers = measured("idle", PEERS["direct"], SIZES, programs, lambda numbers: numbers["keepalives_a_stream"] == one)
    assert numbers["keepalives_a_stream"] == one
    assert numbers["errors"] == 0


@pytest.mark.parametrize("load", [download, upload])
def test_bulk_is_complete(session: Session, load: object) -> None:
    assert callable(load)
    with session:
        numbers = load(session)
    assert numbers["mb_per_second"] > 0
    assert numbers["errors"] == 0


def test_an_aborted_stream_leaves_nothing_open(session: Session) -> None:
    with session:
        numbers = abort(session)
        assert session.upstream.stats()["open_streams"] == 0
    assert (numbers["left_open"], numbers["errors"]) == (0, 0)


def test_what_was_started_is_stopped(programs: Programs, session: Session) -> None:
    measure(LOADS["tiny"], session)
    with pytest.raises(OSError, match="refused"):
        fetch(session.upstream.port, "/stats")


def test_instructions_are_the_last_total_that_callgrind_wrote() -> None:
    assert collected("==7== Collected : 12\n==7==\n==8== Collected : 345\n") == 345
    with pytest.raises(BenchError, match="counted nothing"):
        collected("==7== Command: true\n")


def test_a_peer_is_not_counted_under_a_load_that_it_cannot_carry(programs: Programs) -> None:
    with pytest.raises(BenchError, match="cannot carry h2-tiny"):
        count(PEERS["streamproxy-hypercorn"], "h2-tiny", 1, programs.directory, (programs.upstream, programs.load))


def test_without_h2load_its_loads_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError, match="h2load is not installed"):
        http2_requests(1, "-n", "1")
