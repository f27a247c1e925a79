"""A kernel of Jupyter through the proxy: its REST interface, and its channels over one WebSocket.

The client speaks Jupyter's own subprotocol (``v1.kernel.websocket.jupyter.org``): a message is a binary one, a table of
offsets and then the channel, header, parent header, metadata and content.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.doubles.client import connect as connect_raw
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import configuration

V1 = Subprotocol("v1.kernel.websocket.jupyter.org")
TOKEN = "s3cret"


@asynccontextmanager
async def jupyter(folder: Path) -> AsyncIterator[str]:
    """Runs a Jupyter server below the path ``/jupyter``; yields its origin."""
    with reserved_port() as port:
        options = {
            "IdentityProvider.token": TOKEN,
            "ServerApp.base_url": "/jupyter",
            "ServerApp.port": str(port),
            "ServerApp.port_retries": "0",
            "ServerApp.allow_root": "True",
            "ServerApp.root_dir": str(folder),
            "ServerApp.jpserver_extensions": "{}",
            "ZMQChannelsWebsocketConnection.limit_rate": "False",
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        home = {name: str(folder) for name in ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
        with Process([sys.executable, "-m", "jupyter_server", "--no-browser", *flags], env=home) as process:
            await process.line("is running at")
            yield f"http://127.0.0.1:{port}"


async def api(url: str, path: str, method: str, body: object = None) -> Any:
    """The answer of Jupyter's REST interface."""
    async with await connect_raw(url) as client:
        headers = [("Host", url.removeprefix("http://")), ("Authorization", f"token {TOKEN}")]
        data = json.dumps(body).encode()
        await client.request(f"/jupyter/api/{path}", method=method, headers=headers, body=data)
        answer = await client.read_response(method)
    assert answer.status < 300, answer
    return json.loads(answer.body) if answer.body else None


def execute(code: str, number: str) -> bytes:
    """A message of this number that has the kernel run this code."""
    header = {
        "msg_id": number, "msg_type": "execute_request", "version": "5.4",
        "username": "u", "session": "s", "date": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    parts = [b"shell", *(json.dumps(part).encode() for part in (header, {}, {}, content))]
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(parts)


def read(message: bytes) -> tuple[str, str | None, dict[str, Any]]:
    """The type of a message, the number of the one that it answers, and its content."""
    (count,) = struct.unpack_from("<Q", message)
    offsets = struct.unpack_from(f"<{count}Q", message, 8)
    header, parent, content = (json.loads(message[offsets[n] : offsets[n + 1]]) for n in (1, 2, 4))
    return header["msg_type"], parent.get("msg_id"), content


async def printed(client: ClientConnection, code: str) -> str:
    """What code prints that the kernel runs, up to its word that it is idle again."""
    number = uuid.uuid4().hex
    await client.send(execute(code, number))
    text = ""
    async with asyncio.timeout(60):
        while True:
            message = await client.recv()
            assert isinstance(message, bytes)
            kind, parent, content = read(message)
            if parent != number:
                continue
            if kind == "stream":
                text += content["text"]
            if kind == "status" and content["execution_state"] == "idle":
                return text


async def test_a_kernels_channels_pass_the_proxy(run_proxy: RunProxy, tmp_path: Path) -> None:
    async with jupyter(tmp_path) as url:
        upstreams = {"jupyter": {"endpoints": [url], "host": "preserve"}}
        routes = [{"path": "/jupyter/*", "upstream": "jupyter", "websocket": {"ping": "30s"}}]
        proxy = await run_proxy(configuration(routes, upstreams=upstreams))
        kernel = (await api(proxy.url, "kernels", "POST", {}))["id"]
        address = f"{proxy.url.replace('http', 'ws', 1)}/jupyter/api/kernels/{kernel}/channels"
        options: dict[str, Any] = {"proxy": None, "max_size": None, "subprotocols": [V1]}
        fields = {"Authorization": f"token {TOKEN}"}
        # Jupyter refuses an Origin other than its Host: a browser's, if the proxy did not preserve that.
        async with connect(address, origin=Origin(proxy.url), additional_headers=fields, **options) as client:
            assert client.subprotocol == V1
            assert await printed(client, "print(6 * 7)") == "42\n"
            assert len(await printed(client, "print('x' * 3_000_000)")) == 3_000_001
        await until(lambda: proxy.streams(), "the socket to end", holds=lambda live: not live)
        await api(proxy.url, f"kernels/{kernel}", "DELETE")
