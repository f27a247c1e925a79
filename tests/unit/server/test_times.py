"""How long a connection may take."""

from __future__ import annotations

import asyncio

import pytest

from streamproxy.exchange.timer import SECOND_LOOK
from streamproxy.server.flow import NEVER, Deadline
from tests.conftest import Connect
from tests.doubles.clock import Clock
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import GET, hello


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_head_that_does_not_come_in_time_is_a_408(start: Start, dial: Connect, begun: bytes) -> None:
    server = await start(hello, head_timeout=0.05)
    client = await dial(server.url)
    await client.send(begun)
    answer = await client.read_response()
    assert (answer.status, answer.get("connection")) == (408, b"close")
    assert answer.get("proxy-status") == b"streamproxy; error=http_request_error"
    assert (await client.wait_ended()).how == "eof"
    assert server.rejected == [(408, "The request head did not come in time")]


async def test_a_head_that_trickles_is_a_408_too(start: Start, dial: Connect) -> None:
    server = await start(hello, head_timeout=0.05)
    client = await dial(server.url)
    await client.send(b"GET / HTTP/1.1\r\nX: ")

    def goes_on() -> bool:
        client.write(b"a")
        return bool(server.rejected)

    await until(goes_on)
    assert (await client.read_response()).status == 408


async def test_the_next_head_on_a_connection_has_its_own_time(start: Start, dial: Connect) -> None:
    server = await start(hello, head_timeout=0.05)
    client = await dial(server.url)
    await client.send(GET)
    assert (await client.read_response()).status == 200
    await client.send(b"GET /")
    assert (await client.read_response()).status == 408


async def test_a_connection_that_sends_nothing_is_closed_without_a_word(start: Start, dial: Connect) -> None:
    server = await start(hello, head_timeout=0.05)
    client = await dial(server.url)
    data, ended = await client.read_all()
    assert (data, ended.how) == (b"", "eof")
    assert server.rejected == []


async def test_empty_lines_do_not_hold_a_connection_open(start: Start, dial: Connect) -> None:
    server = await start(hello, head_timeout=0.05)
    client = await dial(server.url)
    await client.send(b"\r\n" * 5)
    data, ended = await client.read_all()
    assert (data, ended.how) == (b"", "eof")


async def test_an_idle_connection_is_closed_after_the_keepalive_time(start: Start, dial: Connect) -> None:
    server = await start(hello, keepalive=0.05)
    client = await dial(server.url)
    for _ in range(3):
        await client.send(GET)
        assert (await client.read_response()).complete
    data, ended = await client.read_all()
    assert (data, ended.how) == (b"", "eof")


async def test_a_busy_connection_is_not_idle(start: Start, dial: Connect) -> None:
    called, gate = asyncio.Event(), asyncio.Event()

    async def slow(scope: dict[str, object], receive: object, send: object) -> None:
        called.set()
        await gate.wait()
        await hello(scope, receive, send)  # type: ignore[arg-type]  # what comes in goes on

    server = await start(slow)
    client = await dial(server.url)
    await client.send(GET)
    await called.wait()
    assert server.connection._deadline.at == NEVER
    gate.set()
    assert (await client.read_response()).status == 200


async def test_a_client_that_does_not_end_its_skipped_body_is_cut_off(start: Start, dial: Connect) -> None:
    async def early(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 204})  # type: ignore[operator]  # ASGI's send
        await send({"type": "http.response.body"})  # type: ignore[operator]  # ASGI's send

    server = await start(early, linger=0.05)
    client = await dial(server.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    assert (await client.read_response()).status == 204
    await client.wait_ended()


def test_a_deadline_is_moved_without_a_timer() -> None:
    clock = Clock()
    fired: list[float] = []
    loop = Loop(clock)
    deadline = Deadline(loop, lambda: fired.append(clock.now))  # type: ignore[arg-type]  # what it uses of a loop
    begin = clock.now
    for _ in range(100):
        deadline.set(10)
        clock.advance(1)
    assert fired == []
    assert loop.made <= 12
    clock.advance(20)
    assert fired == [begin + 109]
    clock.advance(100)
    assert len(fired) == 1


def test_a_deadline_that_is_looked_at_late_lets_the_loop_read_first() -> None:
    clock = Clock()
    fired: list[float] = []
    deadline = Deadline(Loop(clock), lambda: fired.append(clock.now))  # type: ignore[arg-type]  # as above
    for met in (True, False):
        deadline.set(5)
        clock.now += 60  # nothing runs, as on a machine that sleeps
        woken = clock.now
        clock.advance(0)
        if met:
            deadline.at = NEVER  # what had come was read
        clock.advance(1)
        assert fired == ([] if met else [woken + SECOND_LOOK])


def test_a_deadline_can_be_brought_forward_and_taken_back() -> None:
    clock = Clock()
    fired: list[float] = []
    deadline = Deadline(Loop(clock), lambda: fired.append(clock.now))  # type: ignore[arg-type]  # as above
    begin = clock.now
    deadline.set(75)
    deadline.set(5)
    clock.advance(6)
    assert fired == [begin + 5]
    deadline.set(5)
    deadline.at = NEVER
    clock.advance(100)
    deadline.set(5)
    deadline.close()
    clock.advance(100)
    assert fired == [begin + 5]


class Timer:
    """A loop's timer over the clock's, which knows when it is due."""

    def __init__(self, clock: Clock, when: float, call: object) -> None:
        self._when = when
        self._timer = clock.call_at(when, call)  # type: ignore[arg-type]  # any callable

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self._timer.cancel()


class Loop:
    """The part of an event loop that a deadline uses, over a clock turned by hand."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.made = 0

    def time(self) -> float:
        return self._clock.now

    def call_at(self, when: float, call: object) -> Timer:
        self.made += 1
        return Timer(self._clock, when, call)
