"""A backend of the soak, to be killed and started again: ``python -m tests.soak.backend NAME PORT WEBSOCKET_PORT``.

``/llm`` is a chat completion and ``/events`` a plain event stream, both of ``n`` events ``gap`` milliseconds apart;
``/endless`` never ends; ``/file`` has ``size`` bytes; ``/upload`` answers with the digest of what it was sent. The
second port echoes WebSocket messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection, serve

from tests.soak.content import DONE, event_text, file_bytes, llm_event

_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection; the proxy sends the next request when a response is complete."""

    name = ""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self.left = -1  # bytes of an upload that have not come
        self.digest = hashlib.sha256()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.left >= 0:
            self.take_upload()
            return
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if end:
            self.buffer = rest
            self.begin(head)

    def begin(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        url = urlsplit(lines[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        query = {name: int(value) for name, value in parse_qsl(url.query)}
        kind = url.path.rpartition("/")[2]
        self.left, self.digest = int(fields.get("content-length", 0)), hashlib.sha256()
        if kind == "upload":
            self.take_upload()
            return
        self.buffer, self.left = self.buffer[self.left :], -1  # a prompt, which comes with its head
        if kind == "file":
            body = file_bytes(query["seed"], query["size"])
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        elif kind in ("llm", "events", "endless"):
            self.transport.write(_STREAM_HEAD)
            self.beat(kind, query["seed"], 0, query.get("n", sys.maxsize), query["gap"] / 1000)
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def take_upload(self) -> None:
        piece, self.buffer = self.buffer[: self.left], self.buffer[self.left :]
        self.digest.update(piece)
        self.left -= len(piece)
        if not self.left:
            self.left = -1
            body = self.digest.hexdigest().encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def beat(self, kind: str, seed: int, number: int, count: int, gap: float) -> None:
        if number == count:
            self.chunk(DONE if kind == "llm" else b"")
            if kind == "llm":
                self.chunk(b"")
            return
        text = event_text(self.name, seed, number, time.monotonic_ns())
        self.chunk(llm_event(text) if kind == "llm" else f"data: {text}\n\n".encode())
        self.timer = self.loop.call_later(gap, self.beat, kind, seed, number + 1, count, gap)

    def chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main(name: str, port: int, websocket_port: int) -> None:
    Connection.name = name
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    async with serve(echo, "127.0.0.1", websocket_port, compression=None):
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
