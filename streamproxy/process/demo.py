"""`streamproxy demo`: runs the proxy and an embedded upstream behind it in one process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from streamproxy.admin.tries import Tries
from streamproxy.config import Address, parse_config
from streamproxy.demo import DemoUpstream, banner, demo_config, tries
from streamproxy.errors import StreamproxyError
from streamproxy.process.engine import loop_factory
from streamproxy.process.lifecycle import Launch
from streamproxy.process.listeners import ListenerSet
from streamproxy.process.serve import serve
from streamproxy.server.engines import EngineSettings, UvicornEngine
from streamproxy.server.sockets import bind, url_of

_ENDPOINTS = 2


def run_demo(listen: str, admin: str, say: Callable[[str], None]) -> None:
    """Serves the demo until a signal ends it. Raises StreamproxyError if an address is in use or ``admin`` is off."""
    if admin == "off":
        raise StreamproxyError("the demo needs its admin listener: set --admin to a host:port; port 0 picks a free one")
    upstreams = [bind(Address(host="127.0.0.1", port=0)) for _ in range(_ENDPOINTS)]
    config = parse_config(demo_config(*map(url_of, upstreams), listen=listen, admin=admin), name="demo")
    listeners = ListenerSet()
    listeners.main += [bind(address) for address in config.server.listen]
    listeners.admin += [bind(address) for address in config.admin.listen]

    async def serve_both() -> None:
        settings = EngineSettings(65536, 30.0, 75.0, 10000, lambda status, reason: None)
        # One application each, because every endpoint counts its own requests.
        engines = [UvicornEngine(DemoUpstream(), [upstream], settings) for upstream in upstreams]
        for engine in engines:
            await engine.start()
        say(banner(url_of(listeners.main[0]), url_of(listeners.admin[0])))
        try:
            await serve(config, Launch(listeners, say, tries=_tries(listeners.main[0])))
        finally:
            for engine in engines:
                engine.drain()
                await engine.stop()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve_both())
    finally:
        listeners.close()


def _tries(listener: socket.socket) -> Tries | None:
    """Returns what the page offers; None for a Unix socket, to which browsers cannot connect."""
    return None if listener.family == socket.AF_UNIX else Tries(listener.getsockname()[1], tries())
