"""A request at one endpoint, or at several one after the other."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy import errors
from streamproxy.config.model import Outlier, Retry
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import Timer
from streamproxy.upstream import Endpoint, Upstream
from streamproxy.wire.headers import Headers, first
from tests.unit.origins.calls import call_of, open_at, origin_of
from tests.unit.upstream.fakes import FakeClient, client_of, endpoint, new_exchange, settings

RETRY = Retry.model_validate({"attempts": 3, "buffer": 100, "backoff": 0})
EJECT = settings(balance="round_robin", outlier=Outlier(consecutive_failures=1, eject_for=60.0))


async def send(
    upstream: Upstream,
    exchange: Exchange,
    *chunks: bytes,
    retry: Retry | None = RETRY,
    headers: Headers | None = None,
    preserve_host: bool = False,
) -> int:
    """Send a request and close its response; returns the status."""
    call = call_of(exchange, *chunks, headers=headers)
    response = await origin_of(upstream, retry, preserve_host=preserve_host).open(call)
    await response.aclose(None)
    return response.status


async def interrupted(
    upstream: Upstream, exchange: Exchange, waiting: asyncio.Event, reason: errors.ExchangeError
) -> None:
    """Send a request, and end its exchange for this reason when ``waiting`` is set."""

    async def run() -> None:
        await send(upstream, exchange)

    exchange.task = asyncio.create_task(run())
    await waiting.wait()
    exchange.interrupt(reason)
    with pytest.raises(asyncio.CancelledError):
        await exchange.task


def rotating(*endpoints: Endpoint) -> Upstream:
    return Upstream("u", endpoints, settings(balance="round_robin"))


async def test_an_endpoint_holds_its_place_until_the_end() -> None:
    one = endpoint("a")
    upstream, exchange = rotating(one, endpoint("b")), new_exchange()
    response = await open_at(upstream, exchange)
    assert one.streams == 1
    await response.aclose(None)
    assert one.streams == 0
    assert exchange.endpoint == "http://a"


# Ejection.


async def test_an_endpoint_that_fails_is_ejected_and_the_others_serve() -> None:
    bad, good = endpoint("bad", errors.ConnectionRefused()), endpoint("good")
    upstream = Upstream("u", [bad, good], EJECT)
    with pytest.raises(errors.ConnectionRefused):
        await send(upstream, new_exchange(), retry=None)
    assert [await send(upstream, new_exchange(), retry=None) for _ in range(4)] == [200] * 4
    assert (bad.up, bad.streams) == (False, 0)
    await upstream.aclose()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_bad_gateway_counts_against_its_endpoint(status: int) -> None:
    bad, good = endpoint("bad", status), endpoint("good")
    upstream = Upstream("u", [bad, good], EJECT)
    assert await send(upstream, new_exchange(), retry=None) == status
    assert not bad.up
    await upstream.aclose()


async def test_an_error_of_the_application_does_not_count() -> None:
    one, other = endpoint("a", 500), endpoint("b", 500)
    upstream = Upstream("u", [one, other], EJECT)
    assert [await send(upstream, new_exchange(), retry=None) for _ in range(4)] == [500] * 4
    assert one.up
    assert other.up


async def test_a_stream_that_breaks_counts_against_its_endpoint_and_a_client_that_leaves_does_not() -> None:
    one, other = endpoint("a"), endpoint("b")
    upstream = Upstream("u", [one, other], EJECT)
    exchange = new_exchange()
    for fault in (errors.ClientDisconnected(), errors.WriteTimeout()):
        for _ in range(2):  # one at each endpoint
            await (await open_at(upstream, exchange)).aclose(fault)
    assert one.up
    await (await open_at(upstream, exchange)).aclose(errors.ResponseIncomplete())
    assert not one.up
    await upstream.aclose()


# Retries.


async def test_another_endpoint_serves_what_the_first_refused() -> None:
    bad, good = endpoint("bad", errors.ConnectionRefused()), endpoint("good")
    exchange = new_exchange()
    assert await send(rotating(bad, good), exchange) == 200
    assert (exchange.retries, exchange.endpoint) == (1, "http://good")
    assert (bad.streams, good.streams) == (0, 0)


async def test_without_retries_an_error_is_an_error() -> None:
    good = endpoint("good")
    upstream = rotating(endpoint("bad", 503), good)
    assert await send(upstream, new_exchange(), retry=None) == 503
    assert client_of(good).requests == []


async def test_a_moved_request_carries_the_host_of_its_new_endpoint() -> None:
    good = endpoint("good")
    await send(rotating(endpoint("bad", 503), good), new_exchange(), headers=[(b"x", b"1")])
    ((method, headers, body),) = client_of(good).requests
    assert (method, headers[:2], body) == ("GET", [(b"host", b"good"), (b"x", b"1")], None)


async def test_a_host_that_the_file_or_the_client_chose_stays() -> None:
    good = endpoint("good")
    upstream = Upstream("u", [endpoint("bad", 503), good], settings(balance="round_robin", host="preserve"))
    await send(upstream, new_exchange(), preserve_host=True)
    assert first(client_of(good).requests[0][1], b"host") == b"proxy"


async def test_a_response_that_is_not_relayed_is_left_before_the_next_attempt() -> None:
    log: list[str] = []

    async def look(client: FakeClient) -> int:
        log.extend(client_of(bad).log)
        return 200

    bad = endpoint("bad", 503)
    assert await send(rotating(bad, endpoint("good", look)), new_exchange()) == 200
    assert log == ["answered 503", "left"]


async def test_the_last_response_is_relayed_when_the_attempts_are_used_up() -> None:
    endpoints = [endpoint(name, 503) for name in "abcd"]
    exchange = new_exchange()
    assert await send(rotating(*endpoints), exchange) == 503
    assert exchange.retries == 2
    assert [len(client_of(one).requests) for one in endpoints] == [1, 1, 1, 0]


async def test_the_last_error_is_raised_when_the_attempts_are_used_up() -> None:
    upstream = rotating(endpoint("a", errors.ConnectionRefused()), endpoint("b", errors.ConnectionTerminated()))
    with pytest.raises(errors.ConnectionTerminated):
        await send(upstream, new_exchange(), retry=RETRY.model_copy(update={"attempts": 2}))


async def test_one_endpoint_is_asked_again_where_there_is_no_other() -> None:
    one = endpoint("a", 503, 503, 200)
    assert await send(Upstream("u", [one], settings()), new_exchange()) == 200
    assert len(client_of(one).requests) == 3


async def test_the_body_is_sent_again_whole() -> None:
    a, b = endpoint("a", 503), endpoint("b")
    assert await send(rotating(a, b), new_exchange("PUT"), b"one", b"two") == 200
    assert client_of(a).requests[0][2] == client_of(b).requests[0][2] == b"onetwo"


async def test_a_body_too_large_to_be_held_is_sent_once() -> None:
    a, b = endpoint("a", 503), endpoint("b")
    assert await send(rotating(a, b), new_exchange("PUT"), b"x" * 101) == 503
    assert client_of(b).requests == []


async def test_a_post_that_was_sent_is_not_repeated() -> None:
    for failure in (503, errors.ConnectionTerminated()):
        good = endpoint("good")
        upstream, exchange = rotating(endpoint("bad", failure), good), new_exchange("POST")
        if isinstance(failure, int):
            assert await send(upstream, exchange) == failure
        else:
            with pytest.raises(errors.ConnectionTerminated):
                await send(upstream, exchange)
        assert client_of(good).requests == []


async def test_a_post_of_which_nothing_was_sent_is_repeated() -> None:
    for failure in (errors.ConnectionRefused(), errors.ConnectionTerminated()):
        bad, good = endpoint("bad", failure, sends=False), endpoint("good")
        assert await send(rotating(bad, good), new_exchange("POST"), b"x") == 200
        assert client_of(good).requests[0][2] == b"x"


@pytest.mark.parametrize(
    ("retry", "headers"),
    [(RETRY.model_copy(update={"non_idempotent": True}), []), (RETRY, [(b"idempotency-key", b"k1")])],
)
async def test_a_post_is_repeated_by_permission(retry: Retry, headers: Headers) -> None:
    upstream = rotating(endpoint("bad", 503), endpoint("good"))
    assert await send(upstream, new_exchange("POST"), retry=retry, headers=headers) == 200


async def test_retries_end_when_the_budget_does() -> None:
    one = endpoint("a", 503)
    upstream = Upstream("u", [one], settings())
    exchanges = [new_exchange() for _ in range(200)]
    for exchange in exchanges:
        assert await send(upstream, exchange) == 503
    retried = sum(exchange.retries for exchange in exchanges)
    assert retried == len(client_of(one).requests) - 200
    assert 30 <= retried <= 60  # 3 a second over 10 s, and again if a second passed meanwhile


async def test_first_byte_begins_with_the_first_attempt_and_never_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, told = new_exchange(), []
    monkeypatch.setattr(Timer, "progress", lambda timer, phase: told.append(phase))
    seen: list[str] = []

    async def look(client: FakeClient) -> int:
        seen.append(exchange.phase)
        return 200

    async def refuse(client: FakeClient) -> Exception:
        seen.append(exchange.phase)
        return errors.ConnectionRefused()

    upstream = rotating(endpoint("a", refuse, sends=False), endpoint("b", 503), endpoint("c", look))
    assert await send(upstream, exchange) == 200
    assert told == ["request"]  # the upstream owes a head from here on
    assert seen == ["connect", "head"]
    assert exchange.sent_at > 0.0


async def test_a_client_that_leaves_ends_the_attempts_at_once() -> None:
    waiting = asyncio.Event()

    async def hang(client: FakeClient) -> int:
        waiting.set()
        await asyncio.Event().wait()
        return 200

    a, b = endpoint("a", 503), endpoint("b", hang)
    upstream = Upstream("u", [a, b], EJECT)
    exchange = new_exchange()
    await interrupted(upstream, exchange, waiting, errors.ClientDisconnected())
    assert (a.streams, b.streams, b.up) == (0, 0, True)
    await upstream.aclose()


async def test_an_endpoint_that_gives_no_head_in_time_is_blamed() -> None:
    waiting = asyncio.Event()

    async def hang(client: FakeClient) -> int:
        waiting.set()
        await asyncio.Event().wait()
        return 200

    a, b = endpoint("a", hang), endpoint("b")
    upstream = Upstream("u", [a, b], EJECT)
    exchange = new_exchange()
    await interrupted(upstream, exchange, waiting, errors.HeadTimeout())
    assert (a.streams, a.up) == (0, False)
    await upstream.aclose()


async def test_an_endpoint_that_asks_for_patience_is_given_it_only_when_it_is_asked_again() -> None:
    slow = endpoint("slow", 503, 200)
    client_of(slow).headers = [(b"Retry-After", b"3600")]
    loop = asyncio.get_running_loop()
    retry = RETRY.model_copy(update={"backoff": 0.005})
    began = loop.time()
    assert await send(Upstream("u", [slow], settings()), new_exchange(), retry=retry) == 200
    assert loop.time() - began >= 0.05  # ten times the backoff, and not an hour
