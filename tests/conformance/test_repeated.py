"""An exchange whose heads came before is made as the first one was, and nothing changes what is remembered of them.

Heads that came twice, byte for byte, are looked up and not parsed (`streamproxy.wire.remembered`), and exchanges share
what is remembered. So each exchange here is made several times, by each part that reads or changes fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from streamproxy.client.http1.known import known_heads
from streamproxy.client.http1.response import ResponseParser
from streamproxy.wire import request
from streamproxy.wire.headers import RequestFields
from streamproxy.wire.request import RequestHead
from streamproxy.wire.response_fields import ResponseFields
from tests.conformance.conftest import Start
from tests.conftest import Connect, Serve
from tests.doubles.client import Answer
from tests.doubles.connection import Headers
from tests.doubles.stack import Config, route
from tests.doubles.upstream import Conn, answering, response

TIMES = 5
# Fields with another value each time.
VARYING = (b"date", b"x-request-id", b"x-stream-cursor")
# All that the two objects have; compiled classes do not tell.
REQUEST = ("forwarded", "host", "host_at", "kept", "noted", "two_hosts")
RESPONSE = ("_replaced", "kept", "noted", "plain", "told_length")
TOKEN = "t0ken"
EVENTS = response(
    b"data: a\n\n",
    headers=[
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "max-age=3"),
        ("Cache-Control", "private"),
        ("X-Accel-Buffering", "yes"),
    ],
)
MARKED = response(
    b"ok",
    status="200 Fine",
    headers=[
        ("Connection", "keep-alive, x-hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=9"),
        ("Set-Cookie", "a=b"),
        ("Set-Cookie", "c=d"),
        ("Vary", "Accept"),
    ],
)
ASKS_FOR_EVENTS = [("Accept", "text/event-stream"), ("Accept-Encoding", "gzip")]


def case(name: str, answer: bytes, *fields: tuple[str, str], method: str = "GET", **keys: Any) -> Any:
    return pytest.param(answer, fields, method, keys, id=name)


CASES = [
    case("plain", response(b"ok")),
    case("a head without a body", response(b"ok"), method="HEAD"),
    case("nothing", response(status="204 No Content", length=False)),
    case("fields of one hop", MARKED, ("Connection", "keep-alive, x-a"), ("X-A", "b"), ("X-B", "c")),
    case("the origin of the client", MARKED, ("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Host", "a.test")),
    case("a hop less", MARKED, ("Max-Forwards", "3"), method="OPTIONS"),
    case("events", EVENTS, *ASKS_FOR_EVENTS),
    case(
        "rules",
        MARKED,
        ("Cookie", "a=b"),
        request_headers={"set": {"X-A": "new"}, "remove": ["Cookie"]},
        response_headers={"add": {"X-Z": "1"}, "remove": ["Set-Cookie"]},
    ),
    case("credentials", MARKED, ("Authorization", f"Bearer {TOKEN}"), auth={"bearer": {"tokens": [TOKEN]}}),
    case("another origin", MARKED, ("Origin", "https://app.test"), cors={"origins": ["https://app.test"]}),
    case("a prefix", MARKED, rewrite={"strip_prefix": "/a", "add_prefix": "/b"}),
    case("kept streams", EVENTS, *ASKS_FOR_EVENTS, resume={"ids": "on"}),
    case("shared streams", EVENTS, *ASKS_FOR_EVENTS, share={"key": ["path"]}),
    case(
        "shared streams that are kept",
        EVENTS,
        *ASKS_FOR_EVENTS,
        share={"key": ["path", "principal"]},
        resume={"ids": "on"},
    ),
    case("streams asked for again", EVENTS, ("Last-Event-ID", "7"), *ASKS_FOR_EVENTS, reconnect={"attempts": 1}),
    case("attempts", response(status="503 Busy"), retry={"attempts": 2, "backoff": "0s"}),
    case("attempts until an event", EVENTS, *ASKS_FOR_EVENTS, retry={"attempts": 2, "until": "first_event"}),
]


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    forget_heads()


def forget_heads() -> None:
    request.known_heads.clear()
    known_heads.clear()


@pytest.mark.parametrize(("answer", "fields", "method", "keys"), CASES)
async def test_an_exchange_that_came_before_is_made_as_the_first_was(
    start: Start,
    serve: Serve,
    dial: Connect,
    answer: bytes,
    fields: Sequence[tuple[str, str]],
    method: str,
    keys: Config,
) -> None:
    whole = answer if method != "HEAD" else head_of(answer)
    upstream = await serve(answering(whole))
    proxy = await start([route(upstream.url, **keys)], server={"trusted_proxies": ["127.0.0.0/8"]})
    client = await dial(proxy.url)
    asked: list[object] = []
    answered: list[object] = []
    for _ in range(TIMES):
        before = len(upstream.requests)
        await client.request("/a/b?c=d", method=method, headers=fields)
        answered.append(shown(await client.read_response(method)))
        asked.append([(head.start, unvaried(head.headers)) for head in upstream.requests[before:]])
    assert answered == answered[:1] * TIMES
    assert asked == asked[:1] * TIMES
    assert len(request.known_heads.known) == 1
    assert len(known_heads.known) == (method != "HEAD")
    assert_remembered_is_what_heads_say()


async def test_the_same_head_has_a_body_behind_get_and_none_behind_head(
    start: Start, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        while True:
            head = await conn.read_head()
            await conn.send(response(b"ok") if head.method == b"GET" else head_of(response(b"ok")))

    upstream = await serve(script)
    proxy = await start(upstream.url)
    client = await dial(proxy.url)
    for method in ["GET", "GET", "GET", "HEAD", "GET", "HEAD", "HEAD", "HEAD", "GET"]:
        await client.request("/", method=method)
        answer = await client.read_response(method)
        assert (answer.status, answer.body) == (200, b"ok" if method == "GET" else b"")
        assert answer.complete
    assert len(upstream.connections) == 1


def head_of(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def unvaried(headers: Headers) -> Headers:
    return [(name, b"" if name.lower() in VARYING else value) for name, value in headers]


def shown(answer: Answer) -> object:
    """The answer up to the first line of its body: an id may follow."""
    return answer.head.start, unvaried(answer.headers), answer.body.partition(b"\n")[0], answer.complete


def assert_remembered_is_what_heads_say() -> None:
    """Compares everything that is remembered with what its head says when it is parsed again."""
    requests, responses = request.known_heads.known.copy(), known_heads.known.copy()
    forget_heads()
    for raw, (line, fields) in requests.items():
        head = RequestHead(65536, 100)
        assert head.feed(raw) == b""
        assert line[:3] == (head.method, head.target, head.version)
        assert fields.headers == head.headers
        assert said(fields.read(head.headers), REQUEST) == said(RequestFields().prepare(head.headers), REQUEST)
    for raw, known in responses.items():
        parser = ResponseParser()
        parser.begin("GET")
        assert parser.feed(raw) == b""
        assert parser.headers is not None
        assert known.headers == parser.headers
        assert (known.status, known.reason, known.framing) == (parser.status, parser.reason, parser.framing)
        assert said(known.fields(), RESPONSE) == said(ResponseFields().prepare(parser.headers), RESPONSE)


def said(fields: RequestFields | ResponseFields, names: Sequence[str]) -> list[object]:
    return [getattr(fields, name) for name in names]
