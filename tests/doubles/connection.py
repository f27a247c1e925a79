"""One end of a connection with nothing hidden: exact bytes out, exact bytes in, and how the other end left.

`Connection` is an asyncio protocol that always reads, unless it was told to stop, so that it sees the peer's close or
reset the moment the kernel does. What came in waits in ``buffer`` for the ``read_*`` methods; how the peer ended is
stored once, in ``ended``, with the monotonic time at which it was seen::

    open ──the peer's end of bytes──▶ ended "eof" ──our close──▶ lost     (able to send until then)
      ├────a reset──────────────────▶ ended "reset", lost
      └────our close────────────────▶ ended "local", lost

Nothing here can hang a test: every wait is guarded by `GUARD` seconds, after which it fails. The guard is a safety net
and never what a test waits for.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, cast

GUARD = 60.0  # seconds

Headers = list[tuple[bytes, bytes]]


class PeerEnded(EOFError):
    """The peer closed or reset before what was asked for had come; ``partial`` is what did come."""

    def __init__(self, ended: Ended, partial: bytes) -> None:
        super().__init__(f"the peer ended ({ended.how}) after {partial[-200:]!r}")
        self.ended = ended
        self.partial = partial


@dataclass(frozen=True)
class Ended:
    """How the other side ended: an orderly end of its bytes, a reset, or our own close; when, in monotonic seconds."""

    how: Literal["eof", "reset", "local"]
    at: float


@dataclass(frozen=True)
class Head:
    """The head of a message as it came: ``start`` is its first line, ``raw`` all of it with the blank line."""

    start: bytes
    headers: Headers
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        lines = raw.split(b"\r\n")
        pairs = (line.partition(b":") for line in lines[1:] if line)
        return cls(lines[0], [(name, value.strip()) for name, _, value in pairs], raw)

    def all(self, name: str) -> list[bytes]:
        """The values of every field of this name, in order; the name's case is ignored."""
        key = name.lower().encode()
        return [value for field, value in self.headers if field.lower() == key]

    def get(self, name: str) -> bytes | None:
        """The one value of a field, or None; two fields of one name are an error of the test."""
        values = self.all(name)
        if len(values) > 1:
            raise AssertionError(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None

    @property
    def names(self) -> list[bytes]:
        """The field names as they were written, in order."""
        return [name for name, _ in self.headers]

    @property
    def chunked(self) -> bool:
        return b"chunked" in b",".join(self.all("transfer-encoding")).lower()

    @property
    def content_length(self) -> int | None:
        value = self.get("content-length")
        return None if value is None else int(value)

    # Of a request.
    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    # Of a response.
    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def version(self) -> bytes:
        found = re.search(rb"HTTP/\d\.\d", self.start)
        return found.group() if found else b""


@asynccontextmanager
async def guarded(what: str) -> AsyncIterator[None]:
    """Fail, naming ``what`` was waited for, when it takes longer than `GUARD` seconds."""
    try:
        async with asyncio.timeout(GUARD):
            yield
    except TimeoutError:
        raise AssertionError(f"gave up after {GUARD:g} s waiting for {what}") from None


class Connection(asyncio.Protocol):
    """One end of a connection; `RawClient` and an upstream's `Conn` are made of it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.buffer = bytearray()
        self.sent = 0  # bytes given to `send`
        self.received = 0  # bytes the peer sent so far, read by the test or not
        self.ended: Ended | None = None
        self._changed = asyncio.Event()  # set whenever bytes came, or the peer ended
        self._ended = asyncio.Event()
        self._lost = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # by its interface: uvloop's is no subclass
        # `send` returns when the kernel has taken everything. TLS pauses at its limit: 0 would be for ever.
        self.transport.set_write_buffer_limits(high=1 if self.tls else 0, low=0)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.received += len(data)
        self._changed.set()

    def eof_received(self) -> bool:
        self._end("eof")
        return not self.tls  # over TLS a transport can't stay open for the other direction

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("local" if exc is None else "reset")
        self._lost.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def _end(self, how: Literal["eof", "reset", "local"]) -> None:
        if self.ended is None:  # the first word stands: writing to a peer that closed brings a reset later
            self.ended = Ended(how, time.monotonic())
        self._ended.set()
        self._changed.set()

    # What the connection is.

    @property
    def socket(self) -> socket.socket:
        found: socket.socket = self.transport.get_extra_info("socket")
        return found

    @property
    def tls(self) -> bool:
        return self.transport.get_extra_info("ssl_object") is not None

    @property
    def taken(self) -> int:
        """Of the bytes sent, those that the kernel has taken."""
        return self.sent - self.transport.get_write_buffer_size()

    # Sending.

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket without waiting for the peer to take them."""
        self.sent += len(data)
        self.transport.write(data)

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes; returns when the kernel has taken them. Raises `PeerEnded` when it can't."""
        if self.transport.is_closing():
            raise PeerEnded(self.ended or Ended("local", time.monotonic()), b"")
        self.write(data)
        async with guarded("the peer to take what was sent"):
            await self._may_write.wait()
        if self._lost.is_set():
            raise PeerEnded(self.ended or Ended("local", time.monotonic()), b"")

    async def send_chunk(self, data: bytes) -> None:
        """Send one HTTP chunk in one write; empty data is the last chunk."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    # Reading.

    def stop_reading(self) -> None:
        """Take nothing more from the kernel. The peer's end is not seen either until `go_on_reading`."""
        self.transport.pause_reading()

    def go_on_reading(self) -> None:
        self.transport.resume_reading()

    async def _more(self, what: str) -> None:
        """Wait until something changed; raise when nothing can come any more."""
        if self.ended is not None:
            raise PeerEnded(self.ended, bytes(self.buffer))
        self._changed.clear()
        async with guarded(f"{what}; so far {bytes(self.buffer[-200:])!r}"):
            await self._changed.wait()

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def read_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self._more(f"{size} bytes")
        return self._take(size)

    async def read_until(self, marker: bytes) -> bytes:
        """Everything up to and with ``marker``."""
        while (at := self.buffer.find(marker)) < 0:
            await self._more(f"{marker!r}")
        return self._take(at + len(marker))

    async def read_some(self) -> bytes:
        """Whatever is there, at least one byte."""
        while not self.buffer:
            await self._more("any byte")
        return self._take(len(self.buffer))

    async def read_all(self) -> tuple[bytes, Ended]:
        """Everything until the peer ends, and how it ended."""
        ended = await self.wait_ended()
        return self._take(len(self.buffer)), ended

    async def read_raw_head(self) -> Head:
        """A message's head, parsed no more than `Head` says."""
        return Head.parse(await self.read_until(b"\r\n\r\n"))

    async def read_chunk(self) -> bytes:
        """The data of one HTTP chunk; empty for the last one, whose trailers are skipped.

        Nothing is taken from ``buffer`` before the chunk is whole.
        """
        while (line_end := self.buffer.find(b"\r\n")) < 0:
            await self._more("a chunk")
        size = int(bytes(self.buffer[:line_end]).split(b";")[0], 16)
        if size == 0:
            while await self.read_until(b"\r\n") != b"\r\n":
                pass
            return b""
        while len(self.buffer) < line_end + 2 + size + 2:
            await self._more(f"a chunk of {size} bytes")
        data = self._take(line_end + 2 + size + 2)[line_end + 2 :]
        if not data.endswith(b"\r\n"):
            raise AssertionError(f"a chunk does not end in CRLF: {data[-20:]!r}")
        return data[:-2]

    async def read_chunked(self) -> bytes:
        """A chunked body to its last chunk."""
        body = bytearray()
        while data := await self.read_chunk():
            body += data
        return bytes(body)

    async def read_body(self, head: Head) -> bytes:
        """The body that a request's head announces: chunked, of a length, or none."""
        if head.chunked:
            return await self.read_chunked()
        return await self.read_exactly(head.content_length or 0)

    # Ending.

    async def wait_ended(self) -> Ended:
        """Wait until the peer closed or reset; needs reading to be on. Says which, and when it was seen."""
        async with guarded("the peer to end"):
            await self._ended.wait()
        assert self.ended is not None
        return self.ended

    def close(self) -> None:
        """Close in good order, once what was written is out."""
        self.transport.close()

    def reset(self) -> None:
        """Close with a TCP reset, dropping what was not sent. On a unix socket: close at once."""
        if not self.transport.is_closing() and self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def half_close(self) -> None:
        """End our bytes and go on reading (not over TLS)."""
        self.transport.write_eof()

    async def wait_lost(self) -> None:
        """Wait until our own socket is closed."""
        async with guarded("our socket to close"):
            await self._lost.wait()

    async def aclose(self) -> None:
        """Close now, whatever the state, and wait until the socket is gone."""
        self.transport.abort()
        await self.wait_lost()
