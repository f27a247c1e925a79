"""Short ways to send a request and read its response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from streamproxy.client.http1 import NativeClient, Stream
from streamproxy.errors import ExchangeError
from streamproxy.wire.headers import Headers
from tests.doubles.connection import guarded
from tests.doubles.until import until as until

HOST: Headers = [(b"host", b"upstream.example")]


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def ask(
    client: NativeClient,
    method: str = "GET",
    target: bytes = b"/",
    *,
    headers: Headers | None = None,
    content: AsyncIterator[bytes] | bytes | None = None,
    **extensions: Any,
) -> Stream:
    """The stream of a request, to be entered."""
    fields = HOST if headers is None else headers
    return client.stream(
        method, "http://ignored", headers=fields, content=content, extensions={"target": target, **extensions}
    )


async def fetch(client: NativeClient, method: str = "GET", target: bytes = b"/", **options: Any) -> Answer:
    """A whole response; fails when it takes suspiciously long."""
    async with guarded("a whole response"), ask(client, method, target, **options) as response:
        body = b"".join([chunk async for chunk in response.aiter_raw()])
        return Answer(response.status_code, response.headers.raw, body)


async def read(response: Stream) -> tuple[bytes, ExchangeError | None]:
    """What came of a body, and why no more did."""
    got = b""
    try:
        async for chunk in response.aiter_raw():
            got += chunk
    except ExchangeError as fault:
        return got, fault
    return got, None


async def body_of(*chunks: bytes) -> AsyncIterator[bytes]:
    """A request body that is all there."""
    for chunk in chunks:
        yield chunk
