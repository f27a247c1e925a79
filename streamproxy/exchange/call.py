"""One request on its way through the proxy: its facts, its client and its timer."""

from __future__ import annotations

from collections.abc import Callable

from streamproxy.dialects.request import Peeked
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.timer import Timer


class Call:
    """The three parts of a request, and all that the code serving it receives.

    ``peeked`` is what was read ahead of a JSON body. ``on_connected`` is called when there is a connection for the
    request, and ``on_close`` at its end. There is no `__init__`, whose call would cost more than all the rest.
    """

    __slots__ = ("downstream", "exchange", "on_close", "on_connected", "peeked", "timer")

    exchange: Exchange
    downstream: Downstream
    timer: Timer
    peeked: Peeked | None
    on_close: Callable[[], None] | None
    on_connected: Callable[[], None] | None

    def close(self) -> None:
        """Stops the timer, and stops listening to the client."""
        self.timer.close()
        if self.on_close is not None:
            self.on_close()
        self.downstream.close()
