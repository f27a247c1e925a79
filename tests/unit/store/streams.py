"""Helpers for streams in any store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamproxy.store.base import KeptStream, Replay, StopReason, StreamHead, StreamStore
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import Cursor
from streamproxy.store.segments import Format

OWNER: Sequence[bytes] = (b"chat", b"Bearer abc")
OTHER: Sequence[bytes] = (b"chat", b"Bearer abd")


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


class Stopped:
    """Takes down why a stream was to stop."""

    def __init__(self) -> None:
        self.reasons: list[StopReason] = []
        self.event = asyncio.Event()

    def __call__(self, reason: StopReason) -> None:
        self.reasons.append(reason)
        self.event.set()


def begin(store: StreamStore, format: Format = "sse", stop: Stopped | None = None) -> KeptStream:
    stream = store.create(StreamHead(OWNER, b"text/event-stream", format), stop or Stopped())
    assert stream is not None
    return stream


def at(stream: KeptStream, events: int) -> Cursor:
    return Cursor(stream.name, events)


async def drain(body: StoredBody) -> bytes:
    """Everything that is there now."""
    out = b""
    while (chunk := body.ready()) is not None:
        out += chunk
    return out


async def read_to_end(body: StoredBody) -> bytes:
    """The whole rest; raises what the body raises, with what came before it as a note."""
    out = b""
    try:
        while True:
            while (chunk := body.ready()) is not None:
                out += chunk
            if body.ended:
                return out
            await asyncio.wait_for(body.change(), 10)
    except Exception as error:
        error.add_note(repr(out))
        raise
    finally:
        body.close()


async def replay(store: StreamStore, cursor: Cursor, ids: bool = False) -> bytes:
    """The whole rest from a cursor."""
    found: Replay = await store.find(cursor, OWNER, ids)
    return await read_to_end(found.body) if found.body is not None else b""
