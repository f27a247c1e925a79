"""The client of the cases: sends the request of the generator in C, and keeps the time of each read."""

from __future__ import annotations

import asyncio
import re
import time
from typing import NamedTuple

from benchmarks.peers.base import Ask

_NUMBER = re.compile(rb"n(\d+) ")


class Response(NamedTuple):
    """What came: the bytes with the times of their reads, in seconds since the request."""

    reads: list[tuple[float, bytes]]
    ended: bool  # the connection was closed

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.reads)

    @property
    def status(self) -> int:
        words = self.data.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that came."""
        return [int(found) for found in _NUMBER.findall(self.body)]

    @property
    def whole(self) -> bool:
        """Whether the framing says that the response is complete."""
        if b"transfer-encoding: chunked" in self.head:
            return self.data.endswith(b"0\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", self.head)
        return len(self.body) >= int(length[1]) if length else self.ended

    def at(self, number: int) -> float | None:
        """When the event of a number had come."""
        data = b""
        for when, read in self.reads:
            data += read
            if b"n%d " % number in data.partition(b"\r\n\r\n")[2]:
                return when
        return None


def request(ask: Ask, fields: tuple[str, ...] = ()) -> bytes:
    """The request that the generator in C would send."""
    method, body, headers = "GET", "", list(fields)
    for argument in ask.arguments:
        name, _, value = argument.partition("=")
        if name == "method":
            method = value
        elif name == "body":
            body = value
        else:
            headers.append(value)
    if body:
        headers.append(f"Content-Length: {len(body)}")
    lines = [f"{method} {ask.path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", body]
    return "\r\n".join(lines).encode()


async def exchange(port: int, data: bytes, seconds: float, until: bytes = b"") -> Response:
    """Send a request, and read until the response is whole, ``until`` was read, or the time is over.

    With ``until`` the client leaves then.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    response = Response([], False)
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            while read := await reader.read(65536):
                response.reads.append((time.monotonic() - began, read))
                if (until and until in response.data) or (response.head and response.whole):
                    return response
            return response._replace(ended=True)
    except (TimeoutError, OSError) as fault:
        return response._replace(ended=isinstance(fault, ConnectionError))
    finally:
        writer.close()
