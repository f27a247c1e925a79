"""The demo's other endpoints: a clock, lines of JSON, late, mute and broken streams, a long download, an upload."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from itertools import count as numbers_from

from streamproxy.demo.call import EVENT_STREAM, Call, compact, sse
from streamproxy.demo.completion import TOKENS
from streamproxy.errors import ExchangeAborted

NDJSON = b"application/x-ndjson"
GIGABYTE = 1_000_000_000
# Byte i of a download is i modulo 251, a prime: a lost, doubled or swapped block of any usual size shows.
PERIOD = 251
BLOCK = bytes(range(PERIOD)) * 260


async def events(call: Call) -> None:
    """An SSE clock: one event every ``?interval=`` seconds (1), numbered by its id, ``?count=`` times (0: endless).

    It continues after the Last-Event-ID of a client that reconnects.
    """
    first = _first_id(call.header(b"last-event-id"))

    def event(number: int) -> bytes:
        retry = b"retry: 1000\n" if number == first else b""  # milliseconds until an EventSource reconnects
        return retry + b"id: %d\n" % number + sse(_tick(number))

    await call.stream(EVENT_STREAM, _clock(call, first, event))


async def ndjson(call: Call) -> None:
    """One line of JSON every ``?interval=`` seconds (1), ``?count=`` times (0: endless)."""
    await call.stream(NDJSON, _clock(call, 1, lambda number: compact(_tick(number)) + b"\n"))


async def slow(call: Call, token_delay: float) -> None:
    """A stream whose head is sent at once, and whose first event is sent after ``?delay=`` seconds (20)."""
    delay = call.seconds("delay", 20.0)

    async def late() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(delay)
        for token in TOKENS[:10]:
            yield sse({"token": token})
            await asyncio.sleep(token_delay)

    await call.stream(EVENT_STREAM, late())


async def mute(call: Call) -> None:
    """A stream that sends only its head, until the client leaves."""

    async def nothing() -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""

    await call.stream(EVENT_STREAM, nothing())


async def broken(call: Call, token_delay: float) -> None:
    """A stream that breaks after ``?after=`` events (5): the connection closes without the last chunk."""
    after = call.number("after", 5)

    async def dying() -> AsyncGenerator[bytes, None]:
        for number in range(after):
            yield sse({"token": TOKENS[number % len(TOKENS)]})
            await asyncio.sleep(token_delay)
        raise ExchangeAborted("the demo breaks this stream on purpose")

    await call.stream(EVENT_STREAM, dying())


async def download(call: Call) -> None:
    """A body of ``?bytes=`` bytes (1 GB) with a Content-Length; each byte depends only on its position."""
    size = call.number("bytes", GIGABYTE)

    async def blocks() -> AsyncGenerator[bytes, None]:
        for _ in range(size // len(BLOCK)):
            yield BLOCK
        if rest := size % len(BLOCK):
            yield BLOCK[:rest]

    await call.stream(b"application/octet-stream", blocks(), fields=((b"content-length", b"%d" % size),))


async def upload(call: Call) -> None:
    """Counts the bytes of the request body as they arrive, and responds with their number and SHA-256."""
    size, digest = 0, hashlib.sha256()
    async for chunk in call.body():
        size += len(chunk)
        digest.update(chunk)
    await call.answer(200, {"bytes": size, "sha256": digest.hexdigest()})


def _first_id(last: bytes) -> int:
    """Returns the number of a clock's first tick: one more than Last-Event-ID if it is a number, otherwise 1."""
    return int(last) + 1 if last.isdigit() and len(last) <= 15 else 1


def _clock(call: Call, first: int, form: Callable[[int], bytes]) -> AsyncGenerator[bytes, None]:
    """Yields the requested ticks, the first at once. Raises Refused (400) for an invalid query."""
    interval, count = call.seconds("interval", 1.0), call.number("count", 0)

    async def ticks() -> AsyncGenerator[bytes, None]:
        yield form(first)
        for number in range(first + 1, first + count) if count else numbers_from(first + 1):
            await asyncio.sleep(interval)
            yield form(number)

    return ticks()


def _tick(number: int) -> dict[str, object]:
    return {"n": number, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
