"""Serves in this process, for `server.workers` of 1."""

from __future__ import annotations

from streamproxy.app import create_app
from streamproxy.config.model import Config
from streamproxy.process.engine import main_engine
from streamproxy.process.lifecycle import Launch, OwnEngine, Program, on_signals
from streamproxy.server.tls import ListenerTls


async def serve(config: Config, launch: Launch) -> None:
    """Serves on listening sockets until a signal or a successor ends it. Raises StreamproxyError."""
    stop, listeners = on_signals(), launch.listeners.main
    tls = ListenerTls(config.server.tls, config.server.serves_http2) if config.server.tls is not None else None
    app = create_app(config)
    main = OwnEngine(app, main_engine(config, app, listeners, tls), listeners)
    await Program(stop, app, app.admin, main, launch, tls).run()
