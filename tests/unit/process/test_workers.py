"""What the supervisor decides: when to start again, and who listens where; and what is said of several workers."""

from __future__ import annotations

import os
import pickle
import random
import select
import socket
import sys

import pytest

from streamproxy.config import Address, parse_config
from streamproxy.config.advice import advice
from streamproxy.errors import ConfigError
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.access_log import record
from streamproxy.process.activation import ActivationError, activated
from streamproxy.process.channel import row_of
from streamproxy.process.fleet import update
from streamproxy.process.processes import Processes
from streamproxy.process.shares import Arrivals, Shares, weights
from streamproxy.process.watchdog import Watchdog
from streamproxy.process.workers import LONGEST_PAUSE, Backoff
from streamproxy.server.sockets import BindError, bind, bind_several, close
from tests.unit.observe.exchanges import new_exchange, streaming

ROUTE = "routes: [{name: chat, path: /*, upstream: http://a%s}]\n"


def test_the_first_death_costs_no_pause_and_later_ones_more_and_more() -> None:
    backoff = Backoff()
    pauses = [backoff.after(0.0) for _ in range(12)]
    assert pauses[0] == 0.0
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[1] > 0.0
    assert pauses[-1] == LONGEST_PAUSE
    assert backoff.after(3600.0) == 0.0


def test_a_worker_hangs_that_has_said_nothing_for_so_many_turns() -> None:
    watchdog: Watchdog[str] = Watchdog(3)
    for number in range(10):
        assert watchdog.tick(1.0, {"quick": number, "slow": number // 3}) == []
    assert [watchdog.tick(1.0, {"quick": number, "slow": 3}) for number in range(10, 13)] == [[], [], ["slow"]]
    assert watchdog.tick(1.0, {"quick": 13}) == []


def test_no_worker_hangs_on_a_machine_that_does() -> None:
    watchdog: Watchdog[str] = Watchdog(3)
    for _ in range(2):
        assert watchdog.tick(1.0, {"one": 1}) == []
    for _ in range(100):
        assert watchdog.tick(5.0, {"one": 1}) == []
    assert watchdog.tick(5.0, {"one": 2}) == []
    assert [watchdog.tick(1.0, {"one": 2}) for _ in range(3)] == [[], [], ["one"]]


def test_each_worker_has_a_socket_of_its_own_on_one_port() -> None:
    listeners = bind_several(Address(host="127.0.0.1", port=0), 2)
    shares = Shares(listeners, 2)
    try:
        (one,), (two,) = shares.of(0), shares.of(1)
        assert one is not two
        assert one.getsockname() == two.getsockname()
    finally:
        shares.close()


def test_a_withdrawn_place_listens_again_on_its_port_and_the_last_is_never_withdrawn() -> None:
    shares = Shares(bind_several(Address(host="127.0.0.1", port=0), 2), 2)
    try:
        port = shares.of(0)[0].getsockname()
        shares.withdraw(0)
        shares.withdraw(1)
        assert [len(shares.of(place)) for place in (0, 1)] == [0, 1]
        shares.restore(0)
        assert shares.of(0)[0].getsockname() == port
    finally:
        shares.close()


def test_one_socket_is_shared_by_all() -> None:
    listener = bind(Address(host="127.0.0.1", port=0))
    shares = Shares([listener], 2)
    assert shares.of(0) == shares.of(1) == [listener]
    shares.close()


def test_a_port_that_others_share_is_in_use_all_the_same() -> None:
    first = bind_several(Address(host="127.0.0.1", port=0), 2)
    try:
        with pytest.raises(BindError, match="in use"):
            bind_several(Address(host="127.0.0.1", port=first[0].getsockname()[1]), 2)
    finally:
        for listener in first:
            close(listener)


def test_the_memory_of_two_processes_is_more_than_that_of_one() -> None:
    def memory(processes: Processes) -> float:
        found = {metric.name: metric.samples[0].value for metric in processes.collect()}
        return float(found["process_resident_memory_bytes"])

    alone = memory(Processes(lambda: ()))
    assert memory(Processes(lambda: [os.getpid()])) > 1.5 * alone


def test_an_exchange_looks_the_same_in_the_supervisor() -> None:
    exchange, mirror = streaming(new_exchange()), Exchange("", "", "", "", "")
    exchange.query, exchange.principal, exchange.stream = b"key=x", "token:ann", "name"
    update(mirror, pickle.loads(pickle.dumps(row_of(exchange))))
    assert record(mirror, 200.0, live=True) == record(exchange, 200.0, live=True)


def test_limits_are_told_of_where_each_worker_has_its_own() -> None:
    limited = ROUTE % ", limits: {max_streams: 8}"
    (sentence,) = advice(parse_config("server: {workers: 4}\n" + limited, name="f.yaml"))
    assert "max_streams: 8" in sentence
    assert list(advice(parse_config(limited, name="f.yaml"))) == []
    assert list(advice(parse_config("server: {workers: 4}\n" + ROUTE % "", name="f.yaml"))) == []


def test_the_admin_pages_of_one_of_several_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml:2:16: admin.mount: would show one of several workers"):
        parse_config("server: {workers: 2}\nadmin: {mount: /admin}\n" + ROUTE % "", name="f.yaml")


def test_sockets_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert activated(environ, 2) == ([], [])
    assert activated({}, 2) == ([], [])


def test_what_does_not_listen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as idle:
        monkeypatch.setattr("streamproxy.process.activation._FIRST", os.dup(idle.fileno()))
        with pytest.raises(ActivationError, match="not a listening stream socket"):
            activated({"LISTEN_PID": "2", "LISTEN_FDS": "1"}, 2)


def test_passed_sockets_are_told_apart_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = bind(Address(host="127.0.0.1", port=0))
    monkeypatch.setattr("streamproxy.process.activation._FIRST", os.dup(listener.fileno()))
    passed = activated({"LISTEN_PID": "2", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "admin"}, 2)
    assert passed.main == []
    assert [one.getsockname() for one in passed.admin] == [listener.getsockname()]
    for one in (*passed.admin, listener):
        close(one)


@pytest.mark.parametrize(
    ("streams", "found"),
    [
        ([0, 0], [100, 100]),
        ([3, 5], [102, 98]),  # few: hardly a difference
        ([200, 300, 250, 250], [129, 71, 100, 100]),
        ([0, 4000], [290, 25]),
        ([10, None, 10], [100, 0, 100]),
        ([None, None], [100, 100]),
    ],
)
def test_a_worker_with_fewer_streams_gets_more_connections(streams: list[int | None], found: list[int]) -> None:
    assert weights(streams) == found


@pytest.mark.parametrize(
    ("streams", "coming", "found"),
    [
        ([3, 5], 1.0, [104, 96]),  # few: hardly a difference, though hardly any come
        ([245, 255], 10.0, [136, 64]),  # seven of ten make up for a third
        ([245, 255], 1000.0, [103, 97]),  # of a thousand, any correction is enough
        ([10, None, 10], 1.0, [100, 0, 100]),
    ],
)
def test_a_difference_counts_more_where_few_streams_come(
    streams: list[int | None], coming: float, found: list[int]
) -> None:
    assert weights(streams, coming) == found


def test_a_second_without_arrivals_does_not_mean_that_none_come() -> None:
    arrivals = Arrivals()
    assert [arrivals.count(total) for total in (50, 50, 150, 100, 110)] == [50, 40, 100, 80, 64]


def arrivals(shares: Shares, places: int, count: int) -> list[int]:
    """How many of so many connections come to each place."""
    found = [0] * places
    listeners = [(listener, place) for place in range(places) for listener in shares.of(place)]
    for _ in range(count):
        with socket.create_connection(listeners[0][0].getsockname()[:2]):
            ready, _, _ = select.select([listener for listener, _ in listeners], [], [], 5.0)
            (place,) = (place for listener, place in listeners if listener in ready)
            ready[0].accept()[0].close()
        found[place] += 1
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs SO_ATTACH_REUSEPORT_CBPF")
def test_the_system_sends_connections_where_the_balance_says(host: str) -> None:
    shares = Shares(bind_several(Address(host=host, port=0), 3), 3)
    try:
        shares.balance([10, None, None])
        assert arrivals(shares, 3, 40) == [40, 0, 0]
        shares.withdraw(0)  # the last socket takes its number
        shares.balance([None, None, 10])
        assert arrivals(shares, 3, 40) == [0, 0, 40]
        shares.restore(0)
        shares.balance([10, None, None])
        assert arrivals(shares, 3, 40) == [40, 0, 0]
        shares.balance([10, 10, 10])
        assert all(arrivals(shares, 3, 100))
        shares.balance([0, 4000, 4000])
        first, *others = arrivals(shares, 3, 300)
        assert first > max(others) * 2
    finally:
        shares.close()


@pytest.mark.parametrize(("places", "coming"), [(2, 50), (4, 50), (8, 10)])
def test_of_a_thousand_streams_no_worker_is_a_tenth_off_its_share(places: int, coming: int) -> None:
    """As the workers' reports of each second tell them; by chance alone one of eight workers is mostly 14 % off."""
    chance, off = random.Random(3), []
    for _ in range(20):
        streams, known = [0] * places, Arrivals()
        while sum(streams) < 1000:
            for place in chance.choices(range(places), weights(streams, known.count(sum(streams))), k=coming):
                streams[place] += 1
        off.append(max(abs(count * places / 1000 - 1) for count in streams))
    assert max(off) < 0.1


def test_streams_come_into_balance_and_stay_there() -> None:
    chance = random.Random(7)
    streams: list[int | None] = [0, 0, 0, 0]
    for second in range(90):
        likely = weights(streams)
        for place in chance.choices(range(4), likely, k=200):
            streams[place] = (streams[place] or 0) + 1
        if second == 15:
            streams[1] = 0  # all of a worker's streams have ended
    counts = [count or 0 for count in streams]
    assert (max(counts) - min(counts)) / (sum(counts) / 4) < 0.1


def test_reports_are_prompt_when_all_came_within_a_tick_in_time() -> None:
    watchdog: Watchdog[str] = Watchdog(30)
    seen = []
    for took, heard in (
        (1.0, {"a": 1, "b": 1}),
        (1.0, {"a": 2, "b": 1}),
        (1.0, {"a": 3, "b": 2}),
        (5.0, {"a": 4, "b": 3}),
    ):
        watchdog.tick(took, heard)
        seen.append(watchdog.prompt)
    assert seen == [True, False, True, False]


def test_a_worker_that_says_nothing_for_some_ticks_does_not_answer() -> None:
    watchdog: Watchdog[str] = Watchdog(30)
    for tick in range(5):
        watchdog.tick(1.0, {"silent": 1, "alive": tick})
    assert not watchdog.answers("silent")
    assert watchdog.answers("alive")
    assert watchdog.answers("new")
