"""`streamproxy run`: listeners, signals, and the order in which things start and end.

SIGTERM and SIGINT drain: the proxy says that it is not ready, accepts no new connection, lets running streams go on
for at most ``drain_timeout`` seconds, ends what is left, and exits with status 0. A second signal ends at once. The
admin listener is the last to go, so that the drain can be watched.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

from streamproxy.app import Application, create_app
from streamproxy.config.model import Config
from streamproxy.errors import StoppedByShutdown
from streamproxy.exchange import Ledger
from streamproxy.server.engines import Engine, EngineSettings, UvicornEngine, hypercorn_engine
from streamproxy.server.sockets import bind, close, url_of

Say = Callable[[str], None]

_A_YEAR = 31_536_000.0  # seconds


def run(config: Config, say: Say) -> None:
    """Serve until a signal ends it; ``say`` gets one line a listener once it accepts. Raises BindError."""
    listeners = [bind(address) for address in config.server.listen]
    try:
        admin_listeners = [bind(address) for address in config.admin.listen]
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(config, listeners, admin_listeners, say))
    finally:
        for listener in listeners:
            close(listener)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, the standard loop elsewhere."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(config: Config, listeners: list[socket.socket], admins: list[socket.socket], say: Say) -> None:
    """Serve on sockets that listen already, until a signal."""
    app = create_app(config)
    settings = engine_settings(config, app)
    stop = _signals()
    main = _engine(config, app, listeners, settings)
    # The admin listener answers also when the main one is full.
    admin = UvicornEngine(app.admin, admins, settings._replace(max_connections=1000), lifespan=False)
    await main.start()
    for listener in listeners:
        say(f"listening on {url_of(listener)}")
    if admins:
        await admin.start()
        for listener in admins:
            say(f"admin on {url_of(listener)}")
    try:
        await stop.wait()
        await drain(app, main, settings.drain_timeout, stop)
    finally:
        await main.stop()
        admin.drain()
        await admin.stop()


def engine_settings(config: Config, app: Application) -> EngineSettings:
    """What the engine is told; a time-out that is off becomes a year, since a loop's timers take no infinity."""
    server = config.server
    return EngineSettings(
        max_header_size=server.max_header_size,
        head_timeout=_A_YEAR if server.head_timeout is None else server.head_timeout,
        keepalive_timeout=_A_YEAR if server.keepalive_timeout is None else server.keepalive_timeout,
        drain_timeout=_A_YEAR if server.drain_timeout is None else server.drain_timeout,
        max_connections=server.max_connections,
        on_rejected=app.rejected,
    )


def _engine(config: Config, app: Application, listeners: list[socket.socket], settings: EngineSettings) -> Engine:
    if config.server.engine == "hypercorn":
        return hypercorn_engine(app, listeners, settings)
    return UvicornEngine(app, listeners, settings)


class _Stop(asyncio.Event):
    """Set by the first signal; ``again`` by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.again = asyncio.Event()

    def on_signal(self) -> None:
        (self.again if self.is_set() else self).set()


def _signals() -> _Stop:
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.on_signal)
    return stop


async def drain(app: Application, engine: Engine, timeout: float, stop: _Stop) -> None:
    """Let running exchanges end by themselves for ``timeout`` seconds, then end them."""
    app.draining = True
    engine.drain()
    again = asyncio.get_running_loop().create_task(stop.again.wait())
    try:
        await _until_empty(app.ledger, timeout, again)
        for exchange in list(app.ledger.live.values()):
            exchange.interrupt(StoppedByShutdown())
        await _until_empty(app.ledger, 1.0, None)
    finally:
        again.cancel()


async def _until_empty(ledger: Ledger, timeout: float, again: asyncio.Task[bool] | None) -> None:
    """Wait until no exchange is live, the time is over, or the second signal comes."""
    empty = asyncio.get_running_loop().create_task(ledger.wait_empty())
    waits = {empty} if again is None else {empty, again}
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    empty.cancel()
