"""A raw HTTP/2 client: exact frames out, every frame that came back.

`FrameClient` knows nothing of HTTP/2 but frames and header compression (hyperframe, hpack), and breaks any rule a test
wants broken. It answers nothing by itself, but for the windows of what it has read while ``generous``. What came is in
``streams``, in order; `wait` waits for more::

    client = await connect_h2(url)
    stream = await client.request("GET", "/")
    answer = await client.response(stream)
    assert answer.status == 200 and answer.complete
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.doubles.client import RawClient, connect
from tests.doubles.connection import Connection, Headers, PeerEnded, guarded

logging.getLogger("hpack").setLevel(logging.WARNING)  # it logs every field, and tests read what is logged

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Received:
    """What came on one stream. ``at`` is when each piece of the body came, in monotonic seconds."""

    heads: list[Headers] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    at: list[float] = field(default_factory=list)
    trailers: Headers | None = None
    ended: bool = False  # END_STREAM came
    reset: int | None = None  # the code of RST_STREAM
    order: list[str] = field(default_factory=list)  # the frames, in order

    @property
    def closed(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def head(self) -> Headers:
        return next(head for head in self.heads if not head[0][1].startswith(b"1"))

    @property
    def interim(self) -> list[Headers]:
        return [head for head in self.heads if head[0][1].startswith(b"1")]

    @property
    def started(self) -> bool:
        return any(not head[0][1].startswith(b"1") for head in self.heads)

    @property
    def status(self) -> int:
        return int(self.head[0][1])

    @property
    def complete(self) -> bool:
        return self.ended

    def get(self, name: str) -> bytes | None:
        values = [value for key, value in self.head if key == name.encode()]
        assert len(values) < 2, (name, values)
        return values[0] if values else None


class FrameClient:
    """One connection. ``window`` is what streams get in SETTINGS; None announces nothing."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 24
        self.streams: dict[int, Received] = defaultdict(Received)
        self.frames: list[Any] = []
        self.goaways: list[GoAwayFrame] = []
        self.pings: list[PingFrame] = []
        self.settings: dict[int, int] | None = None
        self.windows: dict[int, int] = defaultdict(int)  # what WINDOW_UPDATE frames have given us
        self.spent: dict[int, int] = defaultdict(int)  # what was sent of them
        self.generous = True
        self.next_stream = 1
        self._block = bytearray()
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.over = False  # the server has ended its side

    # Out.

    async def open(self, *, window: int | None = None, acknowledge: bool = True) -> Self:
        settings = SettingsFrame(0)
        if window is not None:
            settings.settings = {SettingsFrame.INITIAL_WINDOW_SIZE: window}
        self.connection.write(PREFACE + settings.serialize())
        self._reader = asyncio.get_running_loop().create_task(self._read())
        if acknowledge:
            await self.wait(lambda: self.settings is not None, "the server's SETTINGS")
            self.send(SettingsFrame(0, flags=["ACK"]))
        return self

    def send(self, *frames: Frame) -> None:
        """Write these frames in one write."""
        self.connection.write(b"".join(frame.serialize() for frame in frames))

    def raw(self, data: bytes) -> None:
        self.connection.write(data)

    def fields(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        authority: str | None = "proxy.test",
    ) -> Headers:
        """The fields of a request."""
        pseudo = [(":method", method), (":scheme", "http"), (":path", target)]
        if authority is not None:
            pseudo.insert(2, (":authority", authority))
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in [*pseudo, *headers]]

    def head(self, fields: Headers, *, end: bool = True, stream: int | None = None, piece: int = 16_384) -> list[Frame]:
        """The frames of a head, on the next stream unless one is named."""
        if stream is None:
            stream = self.next_stream
            self.next_stream += 2
        block = self.encoder.encode(fields)
        first, rest = block[:piece], block[piece:]
        frames: list[Frame] = [HeadersFrame(stream, first)]
        if end:
            frames[0].flags.add("END_STREAM")
        while rest:
            frames.append(ContinuationFrame(stream, rest[:piece]))
            rest = rest[piece:]
        frames[-1].flags.add("END_HEADERS")
        return frames

    async def request(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Sequence[tuple[str, str]] = (),
        *,
        body: bytes | None = None,
        end: bool = True,
    ) -> int:
        """Send a request; with ``end`` off its body is to follow. Returns the stream."""
        frames = self.head(self.fields(method, target, headers), end=end and body is None)
        stream: int = frames[0].stream_id
        for at in range(0, len(body or b""), 16_384):
            frames.append(DataFrame(stream, (body or b"")[at : at + 16_384]))
        if body is not None and end:
            if not body:
                frames.append(DataFrame(stream, b""))
            frames[-1].flags.add("END_STREAM")
        self.send(*frames)
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.send(DataFrame(stream, data, flags=["END_STREAM"] if end else []))

    def reset(self, stream: int, code: int = 8) -> None:
        self.send(RstStreamFrame(stream, error_code=code))

    def grant(self, stream: int, size: int) -> None:
        self.send(WindowUpdateFrame(stream, window_increment=size))

    # In.

    async def wait(self, condition: Callable[[], bool], what: str = "a frame") -> None:
        """Wait until something holds, as frames come. Raises PeerEnded when the server ends before."""
        async with guarded(f"{what}; so far {[type(one).__name__ for one in self.frames[-20:]]}"):
            while not condition():
                if self.over:
                    assert self.connection.ended is not None
                    raise PeerEnded(self.connection.ended, b"")
                self._changed.clear()
                await self._changed.wait()

    async def response(self, stream: int) -> Received:
        """What a stream brings, to its end, its reset, or the connection's end."""
        found = self.streams[stream]
        with contextlib.suppress(PeerEnded):
            await self.wait(lambda: found.closed, f"the end of stream {stream}")
        return found

    async def started(self, stream: int) -> Received:
        """A stream whose head has come."""
        found = self.streams[stream]
        await self.wait(lambda: found.started or found.closed, f"the head of stream {stream}")
        return found

    async def pong(self) -> None:
        """Wait until the server has done with everything that was sent: it answers a PING."""
        count = len(self.pings)
        self.send(PingFrame(0, b"12345678"))
        await self.wait(lambda: len(self.pings) > count, "the answer of a PING")

    async def goaway(self) -> GoAwayFrame:
        """The server's first GOAWAY."""
        await self.wait(lambda: bool(self.goaways), "GOAWAY")
        return self.goaways[0]

    async def end(self) -> int:
        """Wait until the server has ended the connection; returns the code of its last GOAWAY."""
        async with guarded("the server to end the connection"):
            while not self.over:
                self._changed.clear()
                await self._changed.wait()
        return self.goaways[-1].error_code

    async def aclose(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self.connection.aclose()

    async def _read(self) -> None:
        try:
            while True:
                await self._read_frame()
        except PeerEnded:
            pass
        finally:
            self.over = True
            self._changed.set()

    async def _read_frame(self) -> None:
        # Nothing here may wait but for the peer: a guard is for tests that wait, and not for a reader.
        while len(self.connection.buffer) < 9 or len(self.connection.buffer) < 9 + int.from_bytes(
            self.connection.buffer[:3], "big"
        ):
            if self.connection.ended is not None:
                raise PeerEnded(self.connection.ended, b"")
            self.connection._changed.clear()
            await self.connection._changed.wait()
        header = self.connection._take(9)
        frame, size = Frame.parse_frame_header(memoryview(header))
        frame.parse_body(memoryview(self.connection._take(size)))
        self.frames.append(frame)
        self._take(frame)
        self._changed.set()

    def _take(self, frame: Any) -> None:
        stream = self.streams[frame.stream_id] if frame.stream_id else None
        if stream is not None:
            stream.order.append(type(frame).__name__.removesuffix("Frame"))
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            assert stream is not None
            self._block += frame.data
            if "END_HEADERS" in frame.flags:
                fields = [(bytes(n), bytes(v)) for n, v in self.decoder.decode(bytes(self._block), raw=True)]
                self._block.clear()
                if stream.started and not fields[0][0].startswith(b":"):
                    stream.trailers = fields
                else:
                    stream.heads.append(fields)
        elif isinstance(frame, DataFrame):
            assert stream is not None
            stream.body += frame.data
            stream.at.append(time.monotonic())
            size = frame.flow_controlled_length
            if self.generous and size:
                self.grant(0, size)
                if "END_STREAM" not in frame.flags and stream.reset is None:
                    self.grant(frame.stream_id, size)
        elif isinstance(frame, RstStreamFrame):
            assert stream is not None
            stream.reset = frame.error_code
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.settings = dict(frame.settings)
        elif isinstance(frame, PingFrame) and "ACK" in frame.flags:
            self.pings.append(frame)
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append(frame)
        elif isinstance(frame, WindowUpdateFrame):
            self.windows[frame.stream_id] += frame.window_increment
        if stream is not None and "END_STREAM" in frame.flags:
            stream.ended = True


async def connect_h2(
    url: str,
    *,
    window: int | None = None,
    receive_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
    acknowledge: bool = True,
) -> FrameClient:
    """Connect with prior knowledge, or over ``tls`` (whose context offers h2), and exchange SETTINGS."""
    connection: RawClient = await connect(url, receive_buffer=receive_buffer, tls=tls)
    return await FrameClient(connection).open(window=window, acknowledge=acknowledge)
