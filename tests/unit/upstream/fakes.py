"""An upstream's parts without a network: a client that answers as it is told, and requests for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from streamproxy.client.base import ChunkSource, IteratorSource
from streamproxy.config import model
from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream import Endpoint
from streamproxy.wire.headers import Headers
from streamproxy.wire.response_fields import ResponseFields


class FakeResponse:
    reason = b""
    http_version = "1.1"
    complete = False

    def __init__(self, status: int, headers: Headers) -> None:
        self.status_code = status
        self.raw = headers
        self.source: ChunkSource = IteratorSource(self._chunks())

    def fields(self) -> ResponseFields:
        return ResponseFields().prepare(self.raw)

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"body"


Answer = int | BaseException | Callable[["FakeClient"], Any]


class FakeClient:
    """Gives its ``answers`` one after the other, the last one again and again.

    An answer is a status, an exception, or a function that is awaited and gives one of them. ``sends`` says that it
    reports the request as sent, and reads its body, before it answers. ``log`` has a line for all that happened.
    """

    def __init__(self, *answers: Answer, sends: bool = True, headers: Headers | None = None) -> None:
        self.answers = list(answers)
        self.sends = sends
        self.headers = headers or []
        self.requests: list[tuple[str, Headers, bytes | None]] = []
        self.log: list[str] = []

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        content: AsyncIterator[bytes] | None,
        extensions: Mapping[str, Any],
    ) -> AsyncIterator[FakeResponse]:
        extensions["progress"]("connect")
        body = None
        if self.sends:
            extensions["progress"]("request")
            body = None if content is None else b"".join([chunk async for chunk in content])
            extensions["progress"]("head")
        self.requests.append((method, headers, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = await answer(self)
        if isinstance(answer, BaseException):
            raise answer
        self.log.append(f"answered {answer}")
        try:
            yield FakeResponse(answer, self.headers)
        finally:
            self.log.append("left")

    async def aclose(self) -> None:
        self.log.append("closed")


def endpoint(name: str, *answers: Answer, weight: int = 1, sends: bool = True) -> Endpoint:
    """An endpoint of that name with a client that gives these answers, 200 if there are none."""
    return Endpoint(
        f"http://{name}", FakeClient(*(answers or (200,)), sends=sends), authority=name.encode(), weight=weight
    )


def client_of(one: Endpoint) -> FakeClient:
    assert isinstance(one.client, FakeClient)
    return one.client


def new_exchange(method: str = "GET") -> Exchange:
    exchange = Exchange(request_id="r", route="r", upstream="u", method=method, path="/")
    exchange.task = asyncio.current_task()
    return exchange


def settings(**keys: Any) -> model.Upstream:
    """An upstream's section of a file with these keys, without outlier ejection unless they have it.

    The endpoints in it are not used: an `Upstream` takes its own.
    """
    return model.Upstream(endpoints=("http://unused",), **({"outlier": "off"} | keys))
