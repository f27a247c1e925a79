"""Reads an event stream or a stream of JSON lines, and comes back to it when the connection breaks.

A response of a route with ``resume`` carries ``X-Stream-Cursor: STREAM/N``: how many events come before it. A `Stream`
counts the events that it has handed out, and asks with ``Last-Event-ID: STREAM/(N+n)`` for the rest. So each event
comes once, and the request itself, which may be a POST with side effects, is sent once.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

__all__ = ["Event", "Stream", "StreamLost", "open_stream", "resume_stream"]

_CURSOR = re.compile(r"([A-Za-z0-9_-]{22,})/(\d{1,15})")
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the very end may be followed by its LF


class StreamLost(Exception):
    """The stream can't be taken up again. ``cursor`` is the place where it broke off.

    ``status`` is 410 where what comes next is not kept any more, 404 where there is no such stream of this client's,
    200 where the answer was another stream (the route keeps none now), and 0 where it broke too often.
    """

    def __init__(self, message: str, status: int = 0, cursor: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.cursor = cursor


class _Refused(Exception):
    """The proxy can't answer just now."""


@dataclass(frozen=True)
class Event:
    """A server-sent event, or a line of JSON (``type`` is "line" then)."""

    type: str
    data: str
    id: str | None = None


class Stream:
    """An asynchronous iterator of events. ``response`` is the head that came last; a failed status raises nothing."""

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request, attempts: int, backoff: float) -> None:
        self.response: httpx.Response
        self._client = client
        self._request = request
        request.headers["accept-encoding"] = "identity"  # the proxy keeps no stream that is compressed
        self._attempts = attempts
        self._backoff = backoff
        self._name: str | None = None
        self._events = 0
        self._ended = False
        self._iterator = self._run()

    @property
    def cursor(self) -> str | None:
        """Where it goes on after the last event that was handed out; None where it can't be taken up again."""
        return None if self._name is None else f"{self._name}/{self._events}"

    async def stop(self) -> None:
        """End the stream for good, at the upstream too."""
        self._ended = True
        await self.response.aclose()
        if self.cursor is not None:
            await self._client.send(self._comes_back("DELETE", self.cursor))

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._iterator)

    async def aclose(self) -> None:
        """Go away; the stream goes on for the route's ``grace``."""
        await self._iterator.aclose()
        await self.response.aclose()

    async def _run(self) -> AsyncGenerator[Event, None]:
        failures = 0
        while True:
            try:
                async for event in self._read():
                    failures = 0
                    yield event
                    if self._ended:
                        return
                return
            except httpx.TransportError as fault:
                if self._ended:
                    return
                if self.cursor is None:
                    raise
                failures = await self._again(failures, fault)

    async def _again(self, failures: int, fault: Exception) -> int:
        """Ask until there is an answer; returns how many attempts that took."""
        await self.response.aclose()
        while True:
            failures += 1
            if failures > self._attempts:
                raise StreamLost("the stream broke too often", cursor=self.cursor) from fault
            await asyncio.sleep(min(10.0, self._backoff * 2 ** (failures - 1)) * random.uniform(0.5, 1.0))
            try:
                await self._open_again()
            except (httpx.TransportError, _Refused) as error:
                fault = error
            else:
                return failures

    async def _open(self) -> None:
        self.response = await self._client.send(self._request, stream=True)
        self._move_to(self.response.headers.get("x-stream-cursor", ""))

    async def _open_again(self) -> None:
        assert self.cursor is not None
        self.response = response = await self._client.send(self._comes_back("GET", self.cursor), stream=True)
        # An answer of anybody who knows no cursors would begin from the start.
        same = response.status_code == 200 and response.headers.get("x-stream-cursor") == self.cursor
        if same or response.status_code == 204:
            return
        await response.aclose()
        if response.status_code == 200:
            raise StreamLost("the answer is another stream", 200, self.cursor)
        if response.status_code >= 500 or response.status_code == 429:
            raise _Refused(f"the proxy answered {response.status_code}")
        raise StreamLost(f"the stream was refused: {response.status_code}", response.status_code, self.cursor)

    def _move_to(self, cursor: str) -> None:
        match = _CURSOR.fullmatch(cursor)
        self._name, self._events = (match[1], int(match[2])) if match else (None, 0)

    def _comes_back(self, method: str, cursor: str) -> httpx.Request:
        """A request with the credentials of the first one, and a cursor in place of its body."""
        left_out = ("content-type", "content-length", "transfer-encoding")
        headers = [pair for pair in self._request.headers.multi_items() if pair[0].lower() not in left_out]
        headers.append(("last-event-id", cursor))
        # Its time-outs too, which the caller may have set for this stream alone.
        return self._client.build_request(
            method, self._request.url, headers=headers, extensions=self._request.extensions
        )

    async def _read(self) -> AsyncIterator[Event]:
        if self.response.status_code != 200:
            return
        media = self.response.headers.get("content-type", "").lower()
        parser = _Lines() if "ndjson" in media or "jsonl" in media else _Events()
        async for chunk in self.response.aiter_bytes():
            for event in parser.feed(chunk):
                self._events += 1
                yield event
        for event in parser.finish():
            self._events += 1
            yield event


@asynccontextmanager
async def open_stream(
    client: httpx.AsyncClient, method: str, url: str, *, attempts: int = 8, backoff: float = 0.25, **request: Any
) -> AsyncIterator[Stream]:
    """Open a stream. ``request`` is what `httpx.AsyncClient.build_request` takes.

    ``attempts`` is how often in a row, without an event between, it is asked for again, and ``backoff`` the first pause
    before that, in seconds.
    """
    stream = Stream(client, client.build_request(method, url, **request), attempts, backoff)
    await stream._open()
    try:
        yield stream
    finally:
        await stream.aclose()


@asynccontextmanager
async def resume_stream(
    client: httpx.AsyncClient, url: str, cursor: str, *, attempts: int = 8, backoff: float = 0.25, **request: Any
) -> AsyncIterator[Stream]:
    """Take up a stream whose cursor was kept. Raises ValueError for what is no cursor, and StreamLost."""
    stream = Stream(client, client.build_request("GET", url, **request), attempts, backoff)
    stream._move_to(cursor)
    if stream.cursor is None:
        raise ValueError(f"not a cursor: {cursor!r}")
    await stream._open_again()
    try:
        yield stream
    finally:
        await stream.aclose()


class _Events:
    """Server-sent events (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = True
        self._begin()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        data, at = self._rest + chunk, 0
        for match in _LINE_END.finditer(data):
            line, at = data[at : match.start()], match.end()
            if self._first:
                line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
            yield from self._line(line.decode("utf-8", "replace"))
        self._rest = data[at:]

    def finish(self) -> Iterator[Event]:
        if self._rest == b"\r":
            yield from self._line("")

    def _begin(self) -> None:
        self._data: list[str] = []
        self._type = ""
        self._id: str | None = None

    def _line(self, line: str) -> Iterator[Event]:
        if not line:
            if self._data:
                yield Event(self._type or "message", "\n".join(self._data), self._id)
            self._begin()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value


class _Lines:
    """Lines of JSON. A keepalive is white space at the start of a line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield Event("line", line.decode("utf-8", "replace").strip())

    def finish(self) -> Iterator[Event]:
        if self._rest.strip():
            yield Event("line", self._rest.decode("utf-8", "replace").strip())
