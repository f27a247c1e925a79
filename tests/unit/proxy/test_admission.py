"""Admission on the loop: the hand-over, who leaves when, and what a refused one is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from streamproxy.config.limits import Limits
from streamproxy.errors import ClientLimitReached, LimitReached
from streamproxy.exchange.exchange import Exchange
from streamproxy.proxy.admission import Admission, Places, Ticket

ONE = Limits(max_streams=1, queue=10, queue_timeout=30.0)


def an_exchange() -> Exchange:
    return Exchange(request_id="1", route="r", upstream="u", method="GET", path="/")


def waiter(admission: Admission, client: str = "a", exchange: Exchange | None = None) -> asyncio.Task[Ticket]:
    return asyncio.get_running_loop().create_task(admission.enter(client, exchange or an_exchange()))


async def settle(*awaitables: Awaitable[object]) -> list[object]:
    """What each gave or raised."""
    return list(await asyncio.gather(*awaitables, return_exceptions=True))


async def turns(count: int = 3) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_finds_a_place_does_not_wait() -> None:
    admission, exchange = Admission(ONE), an_exchange()
    coroutine = admission.enter("a", exchange)
    with pytest.raises(StopIteration):
        coroutine.send(None)  # done without a turn of the loop
    assert (exchange.queued_at, exchange.queued) == (0.0, 0.0)


async def test_places_go_to_those_who_wait_in_the_order_they_came() -> None:
    admission = Admission(ONE)
    ticket = await admission.enter("a", an_exchange())
    waiters = []
    for _ in range(5):
        waiters.append(waiter(admission))
        await turns()
    for index, task in enumerate(waiters):
        assert not any(other.done() for other in waiters[index:])
        admission.leave(ticket)
        ticket = await task
    admission.leave(ticket)
    assert (admission.places.held, admission.places.waiting, admission.places.clients) == (0, 0, {})


async def test_the_exchange_knows_how_long_it_waited() -> None:
    now = 1000.0
    admission, exchange = Admission(ONE, clock=lambda: now), an_exchange()
    ticket = await admission.enter("a", an_exchange())
    task = waiter(admission, exchange=exchange)
    await turns()
    assert exchange.queued_at == 1000.0
    now = 1002.5
    admission.leave(ticket)
    await task
    assert exchange.queued == 2.5


async def test_who_gives_up_leaves_nothing_behind() -> None:
    admission = Admission(ONE)
    ticket = await admission.enter("a", an_exchange())
    first, second = waiter(admission), waiter(admission)
    await turns()
    first.cancel()
    await settle(first)
    assert (admission.places.held, admission.places.waiting) == (1, 1)
    admission.leave(ticket)
    admission.leave(await second)
    assert admission.places.held == 0


async def test_a_place_handed_to_one_who_was_cancelled_in_that_turn_goes_to_the_next() -> None:
    admission = Admission(ONE)
    ticket = await admission.enter("a", an_exchange())
    first, second = waiter(admission), waiter(admission)
    await turns()
    admission.leave(ticket)  # the place is first's now, and first does not know
    first.cancel()
    assert isinstance((await settle(first))[0], asyncio.CancelledError)
    admission.leave(await second)
    assert admission.places.held == 0


async def test_one_who_was_cancelled_before_the_hand_over_passes_the_place_on() -> None:
    admission = Admission(ONE)
    ticket = await admission.enter("a", an_exchange())
    first, second = waiter(admission), waiter(admission)
    await turns()
    first.cancel()  # has not run yet: it stands in the queue still
    admission.leave(ticket)
    assert isinstance((await settle(first))[0], asyncio.CancelledError)
    admission.leave(await second)
    assert admission.places.held == 0


async def test_a_crowd_that_is_cancelled_at_random_points_loses_no_place() -> None:
    admission = Admission(Limits(max_streams=3, queue=100, queue_timeout=30.0))

    async def visit(length: int) -> None:
        ticket = await admission.enter("a", an_exchange())
        try:
            await turns(length)
        finally:
            admission.leave(ticket)

    loop = asyncio.get_running_loop()
    visits = [loop.create_task(visit(index % 4)) for index in range(60)]
    for index, task in enumerate(visits):
        if index % 3 == 0:
            await turns(index % 5)
            task.cancel()
    results = await settle(*visits)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert (admission.places.held, admission.places.waiting, admission.places.clients) == (0, 0, {})
    assert await admission.enter("a", an_exchange())


async def test_who_waits_for_too_long_is_refused_and_told_when_to_come_back() -> None:
    admission, exchange = Admission(ONE.model_copy(update={"queue_timeout": 0.01})), an_exchange()
    await admission.enter("a", an_exchange())
    with pytest.raises(LimitReached) as refused:
        await admission.enter("b", exchange)
    assert not isinstance(refused.value, ClientLimitReached)
    assert refused.value.retry_after is not None
    assert exchange.queued >= 0.01
    assert (admission.places.held, admission.places.waiting) == (1, 0)


async def test_the_timer_stops_with_the_last_who_waits() -> None:
    admission = Admission(ONE)
    ticket = await admission.enter("a", an_exchange())
    task = waiter(admission)
    await turns()
    timer = admission._timer
    assert timer is not None
    admission.leave(ticket)
    await task
    assert timer.cancelled()


async def test_a_full_queue_refuses_at_once() -> None:
    admission = Admission(Limits(max_streams=1, queue=1, queue_timeout=30.0))
    await admission.enter("a", an_exchange())
    task = waiter(admission)
    await turns()
    with pytest.raises(LimitReached):
        admission.enter("a", an_exchange()).send(None)
    task.cancel()
    await settle(task)


async def test_a_client_over_its_own_limit_is_refused_even_when_there_is_a_queue() -> None:
    admission = Admission(Limits(max_streams=5, max_streams_per_client=1, queue=5, queue_timeout=30.0))
    ticket = await admission.enter("a", an_exchange())
    with pytest.raises(ClientLimitReached):
        admission.enter("a", an_exchange()).send(None)
    await admission.enter("b", an_exchange())
    admission.leave(ticket)
    await admission.enter("a", an_exchange())


async def test_waiting_counts_against_a_clients_own_limit() -> None:
    admission = Admission(Limits(max_streams=1, max_streams_per_client=2, queue=5, queue_timeout=30.0))
    await admission.enter("other", an_exchange())
    tasks = [waiter(admission, "greedy"), waiter(admission, "greedy")]
    await turns()
    with pytest.raises(ClientLimitReached):
        admission.enter("greedy", an_exchange()).send(None)
    for task in tasks:
        task.cancel()
    await settle(*tasks)
    assert admission.places.clients == {"other": 1}


async def test_a_reload_keeps_who_waits_and_lets_them_into_new_places() -> None:
    before = Admission(ONE)
    held = await before.enter("a", an_exchange())
    first, second, third = waiter(before), waiter(before), waiter(before)
    await turns()
    after = Admission(Limits(max_streams=2, queue=0, queue_timeout=0.01))
    after.take_over(before)
    other = await first
    assert [type(result) for result in await settle(second, third)] == [LimitReached, LimitReached]
    with pytest.raises(LimitReached):
        after.enter("a", an_exchange()).send(None)
    before.leave(held)
    newest = await after.enter("a", an_exchange())
    before.leave(other)
    after.leave(newest)
    assert (after.places.held, after.places.clients) == (0, {})


async def test_a_reload_to_fewer_places_takes_none_away() -> None:
    before = Admission(Limits(max_streams=3))
    tickets = [await before.enter("a", an_exchange()) for _ in range(3)]
    after = Admission(Limits(max_streams=1))
    after.take_over(before)
    for ticket in tickets:
        with pytest.raises(LimitReached):
            after.enter("a", an_exchange()).send(None)
        before.leave(ticket)
    await after.enter("a", an_exchange())


@pytest.mark.parametrize(
    ("hold", "ahead", "expected"),
    [(20.0, 0, 10.0), (20.0, 3, 40.0), (0.01, 0, 1.0), (3000.0, 5, 60.0)],
    ids=["half of a hold for two places", "behind three", "never under a second", "never over a minute"],
)
def test_retry_after_follows_the_rate_at_which_places_come_free(hold: float, ahead: int, expected: float) -> None:
    places = Places(Limits(max_streams=2, queue=ahead, queue_timeout=30.0))
    places.leave(places.ask("a", 0.0), hold)
    for _ in range(2 + ahead):
        places.ask("a", hold)
    with pytest.raises(LimitReached) as refused:
        places.ask("a", hold)
    assert refused.value.retry_after == pytest.approx(expected)


def test_retry_after_has_a_default_while_nothing_is_known() -> None:
    places = Places(Limits(max_streams=1))
    places.ask("a", 0.0)
    with pytest.raises(LimitReached) as refused:
        places.ask("a", 0.0)
    assert refused.value.retry_after == 5.0
