"""Under a whole uvicorn server: how it ends, and who gets WebSockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from tests.conftest import Connect
from tests.doubles.leaks import LeakCheck
from tests.doubles.until import until
from tests.unit.server.harness import (
    GET,
    App,
    Receive,
    Scope,
    Send,
    body_message,
    configure,
    hello,
    start_message,
)

# The engine starts, answers a handshake, and stops. Then it says which modules of uvicorn's WebSockets there are.
PROGRAM = """
import asyncio, sys
from streamproxy.config import Address
from streamproxy.server.engines import EngineSettings, UvicornEngine
from streamproxy.server.sockets import bind

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    scope["extensions"]["streamproxy.connection"].upgrade([(b"upgrade", b"websocket")]).close()

async def main():
    listener = bind(Address(host="127.0.0.1", port=0))
    engine = UvicornEngine(app, [listener], EngineSettings(32768, 5.0, 5.0, 10, lambda status, detail: None))
    await engine.start()
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET /chat HTTP/1.1\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: websocket\\r\\n"
                 b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
    print((await reader.read())[9:12].decode())
    writer.close()
    await engine.stop()

asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith(("uvicorn.protocols.websockets", "wsproto"))))
"""


class Running:
    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@asynccontextmanager
async def running(app: App, **options: Any) -> AsyncIterator[Running]:
    config = configure(app, **options)
    config.port = 0
    server = uvicorn.Server(config)
    task = asyncio.get_running_loop().create_task(server._serve())  # serve() would take the signals
    await until(lambda: server.started)
    try:
        yield Running(server)
    finally:
        server.should_exit = True
        async with asyncio.timeout(10):
            await task


async def test_uvicorn_serves_with_the_protocol(leaks: LeakCheck, dial: Connect) -> None:
    async with running(hello) as one:
        client = await dial(one.url)
        await client.send(GET)
        assert (await client.read_response()).body == b"/ "
        assert len(one.server.server_state.connections) == 1
        assert one.server.server_state.total_requests == 1


async def test_a_shutdown_closes_idle_connections_and_lets_busy_ones_finish(leaks: LeakCheck, dial: Connect) -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await send(start_message(200, (b"content-type", b"text/event-stream")))
        await gate.wait()
        if scope["path"] != "/stream":
            await send(start_message(200, (b"content-type", b"text/plain")))
        await send(body_message(b"end"))

    async with running(app, linger=0.05) as one:
        idle, busy, stream, begun = [await dial(one.url) for _ in range(4)]
        await busy.send(GET + GET)
        await stream.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.send(b"GET /begun")
        head = await stream.read_head()
        state = one.server.server_state
        await until(lambda: len(state.tasks) >= 2 and len(state.connections) >= 4)
        await until(lambda: any(c._head is not None for c in state.connections))  # type: ignore[union-attr]
        for connection in list(one.server.server_state.connections):
            connection.shutdown()
        assert (await idle.read_all())[0] == b""
        gate.set()
        answer = await busy.read_response()
        assert (answer.body, answer.get("connection")) == (b"end", b"close")
        assert (await busy.wait_ended()).how == "eof"
        assert head.get("connection") is None
        rest = await stream.read_rest()
        assert (rest.body, rest.complete) == (b"end", True)
        assert (await stream.wait_ended()).how == "eof"
        await begun.send(b" HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await begun.read_response()
        assert (answer.body, answer.get("connection")) == (b"end", b"close")


async def test_a_websocket_handshake_is_an_ordinary_request(leaks: LeakCheck, dial: Connect) -> None:
    async with running(hello) as one:
        client = await dial(one.url)
        await client.send(
            b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await client.read_response()).body == b"/chat "


def test_our_engine_imports_nothing_of_uvicorns_websockets() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("101\n[]\n", "")
