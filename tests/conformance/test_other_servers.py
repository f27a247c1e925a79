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
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head

FIELDS = ((b"host", b"proxy.example"), (b"x-field", b"value"))


class Server:
    """An ASGI server that speaks to one application, and keeps what that sends."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            **scope,
        }
        self.sent: list[Any] = []
        self._asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive(self) -> Any:
        return next(self._asked, None) or await asyncio.get_running_loop().create_future()  # the client stays

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.sent.append(message)

    async def run(self, url: str, **keys: Any) -> None:
        """Serve one request by an application in front of this upstream."""
        routes = [{"path": "/*", "upstream": url, **keys}]
        app = create_app(parse_config(json.dumps({"log": {"access": "off"}, "routes": routes}), name="test"))
        async with guarded("the response"), app.router.lifespan_context(app):
            await app(self.scope, self.receive, self.send)


@pytest.mark.parametrize(
    "headers",
    [list(FIELDS), [list(pair) for pair in FIELDS], FIELDS, iter(FIELDS)],
    ids=["list", "lists", "tuple", "once"],
)
async def test_headers_come_in_any_iterable_of_pairs(headers: Iterable[Iterable[bytes]], serve: Serve) -> None:
    upstream = await serve(answering(response(b"ok")))
    server = Server({"headers": headers})
    await server.run(upstream.url, headers={"x-field": "value"})
    assert [message.get("status", message.get("body")) for message in server.sent][:2] == [200, b"ok"]
    assert upstream.requests[0].get("x-field") == b"value"


HINTS = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\nX: 1\r\n\r\n"
    b"HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </c.css>\r\n\r\n"
)
LINKS = [[b"</a.css>; rel=preload", b"</b.js>; rel=preload"], [b"</c.css>"]]
EXTENSIONS = {"http.response.early_hint": {}, "http.response.trailers": {}}


async def hinting(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(HINTS)
    await conn.stall()
    await conn.send(stream_head("text/plain", ("Trailer", "X-Sum")) + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_early_hints_and_trailers_are_sent_where_the_server_has_them(serve: Serve) -> None:
    upstream = await serve(hinting)
    server = Server({"headers": [*FIELDS, (b"te", b"trailers")], "extensions": EXTENSIONS})
    running = asyncio.create_task(server.run(upstream.url))
    await until(lambda: len(server.sent) == 2, "the hints, before the upstream answers")
    upstream.connections[0].go.set()
    await running
    assert [one["links"] for one in server.sent[:2]] == LINKS
    assert [one["type"].removeprefix("http.response.") for one in server.sent] == [
        *("early_hint", "early_hint", "start", "body", "body", "trailers")
    ]
    assert server.sent[2]["trailers"] is True
    assert server.sent[-1]["headers"] == [(b"x-sum", b"1")]


@pytest.mark.parametrize("extensions", [{}, {"extensions": {}}])
async def test_a_server_without_them_is_sent_neither(serve: Serve, extensions: dict[str, Any]) -> None:
    upstream = await serve(hinting)
    server = Server({"headers": [*FIELDS, (b"te", b"trailers")], **extensions})
    running = asyncio.create_task(server.run(upstream.url))
    (await upstream.connection()).go.set()
    await running
    assert [one["type"] for one in server.sent] == ["http.response.start", *["http.response.body"] * 2]
    assert "trailers" not in server.sent[0]


async def test_hints_that_cannot_be_sent_cost_no_response(serve: Serve) -> None:
    class Failing(Server):
        async def send(self, message: Any) -> None:
            if message["type"] == "http.response.early_hint":
                raise OSError("no hints today")
            await super().send(message)

    upstream = await serve(hinting)
    server = Failing({"headers": FIELDS, "extensions": EXTENSIONS})
    running = asyncio.create_task(server.run(upstream.url))
    (await upstream.connection()).go.set()
    await running
    assert server.sent[0]["status"] == 200
