"""The client of an exchange, as the rest of the proxy sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from streamproxy.errors import ClientLeft
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.extension import CONNECTION, DownstreamConnection
from streamproxy.exchange.target import Target
from streamproxy.exchange.timer import SharedTimer, TimeLimits, Timer
from streamproxy.wire.headers import RequestFields


class Gone(DownstreamConnection):
    """A connection that sends nothing, for the reason that it is made with."""

    wants_websocket = False

    def __init__(self, reason: Exception) -> None:
        self.disconnected = isinstance(reason, ClientLeft)
        self.reason = reason

    async def send(self, message: Any) -> None:
        raise self.reason

    def write(self, body: bytes, more: bool) -> None:
        raise self.reason

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        raise self.reason


@pytest.mark.parametrize("reason", [ClientLeft("it has left"), ValueError("no such field")])
async def test_an_interim_response_that_cannot_be_sent_is_dropped(reason: Exception) -> None:
    """It comes in a read of the upstream's connection, which must not fail for it."""

    async def receive() -> Any:
        raise AssertionError("nobody asks for the body")

    connection = Gone(reason)
    scope = {
        "method": "GET",
        "scheme": "http",
        "http_version": "2",
        "headers": [],
        "extensions": {CONNECTION: connection},
    }
    limits = TimeLimits()
    timer = Timer(limits, Exchange("1", "r", "u", "GET", "/"), SharedTimer(limits))
    downstream = Downstream(scope, receive, connection.send, Target(b"/", None), RequestFields([]), timer)
    assert downstream.direct is connection
    downstream.informational(103, [(b"link", b"</a>")])
