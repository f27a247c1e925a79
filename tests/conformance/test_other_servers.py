"""What ASGI leaves open to a server, and servers do differently."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from streamproxy import create_app
from streamproxy.config import parse_config
from tests.conftest import Serve
from tests.doubles.connection import guarded
from tests.doubles.upstream import answering, response

FIELDS = ((b"host", b"proxy.example"), (b"x-field", b"value"))


@pytest.mark.parametrize(
    "headers",
    [list(FIELDS), [list(pair) for pair in FIELDS], FIELDS, iter(FIELDS)],
    ids=["list", "lists", "tuple", "once"],
)
async def test_headers_come_in_any_iterable_of_pairs(headers: Iterable[Iterable[bytes]], serve: Serve) -> None:
    upstream = await serve(answering(response(b"ok")))
    routes = [{"path": "/*", "upstream": upstream.url, "headers": {"x-field": "value"}}]
    app = create_app(parse_config(json.dumps({"log": {"access": "off"}, "routes": routes}), name="test"))
    sent: list[Any] = []
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        return next(asked, None) or await asyncio.get_running_loop().create_future()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "headers": headers,
    }
    async with guarded("the response"), app.router.lifespan_context(app):
        await app(scope, receive, send)
    assert [message.get("status", message.get("body")) for message in sent][:2] == [200, b"ok"]
    assert upstream.requests[0].get("x-field") == b"value"
