"""`streamproxy demo`: the embedded upstream and the proxy before it, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamproxy.config import Address, parse_config
from streamproxy.demo import banner, demo_config, upstream_app
from streamproxy.errors import StreamproxyError
from streamproxy.process.engine import loop_factory
from streamproxy.process.lifecycle import Launch
from streamproxy.process.listeners import ListenerSet
from streamproxy.process.serve import serve
from streamproxy.server.engines import EngineSettings, UvicornEngine
from streamproxy.server.sockets import bind, url_of


def run_demo(listen: str, admin: str, say: Callable[[str], None]) -> None:
    """Serve the demo until a signal ends it. Raises StreamproxyError when an address is in use or ``admin`` is off."""
    if admin == "off":
        raise StreamproxyError(
            "the demo shows its admin listener: give --admin a host:port, with port 0 for a free one"
        )
    upstream = bind(Address(host="127.0.0.1", port=0))
    config = parse_config(demo_config(url_of(upstream), listen=listen, admin=admin), name="demo")
    listeners = ListenerSet()
    listeners.main += [bind(address) for address in config.server.listen]
    listeners.admin += [bind(address) for address in config.admin.listen]

    async def serve_both() -> None:
        settings = EngineSettings(65536, 30.0, 75.0, 1.0, 10000, lambda status, reason: None)
        engine = UvicornEngine(upstream_app, [upstream], settings)
        await engine.start()
        say(banner(url_of(listeners.main[0]), url_of(listeners.admin[0])))
        try:
            await serve(config, Launch(listeners, say))
        finally:
            engine.drain()
            await engine.stop()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve_both())
    finally:
        listeners.close()
