"""`RawClient`'s interface over HTTP/2, so that the behaviour suite runs over both.

A URL of the scheme ``h2c`` makes one. Requests go out on streams one after the other. What a test sends as HTTP/1.1 is
said in HTTP/2's words: a head becomes HEADERS, its chunks DATA. What HTTP/2 has no word for skips the test: HTTP/1.0,
exact bytes of a framing, fields of a connection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import pytest

from tests.doubles.client import Answer
from tests.doubles.connection import Ended, Head, PeerEnded
from tests.doubles.http2 import FrameClient, Received, connect_h2

_OF_THE_CONNECTION = ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade")


class Http2Client:
    """One connection; at any time the last request is the one that is read."""

    def __init__(self, frames: FrameClient) -> None:
        self.frames = frames
        self.interim: list[Head] = []
        self.decoded = bytearray()
        self.stream = 0
        self.sent = 0
        self._taken = 0  # bytes of the body that were read
        self._upload: int | None = None  # bytes that Content-Length still announces; None: until the last chunk
        self._uploading = False

    @property
    def answer(self) -> Received:
        return self.frames.streams[self.stream]

    @property
    def ended(self) -> Ended | None:
        if self.answer.reset:
            return Ended("reset", time.monotonic())
        return self.frames.connection.ended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # Out.

    async def request(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        """Send an ordinary request."""
        authority = next((value for name, value in headers if name.lower() == "host"), "proxy.test")
        said = {name.lower(): value for name, value in headers}
        if "connection" in said or "upgrade" in said:
            pytest.skip("HTTP/2 has no fields of a connection")
        fields = [
            (name.lower(), value)
            for name, value in headers
            if name.lower() not in _OF_THE_CONNECTION and name.lower() != "host"
        ]
        if body is not None:
            fields.append(("content-length", str(len(body))))
        length = said.get("content-length")
        self._uploading = body is None and ("transfer-encoding" in said or length not in (None, "0"))
        self._upload = int(length) if length is not None else None
        self._taken = 0
        head = self.frames.head(
            self.frames.fields(method, target, fields, authority), end=not self._uploading and not body
        )
        self.stream = head[0].stream_id
        self.frames.send(*head)
        if body:
            await self._data(body, end=True)

    async def send(self, data: bytes) -> None:
        """Send what would be these bytes over HTTP/1.1: some of a body, or a request."""
        if self._uploading:
            if self._upload is None:
                pytest.skip("HTTP/2 has no chunks")
            self._upload -= len(data)
            self._uploading = self._upload > 0
            await self._data(data, end=not self._uploading)
            return
        head, _, rest = data.partition(b"\r\n\r\n")
        start, *lines = head.decode("latin-1").split("\r\n")
        parts = start.split(" ")
        pairs = [line.partition(":") for line in lines]
        if len(parts) != 3 or parts[2] != "HTTP/1.1" or any(not colon for _, colon, _ in pairs):
            pytest.skip("HTTP/2 can't say this")
        headers = [(name, value.strip()) for name, _, value in pairs]
        chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
        if rest and chunked:
            pytest.skip("HTTP/2 has no chunks")
        await self.request(parts[1], method=parts[0], headers=headers)
        if rest:
            await self.send(rest)

    async def send_chunk(self, data: bytes) -> None:
        """Send some of a body whose length is not known; empty data is its end."""
        self._uploading = bool(data)
        await self._data(data, end=not data)

    def write(self, data: bytes) -> None:
        pytest.skip("HTTP/2 has other bytes")

    async def _data(self, data: bytes, *, end: bool) -> None:
        """DATA frames, as the windows allow."""
        given = self.frames.windows
        spent = self.frames.spent
        while True:
            stream = self.stream
            free = 65_535 + min(given[stream] - spent[stream], given[0] - spent[0])
            piece, rest = data[: min(free, 16_384)], data[min(free, 16_384) :]
            if piece or not data:
                spent[stream] += len(piece)
                spent[0] += len(piece)
                self.sent += len(piece)
                self.frames.data(stream, piece, end=end and not rest)
            if not rest:
                return
            data = rest
            if free <= 16_384:
                before = (given[stream], given[0])
                await self.frames.wait(
                    lambda before=before, stream=stream: (  # type: ignore[misc]
                        (given[stream], given[0]) != before or self.frames.streams[stream].closed
                    ),
                    "a window",
                )
                if self.answer.closed:
                    raise PeerEnded(Ended("reset", time.monotonic()), b"")

    # In.

    async def get(self, target: str = "/", *, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """A GET and its whole response."""
        await self.request(target, headers=headers)
        return await self.read_response()

    async def read_head(self, method: str = "GET") -> Head:
        """The head of the final response; 1xx heads go to ``interim``."""
        answer = await self.frames.started(self.stream)
        if not answer.started:
            raise PeerEnded(Ended("reset", time.monotonic()), b"")
        self.interim = [_head(fields) for fields in answer.interim]
        self.decoded.clear()
        return _head(answer.head)

    async def read_raw_head(self) -> Head:
        """The next head, a 1xx too."""
        answer, seen = self.answer, len(self.interim)
        await self.frames.wait(lambda: len(answer.heads) > seen or answer.closed, "a head")
        if len(answer.heads) <= seen:
            raise PeerEnded(Ended("reset", time.monotonic()), b"")
        head = _head(answer.heads[seen])
        if head.status < 200:
            self.interim.append(head)
        return head

    async def read_piece(self) -> bytes:
        """The next bytes of the body; empty at its end. Raises `PeerEnded` when the stream ended before."""
        answer = self.answer
        await self.frames.wait(lambda: len(answer.body) > self._taken or answer.closed, "the body")
        piece = bytes(answer.body[self._taken :])
        self._taken += len(piece)
        if not piece and not answer.ended:
            raise PeerEnded(Ended("reset", time.monotonic()), b"")
        return piece

    async def read_body_until(self, marker: bytes) -> bytes:
        """Body bytes up to and with ``marker``."""
        while (at := self.decoded.find(marker)) < 0:
            piece = await self.read_piece()
            if not piece:
                raise AssertionError(f"the body ended before {marker!r}: {bytes(self.decoded[-200:])!r}")
            self.decoded += piece
        found = bytes(self.decoded[: at + len(marker)])
        del self.decoded[: at + len(marker)]
        return found

    async def read_rest(self) -> Answer:
        """The rest of the body of the response whose head was read, whole or not."""
        ended: Ended | None = None
        try:
            while piece := await self.read_piece():
                self.decoded += piece
        except PeerEnded as error:
            ended = error.ended
        body = bytes(self.decoded)
        self.decoded.clear()
        return Answer(_head(self.answer.head), body, self.answer.ended, ended, self.interim)

    async def read_response(self, method: str = "GET") -> Answer:
        """A whole response, or what there is of it."""
        await self.read_head(method)
        return await self.read_rest()

    def stop_reading(self) -> None:
        """Open the windows no further."""
        self.frames.generous = False

    def go_on_reading(self) -> None:
        """Open them as far as was read, and go on."""
        size = len(self.answer.body)
        self.frames.generous = True
        self.frames.grant(0, size)
        self.frames.grant(self.stream, size)

    # Ends.

    async def wait_ended(self) -> Ended:
        """Wait until the stream was reset, or the connection ended."""
        answer = self.answer
        try:
            await self.frames.wait(lambda: answer.reset is not None, "the end")
        except PeerEnded as error:
            return error.ended
        return Ended("reset", time.monotonic())

    def close(self) -> None:
        """Leave: the connection."""
        self.frames.connection.close()

    def reset(self) -> None:
        """Leave: the stream."""
        self.frames.reset(self.stream)

    def half_close(self) -> None:
        pytest.skip("HTTP/2 has no half-closed connection")

    async def aclose(self) -> None:
        await self.frames.aclose()


def _head(fields: list[tuple[bytes, bytes]]) -> Head:
    return Head(b"HTTP/2 " + fields[0][1] + b" ", fields[1:], b"")


async def connect_http2(url: str, receive_buffer: int | None) -> Http2Client:
    return Http2Client(await connect_h2(url, receive_buffer=receive_buffer))
