"""``python -m benchmarks.http2_client PORT PATH STREAMS``: reads streams of events over one HTTP/2 connection.

It speaks as the load generator in C does (see its head): "ready", then ``m`` begins the measurement, and ``e`` ends it
with one JSON object. The time of each event is the one that the upstream wrote into it. Its own CPU does not count, so
that it may be in Python.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any, cast

import ngh2
import uvloop

_STAMP = re.compile(rb"@(\d{19})")
_HEAD = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"127.0.0.1")]
_FIELDS = [(b"accept", b"text/event-stream")]


class Client(asyncio.Protocol):
    """One connection with its streams. ``greeted`` is set once each stream had its first event."""

    def __init__(self, path: str, streams: int) -> None:
        self._connection = ngh2.Connection(ngh2.Role.CLIENT)
        self._path = path.encode()
        self._streams = streams
        self._begun: set[int] = set()
        self._rests: dict[int, bytes] = {}
        self.greeted = asyncio.Event()
        self.ended = asyncio.Event()
        self.delays: list[int] = []
        self.errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's
        self._connection.initiate_connection({ngh2.Setting.ENABLE_PUSH: 0})
        self._connection.set_local_window_size((1 << 31) - 1)
        for _ in range(self._streams):
            self._connection.send_request([*_HEAD, (b":path", self._path), *_FIELDS], end_stream=True)
        self._flush()

    def data_received(self, data: bytes) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._connection.receive_data(data)
        for event in self._connection.events():
            self._take(event, now)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.errors += 1
        self.ended.set()

    def _take(self, event: Any, now: int) -> None:
        kind = type(event)
        if kind is ngh2.DataReceived:
            # A frame may end inside a stamp: what follows the last whole one waits for the next.
            data = self._rests.pop(event.stream_id, b"") + event.data
            stamps = [int(found) for found in _STAMP.findall(data)]
            self.delays += [now - stamp for stamp in stamps]
            tail = data[-19:]
            if b"@" in tail:
                self._rests[event.stream_id] = tail[tail.rindex(b"@") :]
            self._begun.add(event.stream_id)
            if len(self._begun) == self._streams:
                self.greeted.set()
        elif kind in (ngh2.StreamReset, ngh2.StreamClosed):
            self.errors += 1

    def _flush(self) -> None:
        while data := self._connection.data_to_send():
            self._transport.write(data)
        for event in self._connection.events():
            self._take(event, 0)


def _rank(delays: list[int], share: float) -> float:
    return delays[int((len(delays) - 1) * share)] / 1000 if delays else 0.0


async def main(port: int, path: str, streams: int) -> None:
    """Read until the standard input says so."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(path, streams), "127.0.0.1", port)
    await client.greeted.wait()
    print("ready", flush=True)
    began = 0.0
    while command := await loop.run_in_executor(None, sys.stdin.read, 1):
        if command == "m":
            client.delays, client.errors, began = [], 0, time.monotonic()
        elif command == "e":
            seconds, delays, errors = time.monotonic() - began, sorted(client.delays), client.errors
            delay = {"p50": _rank(delays, 0.5), "p99": _rank(delays, 0.99)}
            print(json.dumps({"seconds": seconds, "events": len(delays), "errors": errors, "delay": delay}), flush=True)
            return


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
