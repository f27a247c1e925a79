"""The steps of a process from start to end: the same for a single process, a supervisor and a worker.

Theory of operation. `Lifecycle.run` performs the steps once, in this order::

    main listener accepts ──▶ accepting ──▶ SERVING ──▶ leaving ──▶ drain ──▶ main listener stopped ──▶ gone
                                            until a stop begins

`Program` is the lifecycle of a process started by an operator. *accepting*: a process that is taken over is told to
drain; then the admin listener accepts, reloads are enabled, a successor may connect, and the operator and the service
manager are notified. *leaving* reverts that. The admin listener is closed last (*gone*), so that the drain can be
watched and scraped to its end. A process that is taken over also drains, but passes the admin listener on at once.

Once *accepting* has begun, *leaving* always happens; *gone* happens in any case, even after errors and cancellation.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from streamproxy.admin.app import Admin
from streamproxy.admin.tries import Tries
from streamproxy.app import Application
from streamproxy.control import Control
from streamproxy.errors import StreamproxyError
from streamproxy.process import notify
from streamproxy.process.drain import REPLACED, Stop, drain
from streamproxy.process.engine import admin_engine
from streamproxy.process.listeners import ListenerSet
from streamproxy.process.reload import Reloader, Reloading, Source
from streamproxy.server.engines import Engine
from streamproxy.server.sockets import url_of
from streamproxy.server.tls import ListenerTls

Say = Callable[[str], None]


class StartFailed(StreamproxyError):
    """The main listener cannot be served; the text says why."""


class Main(ABC):
    """Serves the main listener: an engine in this process, or workers."""

    @property
    @abstractmethod
    def listeners(self) -> list[socket.socket]:
        """The sockets of the main listener."""

    @abstractmethod
    async def start(self) -> None:
        """Starts to serve; returns once connections are accepted. Raises StreamproxyError."""

    @abstractmethod
    async def drain(self, stop: Stop) -> None:
        """Stops accepting connections, and ends all exchanges."""

    @abstractmethod
    async def stop(self) -> None:
        """Ends what still runs, after a drain or a failed start."""


class OwnEngine(Main):
    """The main listener served by an engine in this process."""

    def __init__(self, app: Application, engine: Engine, listeners: list[socket.socket]) -> None:
        self._app = app
        self._engine = engine
        self._listeners = listeners
        self._started = False

    @property
    def listeners(self) -> list[socket.socket]:
        return self._listeners

    async def start(self) -> None:
        await self._engine.start()
        self._started = True

    async def drain(self, stop: Stop) -> None:
        server = self._app.in_force.server
        await drain(self._app, self._engine, stop, delay=server.drain_delay, timeout=server.drain_timeout)

    async def stop(self) -> None:
        if self._started:
            await self._engine.stop()


class Lifecycle(ABC):
    """A process that serves until ``stop`` begins."""

    def __init__(self, stop: Stop, control: Control, main: Main) -> None:
        self._stop = stop
        self._control = control
        self._main = main

    async def run(self) -> None:
        """Serves until a stop begins, then shuts down. Raises StreamproxyError if the start fails."""
        try:
            await self._start()
            if not self._stop.at_once.is_set():
                await self._serve()
            await self._main.drain(self._stop)
        finally:
            await self._main.stop()
            await self._gone()

    async def _start(self) -> None:
        try:
            await self._main.start()
        except StartFailed:
            # A signal for the whole process group may have ended workers that were starting.
            if not self._stop.begun.is_set():
                raise
            self._stop.at_once.set()

    async def _serve(self) -> None:
        try:
            await self._accepting()
            await self._stop.begun.wait()
            self._control.draining = not self._stop.replaced  # not ready from this moment on
        finally:
            await self._leaving()

    @abstractmethod
    async def _accepting(self) -> None:
        """Called when the main listener accepts connections."""

    async def _leaving(self) -> None:
        """Called when a stop begins, or when the start failed after the main listener accepted."""
        return

    @abstractmethod
    async def _gone(self) -> None:
        """Called when the main listener is closed."""


class Launch(NamedTuple):
    """The options with which an operator starts a process.

    ``say`` is called with one line for each listener once it accepts. With a ``source``, the configuration is reloaded.
    ``tries`` are offered on the page of the admin listener.
    """

    listeners: ListenerSet
    say: Say
    source: Source | None = None
    tries: Tries | None = None


class Program(Lifecycle):
    """The lifecycle of a process started by an operator, with admin listener, reloads and successors."""

    def __init__(
        self, stop: Stop, control: Control, admin: Admin, main: Main, launch: Launch, tls: ListenerTls | None = None
    ) -> None:
        super().__init__(stop, control, main)
        self._config = control.in_force
        self._launch = launch
        self._succession = launch.listeners.succession
        self._admin = admin
        self._admin_engine = admin_engine(
            self._config, admin, launch.listeners.admin, lambda status, reason: control.metrics.rejected(status)
        )
        if launch.tries is not None:
            admin.offer(launch.tries)
        self._reloading = Reloading(control, Reloader(control, launch.source, tls)) if launch.source else None

    async def _accepting(self) -> None:
        await self._succession.take_over(self._control)
        admins = self._launch.listeners.admin
        if admins:
            await self._admin_engine.start()
        if self._reloading is not None:
            self._reloading.begin()
        await self._succession.offer(self._stop, self._control, lambda: (self._main.listeners, admins))
        self._announce()

    def _announce(self) -> None:
        scheme = "http" if self._config.server.tls is None else "https"
        listeners, say = self._launch.listeners, self._launch.say
        for url in dict.fromkeys(url_of(listener, scheme) for listener in listeners.main):  # several may share one
            say(f"listening on {url}")
        for listener in listeners.admin:
            say(f"admin on {url_of(listener)}")
        notify.tell(os.environ, notify.READY)

    async def _leaving(self) -> None:
        notify.tell(os.environ, notify.STOPPING)
        if self._reloading is not None:
            await self._reloading.end()
        self._succession.withdraw()
        if self._stop.replaced:
            # What is asked of the admin listener from now on is for the successor to answer.
            self._admin_engine.drain(REPLACED)
            await self._admin.aclose()

    async def _gone(self) -> None:
        self._admin_engine.drain()
        await self._admin.aclose()
        await self._admin_engine.stop()
        await self._succession.end(self._stop)


def on_signals() -> Stop:
    """Installs the handlers of SIGTERM and SIGINT."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.on_signal)
    return stop
