"""The clients of `benchmarks.keep`, and an upstream that knows when it was left, in a process of their own.

Commands come as lines on the standard input, and each is answered with one line of JSON. Times are those of
CLOCK_MONOTONIC, which all processes of a machine share, in seconds.

- ``open PORT PREFIX CLIENTS CHANNELS``: open so many streams, of ``PREFIX`` and a number below CHANNELS in turn.
- ``mark``: forget what has come so far.
- ``count``: how many events have come since, the delays of those that say when they were sent, and streams that
  ended or were refused.
- ``left``: when the upstream lost its last connection.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from array import array
from typing import Any, cast

import uvloop

_STAMP = re.compile(rb"data: (?:(\d{6,}) )?")
_READY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nd\r\ndata: hello\n\n\r\n"
)
_RAMP = 200  # connections that are being opened at once


class Crowd:
    """What all clients have got."""

    def __init__(self) -> None:
        self.events = 0
        self.ended = 0
        self.refused = 0
        self.delays = array("d")
        self.opened = asyncio.Semaphore(0)


class Client(asyncio.Protocol):
    """One stream. An event has the microseconds at which it was sent as the first word of its data, or does not."""

    def __init__(self, crowd: Crowd, path: str) -> None:
        self._crowd = crowd
        self._path = path
        self._head = b""
        self._in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        request = f"GET {self._path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        cast("asyncio.Transport", transport).write(request.encode())  # uvloop's is none of asyncio's

    def data_received(self, data: bytes) -> None:
        crowd = self._crowd
        if not self._in_body:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, _, data = self._head.partition(b"\r\n\r\n")
            crowd.refused += b" 200 " not in head[:16]
            self._in_body = True
            crowd.opened.release()
        now = time.monotonic()
        for match in _STAMP.finditer(data):
            crowd.events += 1
            if match[1]:
                crowd.delays.append(now - int(match[1]) / 1e6)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.ended += 1
        if not self._in_body:
            self._crowd.opened.release()


class Upstream(asyncio.Protocol):
    """One event and then silence; ``/json`` is a plain answer. Notes when it is left."""

    left = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._asked = b""

    def data_received(self, data: bytes) -> None:
        self._asked += data
        if self._asked.endswith(b"\r\n\r\n"):
            path, self._asked = self._asked.split(b" ", 2)[1], b""
            self._transport.write(_READY if path == b"/json" else _STREAM)

    def connection_lost(self, exc: Exception | None) -> None:
        Upstream.left = time.monotonic()


async def _open(crowd: Crowd, port: int, prefix: str, clients: int, channels: int) -> None:
    loop = asyncio.get_running_loop()
    waiting = 0
    for number in range(clients):
        path = f"{prefix}{number % channels}" if channels else prefix
        await loop.create_connection(lambda path=path: Client(crowd, path), "127.0.0.1", port)  # type: ignore[misc]
        waiting += 1
        if waiting >= _RAMP:
            await crowd.opened.acquire()
            waiting -= 1
    for _ in range(waiting):
        await crowd.opened.acquire()


def _summary(crowd: Crowd) -> dict[str, Any]:
    delays = sorted(crowd.delays)
    at = {
        name: delays[int(len(delays) * part)] * 1e3 if delays else 0.0 for name, part in (("p50", 0.5), ("p99", 0.99))
    }
    return {
        "events": crowd.events,
        "lost": crowd.ended + crowd.refused,
        "max": delays[-1] * 1e3 if delays else 0.0,
        **at,
    }


async def main() -> None:
    """Say the upstream's port, then obey."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    crowd = Crowd()
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        answer: Any = None
        if words[0] == "open":
            await _open(crowd, int(words[1]), words[2], int(words[3]), int(words[4]))
        elif words[0] == "mark":
            crowd.events = crowd.ended = 0
            crowd.delays = array("d")
        elif words[0] == "count":
            answer = _summary(crowd)
        elif words[0] == "left":
            answer = Upstream.left
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
