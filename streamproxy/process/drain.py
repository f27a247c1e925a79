"""The shutdown of a running proxy, step by step.

Theory of operation. The first signal starts it, and the second ends each step early::

    NOT READY ──▶ DELAY ──▶ CLOSED ──▶ ENDING ──▶ over
    /readyz       drain_     no new     event streams end between events,
    says 503      delay      connection the rest at once

- *Delay*: load balancers need a while to notice; everything is served as before.
- *Closed*: no connections are accepted. Idle connections are closed, others after their response, which announces it
  (except for a streaming one: Node's fetch takes a cut stream for a complete one if it has ``Connection: close``).
  Running exchanges continue for at most ``drain_timeout``.
- *Ending*: an event stream is ended between two events; one that is inside an event has `MOMENT` seconds to complete
  it. Both ends of a WebSocket receive a Close frame. No response is made to look complete, and an exchange without a
  response head is answered with 503. Connections have `FLUSH` seconds to accept what was sent last.

If another process has taken over the sockets, it is already accepting connections, so there is no delay. Idle
connections have `REPLACED` seconds for one more request, whose response closes the connection. Then they are closed; a
request that crosses the close is lost.

A second signal ends everything at once: running exchanges are interrupted in any phase. The exit status is 0 in both
cases, since the shutdown was requested.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from streamproxy.errors import StoppedByShutdown
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger

logger = logging.getLogger("streamproxy.server")

MOMENT = 1.0  # seconds for an event to be completed
FLUSH = 1.5  # seconds for interrupted exchanges to end; a tunnel waits one for the answers to its Close frames
NEWCOMERS = 0.15  # seconds for the first request of a connection that was accepted last
REPLACED = 10.0  # seconds for a last request on idle connections after a takeover
_LOOK = 0.01  # seconds between two checks of the streams that are inside an event


class Stop:
    """A request to shut down: ``begun`` is set by the first signal or a successor, ``at_once`` by the second signal.

    ``released`` is set once no new connections are accepted.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.at_once = asyncio.Event()
        self.released = asyncio.Event()
        self.replaced = False
        self._signalled = False

    def on_signal(self) -> None:
        """Handles SIGTERM or SIGINT.

        In a replaced process, the first signal only asks for what is already under way.
        """
        (self.at_once if self._signalled else self.begun).set()
        self._signalled = True

    def succeeded(self) -> None:
        """Another process now serves on the same sockets."""
        self.replaced = True
        self.begun.set()


class Draining(Protocol):
    """The part of the application that a drain uses."""

    draining: bool
    ledger: Ledger


class Closing(Protocol):
    """The part of the main listener's engine that a drain uses."""

    def drain(self, patience: float = ...) -> None: ...

    @property
    def connections(self) -> int: ...


async def drain(app: Draining, engine: Closing, stop: Stop, *, delay: float, timeout: float | None) -> None:
    """Ends all exchanges. ``delay`` and ``timeout`` are in seconds; a timeout of None waits forever."""
    app.draining = not stop.replaced
    app.ledger.draining = True
    logger.info("draining: %d exchanges are live", len(app.ledger.live))
    if delay and not stop.replaced:  # the successor serves already
        await _first(stop, asyncio.sleep(delay))
    if stop.replaced:
        engine.drain(REPLACED)
    else:
        engine.drain()
    stop.released.set()
    if not stop.at_once.is_set():
        await _first(stop, asyncio.sleep(NEWCOMERS))
        if stop.replaced:
            await _first(stop, _closed(engine), timeout=REPLACED)
        await _first(stop, app.ledger.wait_empty(), timeout=timeout)
    if app.ledger.live:
        logger.info("ending %d exchanges that are still running", len(app.ledger.live))
    await _end_streams(app.ledger, stop)
    await _first(None, app.ledger.wait_empty(), timeout=FLUSH)


async def _closed(engine: Closing) -> None:
    while True:
        if not engine.connections:
            return
        await asyncio.sleep(NEWCOMERS)


async def _end_streams(ledger: Ledger, stop: Stop) -> None:
    """Interrupts all exchanges; event streams between two events if possible."""
    deadline = asyncio.get_running_loop().time() + MOMENT
    waiting = list(ledger.live.values())
    while waiting:
        late = stop.at_once.is_set() or asyncio.get_running_loop().time() >= deadline
        waiting = [exchange for exchange in waiting if not _end(exchange, late)]
        if waiting:
            await asyncio.sleep(_LOOK)


def _end(exchange: Exchange, late: bool) -> bool:
    """Interrupts an exchange, unless ``late`` is unset and this would cut an event. Returns whether it did."""
    inspector = exchange.inspected()
    if not late and exchange.task is not None and inspector is not None and not inspector.between_events:
        return False
    exchange.interrupt(StoppedByShutdown())
    return True


async def _first(stop: Stop | None, step: Coroutine[Any, Any, object], *, timeout: float | None = None) -> None:
    """Waits for a step, for ``timeout`` seconds, or for the second signal."""
    waits = [asyncio.ensure_future(step)]
    if stop is not None:
        waits.append(asyncio.ensure_future(stop.at_once.wait()))
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
