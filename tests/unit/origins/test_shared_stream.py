"""One upstream stream for several clients: what a read costs, without a server."""

from __future__ import annotations

from collections import Counter

from streamproxy.dialects.http import HTTP
from streamproxy.exchange.exchange import Exchange
from streamproxy.origins.base import OriginResponse
from streamproxy.origins.resume import EmptyResponse
from streamproxy.origins.shared_stream import SharedStream, SharePlan

EVENT = b"data: 1\n\n"


def opened() -> OriginResponse:
    return EmptyResponse(200, [(b"content-type", b"text/event-stream")])


def test_an_event_is_framed_once_and_every_client_gets_the_same_two_objects() -> None:
    plan = SharePlan("r", frozenset(), False, "disconnect", None, 0.0, 1000, HTTP, Counter())
    stream = SharedStream(plan, Exchange("id", "r", "u", "GET", "/"), lambda stream: None)
    bodies = [stream.begin(opened()), *(stream.join() for _ in range(1000))]
    got: list[tuple[bytes, bytes]] = []
    for body in bodies:
        assert body.pipe(lambda chunk, framed: not got.append((chunk, framed)))
    stream.append(EVENT)
    assert got == [(EVENT, b"9\r\ndata: 1\n\n\r\n")] * len(bodies)
    assert {id(chunk) for chunk, _ in got} == {id(EVENT)}
    assert len({id(framed) for _, framed in got}) == 1
