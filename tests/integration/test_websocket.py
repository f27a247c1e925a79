"""WebSocket through the running program: over TLS, through a reload and a stop, behind nginx, under each engine."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed

from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import answering, response
from tests.integration.conftest import RunNginx, RunProxy
from tests.integration.proxy import Config, configuration, write_configuration
from tests.integration.test_takeover import program, served

engines = pytest.mark.parametrize(
    "server", [{"engine": "uvicorn"}, {"engine": "hypercorn"}], ids=["uvicorn", "hypercorn"]
)
processes = pytest.mark.parametrize(
    "server", [{"engine": "uvicorn"}, {"engine": "hypercorn"}, {"workers": 2}], ids=["uvicorn", "hypercorn", "workers"]
)


@asynccontextmanager
async def echoing(tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A WebSocket server that sends back what it gets; its URL."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with listen(echo, "127.0.0.1", 0, max_size=None, ssl=tls) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"https://localhost:{port}" if tls is not None else f"http://127.0.0.1:{port}"


def dialled(url: str, **options: Any) -> connect:
    return connect(url.replace("http", "ws", 1), max_size=None, proxy=None, **options)


async def answers(client: ClientConnection) -> None:
    for message in ("text", b"x" * 1_000_000):
        await client.send(message)
        assert await client.recv() == message


@engines
async def test_a_socket_over_tls_on_both_sides(run_proxy: RunProxy, certificate: Certificate, server: Config) -> None:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    async with echoing(certificate.server_context()) as url:
        upstreams = {"up": {"endpoints": [url], "tls": {"ca": str(certificate.cert)}}}
        routes = [{"path": "/*", "upstream": "up"}]
        proxy = await run_proxy(configuration(routes, upstreams=upstreams, server={**server, "tls": tls}))
        async with dialled(proxy.url, ssl=certificate.client_context()) as client:
            await answers(client)


@processes
async def test_a_reload_leaves_a_socket_alone(run_proxy: RunProxy, serve: Serve, server: Config) -> None:
    new = await serve(answering(response(b"new")))
    async with echoing() as url:
        proxy = await run_proxy(configuration(url, server=server))
        async with dialled(proxy.url) as client:
            await answers(client)
            write_configuration(proxy.file.parent, configuration(new.url, server=server))
            proxy.process.signal(signal.SIGHUP)
            await proxy.until_reloaded(1)
            await answers(client)


@processes
async def test_a_stop_waits_for_a_socket_and_then_says_so(run_proxy: RunProxy, server: Config) -> None:
    async with echoing() as url:
        proxy = await run_proxy(configuration(url, server={**server, "drain_timeout": "500ms"}))
        async with dialled(proxy.url) as client:
            proxy.process.signal(signal.SIGTERM)
            await answers(client)
            with pytest.raises(ConnectionClosed) as caught:
                async with asyncio.timeout(20):
                    await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012


@engines
async def test_a_socket_passes_nginx_in_front(run_proxy: RunProxy, run_nginx: RunNginx, server: Config) -> None:
    async with echoing() as url:
        proxy = await run_proxy(configuration(url, server=server))
        directives = (
            "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
        )
        front = await run_nginx(f"location / {{ proxy_pass {proxy.url}; {directives} }}")
        async with dialled(front.url) as client:
            await answers(client)


@engines
async def test_a_takeover_leaves_a_socket_with_its_process(tmp_path: Path, server: Config) -> None:
    async with echoing() as url:
        with reserved_port() as port, reserved_port() as admin:
            server = {**server, "listen": f"127.0.0.1:{port}", "drain_timeout": "10m"}
            config = configuration(url, server=server, admin={"listen": f"127.0.0.1:{admin}"})
            file = write_configuration(tmp_path, config)
            with program(file) as old:
                proxy = await served(old, file)
                async with dialled(proxy.url) as client:
                    await answers(client)
                    with program(file, "--takeover") as new:
                        await served(new, file)
                        await answers(client)
                        async with dialled(proxy.url) as another:
                            await answers(another)
                        await client.close()
                        await until(lambda: old.child.poll() is not None, "the old process to end")
