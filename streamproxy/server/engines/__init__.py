"""The ASGI servers that can carry the proxy."""

from __future__ import annotations

import socket

from starlette.types import ASGIApp

from streamproxy.server.engines.base import Engine, EngineSettings
from streamproxy.server.engines.uvicorn import UvicornEngine

__all__ = ["Engine", "EngineSettings", "UvicornEngine", "hypercorn_engine"]


def hypercorn_engine(app: ASGIApp, sockets: list[socket.socket], settings: EngineSettings) -> Engine:
    """Creates the hypercorn engine. Raises ImportError without the extra, which is imported only here."""
    from streamproxy.server.engines.hypercorn import HypercornEngine

    return HypercornEngine(app, sockets, settings)
