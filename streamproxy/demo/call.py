"""One request to the demo's upstream and its response: the parts of HTTP that its handlers need, over plain ASGI.

A handler takes a `Call`, reads its query and its body, and responds once: with `Call.answer` (a whole body) or
`Call.stream` (a body that is sent as it is generated). While a stream runs, one task reads ``receive()``. If the client
leaves, the stream's generator is cancelled and closed, whatever it waits for.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from streamproxy.exchange.extension import CONNECTION, DownstreamConnection

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
MAX_DOCUMENT = 1 << 20  # the maximum bytes of a request body that is read as one document
MAX_SECONDS = 3600.0

Fields = tuple[tuple[bytes, bytes], ...]


class Refused(Exception):
    """The request cannot be served; ``status`` and the text are sent to the client."""

    def __init__(self, status: int, message: str, *, param: str | None = None, fields: Fields = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param  # the wrong field of the request, if the API reports it
        self.fields = fields  # further header fields of the response


class ClientLeft(Exception):
    """The client left before its request was complete, so there is no response."""


def compact(document: object) -> bytes:
    """Returns JSON without spaces, as the APIs send it."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def sse(document: object, *, event: str = "") -> bytes:
    """Returns a server-sent event with a JSON document as its data, and an event name if the API has one."""
    name = b"event: %b\n" % event.encode() if event else b""
    return name + b"data: " + compact(document) + b"\n\n"


class Call:
    """One request, with methods to respond once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._fields: Fields = tuple(scope["headers"])
        self._query: dict[str, str] = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        self._receive = receive
        self._send = send
        extensions = scope.get("extensions") or {}
        self.connection: DownstreamConnection | None = extensions.get(CONNECTION)  # on a server of our own

    def header(self, name: bytes) -> bytes:
        """Returns the first value of a field (lower-case name), or an empty value."""
        return next((value for key, value in self._fields if key == name), b"")

    def text(self, name: str) -> str:
        """Returns a query parameter, or an empty text."""
        return self._query.get(name, "")

    def seconds(self, name: str, default: float) -> float:
        """Returns a query parameter in seconds, from 0 to an hour. Raises Refused (400) for anything else."""
        text = self._query.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= MAX_SECONDS:
            raise Refused(400, f"{name} is a number of seconds from 0 to {MAX_SECONDS:.0f}", param=name)
        return value

    def number(self, name: str, default: int) -> int:
        """Returns a query parameter that is a number of at most 15 digits. Raises Refused (400) for anything else."""
        text = self._query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise Refused(400, f"{name} is a whole number of at most 15 digits", param=name)
        return int(text)

    async def body(self) -> AsyncIterator[bytes]:
        """Yields the request body as it arrives. Raises ClientLeft if the client leaves before its end."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk

    async def document(self) -> bytes:
        """Returns the whole request body. Raises Refused (413) above MAX_DOCUMENT bytes, and ClientLeft."""
        parts = bytearray()
        async for chunk in self.body():
            parts += chunk
            if len(parts) > MAX_DOCUMENT:
                raise Refused(413, f"The request body is over {MAX_DOCUMENT} bytes")
        return bytes(parts)

    async def answer(self, status: int, document: object, *, fields: Fields = ()) -> None:
        """Responds with a JSON document."""
        body = compact(document)
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, ((b"content-type", JSON), length, *fields))
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def answer_text(self, text: str) -> None:
        """Responds with 200 and plain text."""
        body = text.encode()
        length = (b"content-length", b"%d" % len(body))
        await self._start(200, ((b"content-type", b"text/plain; charset=utf-8"), length))
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, content_type: bytes, chunks: AsyncGenerator[bytes, None], *, fields: Fields = ()) -> None:
        """Responds with 200 and a body that is sent chunk by chunk as ``chunks`` generates it.

        The head is sent at once. Returns when the generator ends or the client leaves. The generator is always closed,
        and its exceptions are raised here.
        """
        await self._start(200, ((b"content-type", content_type), *fields))
        if self.method == "HEAD":
            await self._send({"type": "http.response.body", "body": b""})
            return
        pump = asyncio.ensure_future(self._pump(chunks))
        leaving = asyncio.ensure_future(self._client_left())
        try:
            await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pump.cancel()
            leaving.cancel()
            await asyncio.gather(pump, leaving, return_exceptions=True)
            await chunks.aclose()
        if not pump.cancelled():
            pump.result()

    async def _start(self, status: int, fields: Fields) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": list(fields)})

    async def _pump(self, chunks: AsyncGenerator[bytes, None]) -> None:
        # Some servers hold the head back until a body message comes; an empty one is enough and writes nothing.
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        async for chunk in chunks:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _client_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
