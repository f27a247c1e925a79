"""The upstream of the cases: a server of chat-like event streams whose behaviour is named in the path.

The first part of the path is the scenario; what follows does not matter, so that an LLM gateway may append its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

_FIELDS: Final = (b"Content-Type: text/event-stream", b"Cache-Control: no-cache", b"Transfer-Encoding: chunked")
HEAD: Final = b"\r\n".join((b"HTTP/1.1 200 OK", *_FIELDS, b"", b""))
LAST: Final = b"0\r\n\r\n"
PAUSE: Final = 0.6  # seconds before the second event of `paced`, and before the first of `late`
LONG: Final = 70.0  # seconds of silence in `silent`
STEADY: Final = 20.0  # seconds that `steady` lasts
_EVENT: Final = (
    '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":0,"delta":{"role":"assistant","content":"n%d "},"finish_reason":null}]}'
)


def event(number: int) -> bytes:
    """One event in one chunk. Its text has ``n`` and the number."""
    data = b"data: " + (_EVENT % number).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream:
    """The server. ``left`` is set to the time at which a client of `left` was gone, ``seen`` counts connections."""

    def __init__(self) -> None:
        self.left: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.seen: dict[str, int] = {}
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while head := await _request(reader):
                path = head.split(b" ")[1].decode()
                name = path.split("?")[0].strip("/").split("/")[0]
                self.seen[name] = self.seen.get(name, 0) + 1
                if await SCENARIOS.get(name, _plain)(self, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # cancelled at the end, which asyncio's streams would report
        finally:
            self._tasks.discard(task)
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """One request's head, its body read; nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    fields = head.lower()
    if b"\r\ncontent-length:" in fields:
        await reader.readexactly(int(fields.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]))
    elif b"\r\ntransfer-encoding:" in fields:
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    return head


_Scenario = Callable[[Upstream, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


async def _plain(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    return False


async def _paced(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Three events with pauses between them, and a proper end."""
    writer.write(HEAD + event(1))
    for number in (2, 3):
        await asyncio.sleep(PAUSE)
        writer.write(event(number))
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n" + LAST)
    return False


async def _late(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """The head at once, the first event later, and the end later still."""
    writer.write(HEAD)
    await asyncio.sleep(PAUSE)
    writer.write(event(0))
    return await _after(2 * PAUSE, writer)


async def _after(seconds: float, writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(seconds)
    writer.write(event(1) + b"e\r\ndata: [DONE]\n\n\r\n" + LAST)
    return False


async def _silent(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One event, a long silence, and another."""
    writer.write(HEAD + event(0))
    return await _after(LONG, writer)


async def _steady(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """An event a second for a while, and a proper end."""
    writer.write(HEAD)
    for number in range(int(STEADY)):
        writer.write(event(number))
        await asyncio.sleep(1.0)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n" + LAST)
    return False


async def _left(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One event and then nothing: waits for the proxy to close the connection."""
    writer.write(HEAD + event(0))
    with contextlib.suppress(OSError):
        await reader.read()
    if not upstream.left.done():
        upstream.left.set_result(time.monotonic())
    return True


async def _cut(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Two events, and the connection closes without the last chunk."""
    writer.write(HEAD + event(1))
    await asyncio.sleep(0.2)
    writer.write(event(2))
    await writer.drain()
    return True


async def _reset(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """The first request's connection closes without an answer; later ones are answered."""
    if upstream.seen["reset"] == 1:
        return True
    return await _paced(upstream, reader, writer)


async def _long(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Forty events, ten a second, each numbered."""
    writer.write(HEAD)
    for number in range(40):
        writer.write(event(number))
        await asyncio.sleep(0.1)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n" + LAST)
    return False


SCENARIOS: Final[dict[str, _Scenario]] = {
    "twice": _paced,
    "paced": _paced,
    "late": _late,
    "silent": _silent,
    "steady": _steady,
    "left": _left,
    "cut": _cut,
    "reset": _reset,
    "long": _long,
}
