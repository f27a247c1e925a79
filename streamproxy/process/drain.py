"""The end of a running proxy, step by step.

Theory of operation. The first signal begins it, and each step ends early at the second::

    NOT READY ──▶ DELAY ──▶ CLOSED ──▶ ENDING ──▶ over
    /readyz       drain_     no new     event streams end between events,
    says 503      delay      connection the rest at once

- *Delay*: load balancers need a while to notice that they should send nothing here; everything is served as before.
- *Closed*: nothing is accepted, idle connections are closed, others after their response, which says so (a streaming
  one does not: Node's fetch takes a cut stream for a finished one when it reads ``Connection: close``). What runs
  goes on for at most ``drain_timeout``.
- *Ending*: an event stream that stands between two events is ended there, one that is inside an event has `MOMENT`
  seconds to come to its end. Both ends of a WebSocket are sent a Close frame. No response is made to look finished,
  and an exchange that has no response head yet is answered with 503. Connections have `FLUSH` seconds to take what was
  sent last.

When another process has taken over the sockets, that process is ready and accepts: there is no delay. Idle connections
have `REPLACED` seconds for one more request, whose response says that it was the last, before they are closed: a
request that crosses the close is lost.

A second signal ends all of that at once: running exchanges are interrupted wherever they stand. The exit status is 0
either way, since this is what was asked for.
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
REPLACED = 10.0  # seconds for the next request of idle connections, in a process that another has taken over
_LOOK = 0.01  # seconds between two checks of the streams that are inside an event


class Stop:
    """What asks for the end: ``begun`` is set by the first signal or a successor, ``at_once`` by the second signal.

    ``released`` is set once no new connection is accepted.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.at_once = asyncio.Event()
        self.released = asyncio.Event()
        self.replaced = False
        self._signalled = False

    def on_signal(self) -> None:
        """SIGTERM or SIGINT came. The first to a process that has been replaced asks for what is under way already."""
        (self.at_once if self._signalled else self.begun).set()
        self._signalled = True

    def succeeded(self) -> None:
        """Another process serves on the same sockets."""
        self.replaced = True
        self.begun.set()


class Draining(Protocol):
    """What a drain needs of the application."""

    draining: bool
    ledger: Ledger


class Closing(Protocol):
    """What it needs of the main listener's engine."""

    def drain(self, patience: float = ...) -> None: ...

    @property
    def connections(self) -> int: ...


async def drain(app: Draining, engine: Closing, stop: Stop, *, delay: float, timeout: float | None) -> None:
    """Bring all exchanges to their end. ``delay`` and ``timeout`` are seconds; a timeout of None waits for ever."""
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
        logger.info("ending %d exchanges that still run", len(app.ledger.live))
    await _end_streams(app.ledger, stop)
    await _first(None, app.ledger.wait_empty(), timeout=FLUSH)


async def _closed(engine: Closing) -> None:
    while True:
        if not engine.connections:
            return
        await asyncio.sleep(NEWCOMERS)


async def _end_streams(ledger: Ledger, stop: Stop) -> None:
    """Interrupt every exchange, event streams between their events if they come there in time."""
    deadline = asyncio.get_running_loop().time() + MOMENT
    waiting = list(ledger.live.values())
    while waiting:
        late = stop.at_once.is_set() or asyncio.get_running_loop().time() >= deadline
        waiting = [exchange for exchange in waiting if not _end(exchange, late)]
        if waiting:
            await asyncio.sleep(_LOOK)


def _end(exchange: Exchange, late: bool) -> bool:
    """Interrupt an exchange unless that would cut an event and it is not too late yet; whether it was."""
    if (
        not late
        and exchange.task is not None
        and exchange.inspector is not None
        and not exchange.inspector.between_events
    ):
        return False
    exchange.interrupt(StoppedByShutdown())
    return True


async def _first(stop: Stop | None, step: Coroutine[Any, Any, object], *, timeout: float | None = None) -> None:
    """Wait for a step, for so many seconds, or for the second signal."""
    waits = [asyncio.ensure_future(step)]
    if stop is not None:
        waits.append(asyncio.ensure_future(stop.at_once.wait()))
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
