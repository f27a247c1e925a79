"""An upstream that says exactly the frames that a test gives it, and our client in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import hpack
import pytest
import uvloop
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from streamproxy.client.http2 import Http2Client
from tests.doubles.connection import guarded
from tests.doubles.leaks import LeakCheck
from tests.doubles.upstream import Conn

logging.getLogger("hpack").setLevel(logging.WARNING)  # it logs every field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OK = [(b":status", b"200")]

MakeClient = Callable[..., Http2Client]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Frames:
    """The upstream's end of one connection, in frames; nothing is answered by itself."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn
        self.decoder = hpack.Decoder()
        self.encoder = hpack.Encoder()
        self.frames: list[Frame] = []  # that came and were not asked for

    async def open(self, **settings: int) -> Frames:
        """Take the preface, and send SETTINGS."""
        assert await self.conn.read_exactly(len(PREFACE)) == PREFACE
        values = {getattr(SettingsFrame, name): value for name, value in settings.items()}
        await self.send(SettingsFrame(0, settings=values))
        return self

    async def send(self, *frames: Frame) -> None:
        await self.conn.send(b"".join(frame.serialize() for frame in frames))

    async def frame(self) -> Any:
        """The next frame."""
        head = await self.conn.read_exactly(9)
        frame, length = Frame.parse_frame_header(memoryview(head))
        frame.parse_body(memoryview(await self.conn.read_exactly(length)))
        return frame

    async def next(self, kind: type[Frame], stream: int | None = None) -> Any:
        """The next frame of this kind (on this stream); those before it are kept in ``frames``."""
        async with guarded(f"a {kind.__name__}"):
            while True:
                frame = await self.frame()
                if isinstance(frame, kind) and stream in (None, frame.stream_id):
                    return frame
                self.frames.append(frame)

    async def request(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """The stream and the fields of the next request."""
        frame = await self.next(HeadersFrame)
        return frame.stream_id, list(self.decoder.decode(frame.data, raw=True))

    def head(self, stream: int, fields: list[tuple[bytes, bytes]], *, end: bool = False) -> HeadersFrame:
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream, self.encoder.encode(fields), flags=flags)

    async def answer(self, stream: int, body: bytes = b"", fields: list[tuple[bytes, bytes]] | None = None) -> None:
        """A whole response."""
        await self.send(self.head(stream, fields or OK), DataFrame(stream, body, flags=["END_STREAM"]))


def speaking(script: Callable[[Frames], Awaitable[None]], **settings: int) -> Callable[[Conn], Awaitable[None]]:
    """A script in frames, for an `Upstream`; the connection stays open until its peer leaves."""

    async def run(conn: Conn) -> None:
        frames = await Frames(conn).open(**settings)
        await script(frames)
        while True:
            await frames.frame()

    return run


@pytest.fixture
async def http2(leaks: LeakCheck) -> AsyncIterator[MakeClient]:
    """`client = http2(upstream.url)`; when the test is over nothing of it may be left."""
    clients: list[Http2Client] = []

    def make(url: str, **options: Any) -> Http2Client:
        client = Http2Client(url, **options)
        leaks.gauge("places", lambda: client.active)
        leaks.gauge("idle connections", lambda: client.idle)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


__all__ = ["OK", "DataFrame", "Frames", "MakeClient", "RstStreamFrame", "WindowUpdateFrame", "speaking"]
