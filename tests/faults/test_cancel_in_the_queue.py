"""An exchange with a place in a limit is cancelled at every await in turn, and the next one always gets the place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from streamproxy.app import Application, create_app
from streamproxy.config import parse_config
from streamproxy.errors import StoppedByOperator
from streamproxy.exchange.exchange import Exchange
from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.faults.test_cancel_everywhere import CancelAt, Client, answer, scope

Task = asyncio.Task[None]


def limited(upstream: str) -> Application:
    """The proxy with one place, and a queue."""
    limits = {"max_streams": 1, "queue": 5, "queue_timeout": "20s"}
    route = {"name": "r", "path": "/*", "upstream": upstream, "limits": limits}
    return create_app(parse_config(json.dumps({"log": {"access": "off"}, "routes": [route]}), name="test"))


class Scene:
    """A holder of the only place, an exchange to be struck, and one behind it."""

    def __init__(self, app: Application) -> None:
        self.app = app
        admission = app.deployment.admissions["r"]
        assert admission is not None
        self.admission = admission
        self.places = admission.places
        self.struck: Task | None = None

    async def begin(self, n: int, strike: Callable[[], None]) -> CancelAt:
        loop = asyncio.get_running_loop()
        holder = Exchange(request_id="h", route="r", upstream="u", method="GET", path="/")
        self.ticket = await self.admission.enter("holder", holder)
        first, self.client = Client(), Client()
        coroutine = CancelAt(self.app(scope("POST"), first.receive, first.send), n, strike)
        self.struck = loop.create_task(coroutine)
        await until(lambda: self.places.waiting == 1 or self.struck_is_over())
        self.next: Task = loop.create_task(self.app(scope("POST"), self.client.receive, self.client.send))
        await until(lambda: self.next_waits())
        return coroutine

    def struck_is_over(self) -> bool:
        return self.struck is not None and self.struck.done()

    def next_waits(self) -> bool:
        return self.places.waiting == (1 if self.struck_is_over() else 2)

    async def end(self) -> None:
        """The next one was served, and nobody holds a place or waits for one."""
        assert self.struck is not None
        async with asyncio.timeout(20):
            await asyncio.wait({self.struck, self.next})
        if not self.struck.cancelled():
            self.struck.exception()
        await self.next
        assert self.client.sent[0]["status"] == 200
        assert not self.client.sent[-1]["more_body"]
        assert (self.places.held, self.places.waiting, self.places.clients) == (0, 0, {})
        assert not self.app.ledger.live


def striker(scene: Scene, how: str) -> Callable[[], None]:
    def strike() -> None:
        assert scene.struck is not None
        if how == "cancel":
            scene.struck.cancel()
        for exchange in list(scene.app.ledger.live.values()):
            if how == "interrupt" and exchange.task is scene.struck:
                exchange.interrupt(StoppedByOperator())

    return strike


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_at_any_await(leaks: LeakCheck, serve: Serve, how: str) -> None:
    app = limited((await serve(answer)).url)
    n, struck = 0, True
    while struck:
        scene = Scene(app)
        coroutine = await scene.begin(n, striker(scene, how))
        scene.admission.leave(scene.ticket)
        await scene.end()
        n, struck = n + 1, coroutine.struck
    assert n > 5  # the queue, the request's parts, the head, the sends; and the chunks, unless all have come at once
    await app.deployment.aclose()


@pytest.mark.parametrize("order", ["place first", "strike first"])
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_in_the_very_turn_of_the_hand_over(leaks: LeakCheck, serve: Serve, how: str, order: str) -> None:
    upstream = await serve(answer)
    app = limited(upstream.url)
    scene = Scene(app)
    await scene.begin(-1, lambda: None)
    strike = striker(scene, how)
    if order == "strike first":
        strike()
    scene.admission.leave(scene.ticket)
    if order == "place first":
        strike()
    await scene.end()
    assert len(upstream.requests) == 1, "the one that was struck never got anywhere"
    await app.deployment.aclose()
