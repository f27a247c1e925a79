"""One request on its way through the proxy: its facts, its client and its timer."""

from __future__ import annotations

from collections.abc import Callable

from streamproxy.dialects.request import Peeked
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import Timer


class Call:
    """The three parts of a request, and all that the code serving it receives."""

    __slots__ = ("downstream", "exchange", "on_close", "on_connected", "peeked", "timer")

    def __init__(self, exchange: Exchange, downstream: Downstream, timer: Timer) -> None:
        self.exchange = exchange
        self.downstream = downstream
        self.timer = timer
        self.peeked: Peeked | None = None  # what was read ahead of a JSON body
        self.on_close: Callable[[], None] | None = None
        self.on_connected: Callable[[], None] | None = None  # called when there is a connection for the request

    def close(self) -> None:
        """Stops the timer, and stops listening to the client."""
        self.timer.close()
        if self.on_close is not None:
            self.on_close()
        self.downstream.close()
