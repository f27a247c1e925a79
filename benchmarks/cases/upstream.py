"""The upstream of the cases: a server of chat-like event streams whose behaviour is named in the path.

The first part of the path is the scenario; what follows does not matter, so that an LLM gateway may append its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

_FIELDS: Final = (b"Content-Type: text/event-stream", b"Cache-Control: no-cache")
PAUSE: Final = 0.6  # seconds before the second event of `paced`, and before the first of `late`
LONG: Final = 70.0  # seconds of silence in `silent`
STEADY: Final = 20.0  # seconds that `steady` lasts
_EVENT: Final = (
    '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":0,"delta":{"role":"assistant","content":"n%d "},"finish_reason":null}]}'
)


class Answer:
    """A response as it is written: in chunks, or to a request of HTTP/1.0 until the connection closes."""

    def __init__(self, writer: asyncio.StreamWriter, chunked: bool) -> None:
        self._writer = writer
        self._chunked = chunked

    def head(self) -> None:
        fields = (*_FIELDS, b"Transfer-Encoding: chunked") if self._chunked else _FIELDS
        self._writer.write(b"\r\n".join((b"HTTP/1.1 200 OK", *fields, b"", b"")))

    def event(self, number: int) -> None:
        """One event in one chunk. Its text has ``n`` and the number."""
        self._data((_EVENT % number).encode())

    def end(self) -> bool:
        """The end marker and the end. Returns whether the connection has to close for it."""
        self._data(b"[DONE]")
        if self._chunked:
            self._writer.write(b"0\r\n\r\n")
        return not self._chunked

    def whole(self) -> None:
        """A response that is no stream."""
        self._writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    async def flushed(self) -> None:
        await self._writer.drain()

    def _data(self, text: bytes) -> None:
        data = b"data: " + text + b"\n\n"
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)


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
                answer = Answer(writer, b" HTTP/1.1\r\n" in head)
                if await SCENARIOS.get(name, _plain)(self, reader, answer):
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


_Scenario = Callable[[Upstream, asyncio.StreamReader, Answer], Awaitable[bool]]  # whether the connection closes


async def _plain(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    answer.whole()
    return False


async def _paced(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """Three events with pauses between them, and a proper end."""
    answer.head()
    answer.event(1)
    for number in (2, 3):
        await asyncio.sleep(PAUSE)
        answer.event(number)
    return answer.end()


async def _late(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """The head at once, the first event later, and the end later still."""
    answer.head()
    await asyncio.sleep(PAUSE)
    answer.event(0)
    return await _after(2 * PAUSE, answer)


async def _after(seconds: float, answer: Answer) -> bool:
    await asyncio.sleep(seconds)
    answer.event(1)
    return answer.end()


async def _silent(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """One event, a long silence, and another."""
    answer.head()
    answer.event(0)
    return await _after(LONG, answer)


async def _steady(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """An event a second for a while, and a proper end."""
    answer.head()
    for number in range(int(STEADY)):
        answer.event(number)
        await asyncio.sleep(1.0)
    return answer.end()


async def _left(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """One event and then nothing: waits for the proxy to close the connection."""
    answer.head()
    answer.event(0)
    with contextlib.suppress(OSError):
        await reader.read()
    if not upstream.left.done():
        upstream.left.set_result(time.monotonic())
    return True


async def _cut(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """Two events, and the connection closes without the last chunk."""
    answer.head()
    answer.event(1)
    await asyncio.sleep(0.2)
    answer.event(2)
    await answer.flushed()
    return True


async def _reset(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """The first request's connection closes without an answer; later ones are answered."""
    if upstream.seen["reset"] == 1:
        return True
    return await _paced(upstream, reader, answer)


async def _long(upstream: Upstream, reader: asyncio.StreamReader, answer: Answer) -> bool:
    """Forty events, ten a second, each numbered."""
    answer.head()
    for number in range(40):
        answer.event(number)
        await asyncio.sleep(0.1)
    return answer.end()


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
