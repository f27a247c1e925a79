"""Probes over an endpoint's own client."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy import errors
from streamproxy.config.model import Health
from streamproxy.upstream import Endpoint, watch
from streamproxy.upstream.prober import Prober
from streamproxy.upstream.roster import Roster
from tests.doubles.until import until
from tests.unit.upstream.fakes import Answer, FakeClient, client_of, endpoint

SETTINGS = Health(path="/health", interval=0.01, timeout=0.05, healthy_after=2, unhealthy_after=2, status=(200, 204))


class Probed:
    """An endpoint that is probed; `after` waits for so many."""

    def __init__(self, *answers: Answer) -> None:
        self.endpoint: Endpoint = endpoint("a", *answers)
        self.roster = Roster("u", [self.endpoint])
        self.prober = Prober(SETTINGS, self.roster, uniform=lambda: 0.0)
        self.prober.watch(self.endpoint)

    async def after(self, probes: int) -> None:
        await until(lambda: len(client_of(self.endpoint).requests) > probes)


@pytest.mark.parametrize("answer", [500, 301, errors.ConnectionRefused(), errors.ConnectionTerminated()])
async def test_bad_probes_take_an_endpoint_out_and_good_ones_bring_it_back(answer: Answer) -> None:
    up: list[bool] = []  # at the beginning of each probe

    def watched(result: Answer) -> Answer:
        async def look(client: FakeClient) -> Answer:
            up.append(probed.endpoint.up)
            return result

        return look

    probed = Probed(*(watched(result) for result in (200, answer, answer, 204, 204, 200)))
    await probed.after(6)
    await probed.prober.aclose()
    assert up[:6] == [True, True, True, False, False, True]


async def test_a_probe_without_an_answer_in_time_is_bad(caplog: pytest.LogCaptureFixture) -> None:
    async def hang(client: FakeClient) -> int:
        await asyncio.Event().wait()
        return 200

    probed = Probed(hang, 200)
    await probed.after(1)
    assert not probed.endpoint.up
    assert "no answer in 0.05 s" in caplog.text
    await probed.prober.aclose()


async def test_a_pool_without_room_says_nothing_of_health() -> None:
    probed = Probed(200, errors.LimitReached(), errors.LimitReached(), errors.LimitReached(), 200)
    await probed.after(4)
    assert probed.endpoint.up
    await probed.prober.aclose()


async def test_a_probe_asks_for_the_path_with_the_endpoints_host() -> None:
    probed = Probed(200)
    await probed.after(1)
    assert client_of(probed.endpoint).requests[0] == (
        "GET",
        [(b"host", b"a"), (b"user-agent", b"streamproxy-health")],
        None,
    )
    await probed.prober.aclose()


async def test_a_host_of_the_files_choice_goes_to_probes_too() -> None:
    one = endpoint("a")
    prober = Prober(SETTINGS, Roster("u", [one]), host=b"api.example", uniform=lambda: 0.0)
    prober.watch(one)
    await until(lambda: client_of(one).requests)
    await prober.aclose()
    assert (b"host", b"api.example") in client_of(one).requests[0][1]


async def test_a_probe_is_not_a_stream_and_running_streams_are_not_its_business() -> None:
    probed = Probed(500)
    probed.endpoint.streams = 3
    await probed.after(2)
    assert (probed.endpoint.up, probed.endpoint.streams) == (False, 3)
    await probed.prober.aclose()


async def test_a_dropped_endpoint_is_probed_no_more() -> None:
    probed = Probed(200)
    other = endpoint("b")
    probed.prober.watch(other)
    await probed.after(1)
    probed.prober.drop(probed.endpoint)
    await asyncio.sleep(0)
    count, others = len(client_of(probed.endpoint).requests), len(client_of(other).requests)
    await until(lambda: len(client_of(other).requests) > others + 3)
    assert len(client_of(probed.endpoint).requests) == count
    await probed.prober.aclose()


async def test_a_probe_that_is_under_way_may_end_when_all_stop() -> None:
    ended = []

    async def slow(client: FakeClient) -> int:
        gate.set()
        await go_on.wait()
        ended.append(True)
        return 200

    gate, go_on = asyncio.Event(), asyncio.Event()
    probed = Probed(slow)
    await gate.wait()
    closing = asyncio.create_task(probed.prober.aclose())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    assert (ended, len(client_of(probed.endpoint).requests)) == ([True], 1)


async def test_a_probe_without_an_end_does_not_keep_the_others_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(client: FakeClient) -> int:
        gate.set()
        await asyncio.Event().wait()
        return 200

    monkeypatch.setattr(watch, "GRACE", 0.0)
    gate = asyncio.Event()
    probed = Probed(hang)
    await gate.wait()
    await probed.prober.aclose()
    assert len(client_of(probed.endpoint).requests) == 1
