"""A raw HTTP client: exact bytes out, and everything that came back, with a word on whether it was whole.

It neither follows the rules of HTTP for a test nor hides what a real client would forgive::

    client = await connect(url)
    await client.send(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    answer = await client.read_response()
    assert answer.status == 200 and answer.complete
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

from tests.doubles.connection import Connection, Ended, Head, Headers, PeerEnded, guarded

BODYLESS = frozenset({204, 304})


@dataclass(frozen=True)
class Answer:
    """A response as the client saw it.

    ``complete`` says that the body reached the end that its framing gives it; a body that only the close ends is
    complete when the close was in good order. ``interim`` are the heads of 1xx responses before it.
    """

    head: Head
    body: bytes
    complete: bool
    ended: Ended | None = None
    interim: list[Head] = field(default_factory=list)

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def headers(self) -> Headers:
        return self.head.headers

    def get(self, name: str) -> bytes | None:
        return self.head.get(name)


class RawClient(Connection):
    """The client's end of one connection. ``decoded`` holds body bytes whose framing was taken off, not yet read."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded = bytearray()
        self.body_done = False
        self.interim: list[Head] = []
        self._head: Head | None = None
        self._remaining = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def request(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        """Send an ordinary request: Host unless it is among them, these headers, and the body with its length."""
        if not any(name.lower() == "host" for name, _ in headers):
            headers = [("Host", "proxy.test"), *headers]
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*lines, "\r\n"]).encode("latin-1") + (body or b""))

    async def get(self, target: str = "/", *, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """A GET and its whole response."""
        await self.request(target, headers=headers)
        return await self.read_response()

    async def read_head(self, method: str = "GET") -> Head:
        """The head of the final response to a request of this method; 1xx heads go to ``interim``."""
        self.interim = []
        while (head := await self.read_raw_head()).status < 200 and head.status != 101:
            self.interim.append(head)
        self._head = head
        self.decoded.clear()
        self._remaining = head.content_length or 0
        bodyless = method == "HEAD" or head.status in BODYLESS or head.status == 101
        self.body_done = bodyless or (not head.chunked and head.content_length == 0)
        return head

    async def read_piece(self) -> bytes:
        """The next bytes of the body with its framing off: one chunk, or what is there. Empty at the body's end.

        Raises `PeerEnded` when the connection ended before the body did.
        """
        assert self._head is not None, "read_head first"
        if self.body_done:
            return b""
        if self._head.chunked:
            piece = await self.read_chunk()
            self.body_done = not piece
        elif self._head.content_length is not None:
            piece = await self._read_at_most(self._remaining)
            self._remaining -= len(piece)
            self.body_done = self._remaining == 0
        else:
            piece = await self._read_to_close()
        return piece

    async def _read_at_most(self, size: int) -> bytes:
        while not self.buffer:
            await self._more("the rest of the body")
        return self._take(min(size, len(self.buffer)))

    async def _read_to_close(self) -> bytes:
        try:
            return await self.read_some()
        except PeerEnded as error:
            if error.ended.how != "eof":
                raise
            self.body_done = True
            return b""

    async def read_body_until(self, marker: bytes) -> bytes:
        """Body bytes, framing off, up to and with ``marker``: `read_body_until(b"\\n\\n")` is the next SSE event."""
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
        assert self._head is not None, "read_head first"
        ended: Ended | None = None
        try:
            while piece := await self.read_piece():
                self.decoded += piece
        except PeerEnded as error:
            ended = error.ended
            self._salvage()
        body = bytes(self.decoded)
        self.decoded.clear()
        return Answer(self._head, body, self.body_done, ended or self.ended, self.interim)

    def _salvage(self) -> None:
        """Of a chunk that was cut off, keep what came."""
        assert self._head is not None
        if self._head.chunked:
            size, line_end, data = bytes(self.buffer).partition(b"\r\n")
            self.decoded += data[: int(size.split(b";")[0] or b"0", 16)] if line_end else b""
        self.buffer.clear()

    async def read_response(self, method: str = "GET") -> Answer:
        """A whole response, or what there is of it; raises `PeerEnded` when there was not even a head."""
        await self.read_head(method)
        return await self.read_rest()


async def connect(url: str, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None) -> RawClient:
    """Connect to the host and port of ``url``; ``unix:/path.sock`` is a unix socket.

    ``receive_buffer`` (bytes) is set before connecting, so that it bounds the window: the kernel doubles it, and a
    client that then stops reading is full after a few kilobytes. ``tls`` is needed for ``https``. The scheme ``h2c`` is
    HTTP/2 in clear text, by a client with the same methods.
    """
    if url.startswith("h2c:"):
        from tests.doubles.http2_client import connect_http2

        return cast(RawClient, await connect_http2("http:" + url.removeprefix("h2c:"), receive_buffer))
    family, address, host = _address(url)
    raw = socket.socket(family)
    raw.setblocking(False)
    if family != socket.AF_UNIX:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so for its own sockets only
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    try:
        async with guarded(f"a connection to {url}"):
            await loop.sock_connect(raw, address)
            _, client = await loop.create_connection(
                RawClient, sock=raw, ssl=tls, server_hostname=host if tls else None
            )
    except BaseException:
        raw.close()
        raise
    return client


def _address(url: str) -> tuple[int, str | tuple[str, int], str]:
    if url.startswith("unix:"):
        return socket.AF_UNIX, url.removeprefix("unix:"), "localhost"
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port), host


async def accepts(url: str) -> bool:
    """Whether a connection to ``url`` is accepted; it is closed at once. A reset meanwhile counts as accepted."""
    try:
        async with await connect(url):
            return True
    except ConnectionResetError:  # the listener closed while this one was connecting
        return True
    except OSError:
        return False


async def fetch(url: str, *, method: str = "GET", headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """One request to ``url`` over a connection of its own; its Host is the URL's, unless it is among the headers."""
    parts = urlsplit(url)
    if not any(name.lower() == "host" for name, _ in headers):
        headers = [("Host", parts.netloc or "localhost"), *headers]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    async with await connect(url) as client:
        await client.request(target, method=method, headers=headers)
        return await client.read_response(method)
