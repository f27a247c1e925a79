"""`streamproxy run`: listeners, signals, and the order in which things start and end.

The listeners are bound first, so that a port in use is an error at once; then the application starts, then the main
listener accepts, then a process that is taken over is told to go, then the admin listener accepts. SIGTERM and SIGINT
end all that by `streamproxy.process.drain`; the admin listener is the last to go, so that the drain can be watched and
scraped to its end. Who is taken over drains too, but leaves the admin listener to its successor. SIGHUP reloads.

In a container the process may be number 1, for which a signal without a handler is ignored, and to which every orphan
belongs: it has a handler for each signal that matters from its first moment on, and lets the kernel reap orphans.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

from streamproxy.admin.app import Admin, Reloaded
from streamproxy.app import Application, create_app
from streamproxy.config.model import Config
from streamproxy.process import notify
from streamproxy.process.descriptors import raise_limit
from streamproxy.process.drain import REPLACED, Stop, drain
from streamproxy.process.listeners import Opened
from streamproxy.process.memory import keep_buffers
from streamproxy.process.reload import Reloader, Source
from streamproxy.process.succession import Succession
from streamproxy.server.engines import FOREVER, Engine, EngineSettings, UvicornEngine, hypercorn_engine
from streamproxy.server.sockets import url_of
from streamproxy.server.tls import ListenerTls

Say = Callable[[str], None]

ADMIN_CONNECTIONS = 1000


def run(config: Config, say: Say, source: Source | None = None, *, takeover: bool = False) -> None:
    """Serve until a signal ends it; ``say`` gets one line a listener once it accepts.

    With ``takeover`` the listeners are those of the process that serves, which ends its streams once this one serves.
    Listeners that the service manager has passed on are taken in place of the configured addresses. With a ``source``,
    which ``config`` came from, the configuration is reloaded. Raises StreamproxyError for an address that can't be
    listened on or a file that can't be used.
    """
    _be_the_first_process(reloads=source is not None)
    keep_buffers()
    raise_limit()
    opened = Opened()
    try:
        opened.open(config, os.environ, say, takeover=takeover)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_server(config)(config, opened.main, opened.admin, say, source, opened.succession))
    finally:
        opened.close()


def _server(config: Config) -> Callable[..., Coroutine[Any, Any, None]]:
    if config.server.workers == 1:
        return serve
    from streamproxy.process.supervisor import supervise

    return supervise


def _be_the_first_process(*, reloads: bool) -> None:
    # Until the loop has its own handlers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    if reloads:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a file that changes meanwhile is seen to have changed
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are never waited for


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, the standard loop elsewhere."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(
    config: Config,
    listeners: list[socket.socket],
    admins: list[socket.socket],
    say: Say,
    source: Source | None = None,
    succession: Succession | None = None,
) -> None:
    """Serve on sockets that listen already, until a signal, or until a successor does."""
    stop, succession = on_signals(), succession or Succession()
    tls = ListenerTls(config.server.tls) if config.server.tls is not None else None
    app = create_app(config)
    reloader = Reloader(app, source, tls) if source is not None else None
    settings = engine_settings(config, app.rejected)
    main = main_engine(config, app, listeners, tls)
    # The admin listener answers also when the main one is full.
    admin = UvicornEngine(app.admin, admins, settings._replace(max_connections=ADMIN_CONNECTIONS), lifespan=False)
    await main.start()
    try:
        await succession.take_over(app.metrics)
        if admins:
            await admin.start()
        async with reloading(app, reloader):
            await succession.offer(stop, app.metrics, lambda: (listeners, admins))
            announce(config, listeners, admins, say)
            await stop.begun.wait()
            app.draining = not stop.replaced  # not ready from this moment on
            notify.tell(os.environ, notify.STOPPING)
        succession.withdraw()
        if stop.replaced:
            await leave_to_successor(app.admin, admin)
        server = app.deployment.config.server
        await drain(app, main, stop, delay=server.drain_delay, timeout=server.drain_timeout)
    finally:
        await main.stop()
        admin.drain()
        await admin.stop()
        await succession.end(stop, app.metrics)


async def leave_to_successor(app: Admin, engine: Engine) -> None:
    """Serve the admin listener no more: what is asked there from now on is for the successor to answer."""
    engine.drain(REPLACED)
    await app.aclose()


def announce(config: Config, listeners: list[socket.socket], admins: list[socket.socket], say: Say) -> None:
    """One line a listener; the service manager hears of it too."""
    scheme = "http" if config.server.tls is None else "https"
    for url in dict.fromkeys(url_of(listener, scheme) for listener in listeners):  # several may share an address
        say(f"listening on {url}")
    for listener in admins:
        say(f"admin on {url_of(listener)}")
    notify.tell(os.environ, notify.READY)


def engine_settings(config: Config, rejected: Callable[[int, str], None]) -> EngineSettings:
    """What the engine is told of connections."""
    server = config.server
    return EngineSettings(
        max_header_size=server.max_header_size,
        head_timeout=FOREVER if server.head_timeout is None else server.head_timeout,
        keepalive_timeout=FOREVER if server.keepalive_timeout is None else server.keepalive_timeout,
        drain_timeout=FOREVER if server.drain_timeout is None else server.drain_timeout,
        max_connections=server.max_connections,
        on_rejected=rejected,
    )


def main_engine(
    config: Config,
    app: Application,
    listeners: list[socket.socket],
    tls: ListenerTls | None,
    *,
    max_connections: int | None = None,
) -> Engine:
    """The configured server on the main listener; ``max_connections`` overrides the configured number."""
    settings = engine_settings(config, app.rejected)._replace(tls=tls.front if tls is not None else None)
    if max_connections is not None:
        settings = settings._replace(max_connections=max_connections)
    app.metrics.engine = config.server.engine
    if config.server.engine == "hypercorn":
        return hypercorn_engine(app, listeners, settings)
    return UvicornEngine(app.serve, listeners, settings)


def on_signals() -> Stop:
    """Hear SIGTERM and SIGINT."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.on_signal)
    return stop


async def _too_late() -> Reloaded:
    return Reloaded(problems=("the proxy is about to end, and its configuration stays as it is",))


class _Reloads(Protocol):
    reloader: Callable[[], Awaitable[Reloaded]] | None


@asynccontextmanager
async def reloading(app: _Reloads, reloader: Reloader | None) -> AsyncIterator[None]:
    """Within it, SIGHUP, ``POST /reload`` and a change of the files reload the configuration."""
    if reloader is None:
        yield
        return
    loop = asyncio.get_running_loop()
    asked: set[asyncio.Task[object]] = set()

    def on_signal() -> None:
        if len(asked) > 1:
            return  # one has begun perhaps, the other will read what is there by now
        task = loop.create_task(reloader.reload())
        asked.add(task)
        task.add_done_callback(asked.discard)

    over = asyncio.Event()
    following = loop.create_task(reloader.follow(over), name="watch the configuration")
    app.reloader = reloader.reload
    loop.add_signal_handler(signal.SIGHUP, on_signal)
    try:
        yield
    finally:
        # A process that ends does not change any more; a SIGHUP must not kill it.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        app.reloader = _too_late
        over.set()
        for task in (following, *asked):
            task.cancel()
        await asyncio.gather(following, *asked, return_exceptions=True)
