"""The client of an exchange, as the rest of the proxy sees it."""

from __future__ import annotations

import pytest

from streamproxy.errors import ClientLeft
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.target import make_target
from streamproxy.exchange.timer import SharedTimer, TimeLimits, Timer
from streamproxy.wire.headers import Headers, RequestFields
from tests.unit.server.harness import Receive, Scope, Send, turns, wired


async def test_an_interim_response_for_a_client_that_has_left_is_dropped() -> None:
    """It comes in a read of the upstream's connection, which must not fail for it."""
    found: list[Downstream] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        limits = TimeLimits()
        timer = Timer(limits, Exchange("1", "r", "u", "GET", "/"), SharedTimer(limits))
        found.append(
            Downstream().prepare(scope, receive, send, make_target(b"/", None), RequestFields().prepare([]), timer)
        )
        while (await receive())["type"] != "http.disconnect":
            pass

    protocol, _ = wired(app)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await turns()
    protocol.connection_lost(None)
    (downstream,) = found
    fields: Headers = [(b"link", b"</a>")]
    assert downstream.direct is not None
    with pytest.raises(ClientLeft):
        downstream.direct.informational(103, fields)
    downstream.informational(103, fields)
    await turns()
