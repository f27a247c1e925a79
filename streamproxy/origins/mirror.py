"""A copy of some requests for another upstream: ``mirror``.

Theory of operation. A copied request is served a second time, as an exchange of its own under the name
``ROUTE~mirror``, in a task of its own, by whatever serves requests here. Its client is a `Copy`: it hands over the body
piece by piece as that of the request is read, and drops whatever it is sent. Nothing waits for it. What it may hold is
bounded: a body is given up when more than ``limit`` bytes of it wait, and with `MOST` copies at once no more are made.

A copy whose request was not read to its end, since the client has left or the upstream has answered before, is given up
too. A whole one goes on to its end, whatever becomes of the exchange that it was copied from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from streamproxy.errors import BodyTooLarge, ExchangeAborted
from streamproxy.exchange.body import Receive, join_last
from streamproxy.exchange.call import Call
from streamproxy.exchange.extension import CONNECTION, DownstreamConnection
from streamproxy.exchange.target import Scope, Target, make_target
from streamproxy.origins.base import Origin, OriginResponse

MOST: Final = 1000  # copies of one route at once

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Serve = Callable[[Target, Scope, Receive, Send], Awaitable[None]]


class Copy(DownstreamConnection):
    """The client of a copied request, which holds at most about ``limit`` bytes that the proxy has not taken yet."""

    __slots__ = ("_change", "_chunks", "_ended", "_limit", "_size", "_told")

    def __init__(self, limit: int, target: bytes, *, has_body: bool) -> None:
        self.target = target
        self.has_body = has_body
        self.on_disconnect = None
        self.fault = None
        self.disconnected = False
        self.wants_websocket = False
        self.known = None
        self._limit = limit
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = not has_body  # the request was read to its end
        self._told = False  # and that was handed over
        self._change: asyncio.Future[None] | None = None

    def feed(self, chunk: bytes, ended: bool) -> None:
        """A piece of the request's body has come, the last one if it has ``ended``."""
        if self.disconnected:
            return
        if chunk:
            self._chunks.append(chunk)
            join_last(self._chunks, len(self._chunks))
            self._size += len(chunk)
        self._ended = ended
        if self._size > self._limit:
            self.fault = BodyTooLarge("More of the request body waits than a copy may hold")
            self._give_up()
        self._tell()

    def stop(self) -> None:
        """No more will come of the request."""
        if not self._ended:
            self._give_up()
            self._tell()

    def _give_up(self) -> None:
        self.disconnected = True
        self._chunks = []
        if self.on_disconnect is not None:
            self.on_disconnect()

    def _tell(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    # What it asks for.

    async def receive(self) -> Any:
        while True:
            if self.disconnected:
                return {"type": "http.disconnect"}
            if self._chunks or (self._ended and not self._told):
                return {"type": "http.request", "body": self._take(), "more_body": not self._ended}
            self._change = asyncio.get_running_loop().create_future()
            await self._change

    def take_body(self) -> bytes | None:
        return self._take() if self._ended and not self.disconnected else None

    def _take(self) -> bytes:
        body = b"".join(self._chunks)
        self._chunks, self._size, self._told = [], 0, self._ended
        return body

    # What it is answered is dropped.

    async def send(self, message: Any) -> None:
        pass

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        pass

    def begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: bool = False, reason: bytes = b""
    ) -> None:
        pass

    def write(self, body: bytes, more: bool) -> Awaitable[None] | None:
        return None

    def push(self, chunk: bytes, framed: bytes) -> bool:
        return True

    def drained(self) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @property
    def takes_trailers(self) -> bool:
        return False

    def finish(self, trailers: Iterable[tuple[bytes, bytes]]) -> Awaitable[None] | None:
        return None

    def set_write_limit(self, high: int) -> None:
        pass


class MirrorOrigin(Origin):
    """Opens what ``inner`` does, and has ``serve`` serve a copy of ``percent`` of the requests, spread evenly."""

    __slots__ = ("_credit", "_inner", "_limit", "_percent", "_serve", "running")

    def __init__(self, inner: Origin, serve: Serve, percent: int, limit: int) -> None:
        self._inner = inner
        self._serve = serve
        self._percent = percent
        self._limit = limit
        self._credit = 0
        self.running: set[asyncio.Task[None]] = set()

    async def open(self, call: Call) -> OriginResponse:
        self._credit += self._percent
        if self._credit >= 100:
            self._credit -= 100
            if call.downstream.websocket_key is None and len(self.running) < MOST:
                self._copy(call)
        return await self._inner.open(call)

    def _copy(self, call: Call) -> None:
        downstream, body = call.downstream, call.downstream.body
        path, query = downstream.target.path, downstream.target.query
        copy = Copy(self._limit, path if query is None else path + b"?" + query, has_body=body is not None)
        headers = list(downstream.headers)
        if b"x-request-id" not in downstream.fields.noted:
            headers.append((b"x-request-id", call.exchange.request_id.encode()))
        if body is not None:
            if not downstream.fields.has_body:
                headers.append((b"transfer-encoding", b"chunked"))  # HTTP/2 needs no field that announces it
            call.on_close = copy.stop
            body.copy_to(copy.feed)
        scope = {
            "type": "http",
            "http_version": downstream.version,
            "method": downstream.method,
            "scheme": downstream.scheme,
            "headers": headers,
            "client": downstream.scope.get("client"),
            "extensions": {CONNECTION: copy},
        }
        target = make_target(path, query)
        target.climbs = downstream.target.climbs
        task = asyncio.get_running_loop().create_task(_run(self._serve(target, scope, copy.receive, copy.send)))
        copy.task = task
        self.running.add(task)
        task.add_done_callback(self.running.discard)


async def _run(serving: Awaitable[None]) -> None:
    with contextlib.suppress(ExchangeAborted):  # what a server would break its connection off for
        await serving
