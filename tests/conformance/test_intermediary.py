"""What RFC 9110 asks of an intermediary: Date, Via, Max-Forwards, TRACE, trailers, 1xx, and who the client is."""

from __future__ import annotations

import re
from typing import cast

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.http2_client import Http2Client
from tests.doubles.stack import route
from tests.doubles.upstream import Conn, Upstream, answering, response, stream_head, streaming

quirk = pytest.mark.quirk

TRUSTING = {"server": {"trusted_proxies": ["127.0.0.0/8"]}}
IMF_FIXDATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


# Date.


async def test_a_response_without_a_date_gets_one(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    answer = await (await dial(proxy.url)).get()
    assert IMF_FIXDATE.fullmatch(answer.get("date") or b"")


async def test_an_error_of_our_own_has_a_date(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, path="/only")])
    answer = await (await dial(proxy.url)).get("/other")
    assert answer.status == 404
    assert [name.lower() for name, _ in answer.headers].count(b"date") == 1


# Via.


async def test_via_says_the_version_of_the_message_that_came(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"GET / HTTP/1.0\r\nHost: proxy.test\r\n\r\n")
    await client.read_response()
    assert (await upstream.request()).get("via") == b"1.0 streamproxy"


@quirk("h2", reason="its responses are of version 2")
async def test_via_of_a_response_says_the_upstreams_version(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def old(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream = await serve(old)
    proxy = await stack(upstream.url)
    answer = await (await dial(proxy.url)).get()
    assert answer.get("via") == b"1.0 streamproxy"


# Max-Forwards and TRACE (RFC 9110 sections 7.6.2 and 9.3.8).


async def test_max_forwards_of_options_is_counted_down(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/a", method="OPTIONS", headers=[("Max-Forwards", "3")])
    assert (await client.read_response()).status == 200
    assert (await upstream.request()).get("max-forwards") == b"2"


async def test_options_that_may_go_no_further_is_answered_here(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, methods=["OPTIONS", "POST"])])
    client = await dial(proxy.url)
    await client.request("/a", method="OPTIONS", headers=[("Max-Forwards", "0")])
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.get("allow")) == (200, b"", b"OPTIONS, POST")
    assert upstream.requests == []


async def test_options_that_may_go_no_further_is_no_answer_where_no_route_is(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, path="/a", methods=["GET"])])
    client = await dial(proxy.url)
    for target in ("/a", "/b"):
        await client.request(target, method="OPTIONS", headers=[("Max-Forwards", "0")])
        answer = await client.read_response()
        assert (answer.status, answer.get("allow")) == (404, None)


@pytest.mark.parametrize("value", ["many", "-1", "1, 2", "", "99999999999"])
async def test_max_forwards_that_is_no_number_is_refused(
    stack: StartStack, serve: Serve, dial: Connect, value: str
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/a", method="OPTIONS", headers=[("Max-Forwards", value)])
    assert (await client.read_response()).status == 400
    assert upstream.requests == []


async def test_max_forwards_of_other_methods_passes(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.get("/a", headers=[("Max-Forwards", "0")])
    assert (await upstream.request()).get("max-forwards") == b"0"


async def test_trace_is_refused(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/a", method="TRACE")
    answer = await client.read_response()
    assert answer.status == 405
    assert b"GET" in (answer.get("allow") or b"")
    assert upstream.requests == []


@quirk("stock", reason="has no path for it in the scope")
async def test_options_of_everything_goes_to_the_route_of_everything(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, path="/v1/*", name="v1"), route(upstream.url)])
    client = await dial(proxy.url)
    await client.request("*", method="OPTIONS")
    assert (await client.read_response()).status == 200
    assert (await upstream.request()).target == b"*"
    assert (await proxy.end_of()).route == "r1"


# Trailers and 1xx.

TRAILERS = b"0\r\nX-Checksum: abc\r\nContent-Length: 5\r\nAuthorization: no\r\nX-Last: 1\r\n\r\n"


def with_trailers(conn_log: list[bytes | None]) -> object:
    async def script(conn: Conn) -> None:
        while True:
            head, _ = await conn.read_request()
            conn_log.append(head.get("te"))
            # Over HTTP/2 a Content-Length is the body's wherever it stands, and a wrong one breaks the stream.
            trailers = TRAILERS.replace(b"Content-Length: 5\r\n", b"") if Upstream.http2 else TRAILERS
            await conn.send(stream_head("text/plain", ("Trailer", "X-Checksum")) + b"2\r\nok\r\n" + trailers)

    return script


@quirk("http2", reason="its trailers have a test of their own")
@quirk("httpx", "user", "stock", "hypercorn", reason="drops trailers")
@pytest.mark.parametrize("headers", [[("TE", "trailers")], [("TE", "trailers"), ("Connection", "TE")]])
async def test_trailers_reach_a_client_that_takes_them(
    stack: StartStack, serve: Serve, dial: Connect, headers: list[tuple[str, str]]
) -> None:
    told: list[bytes | None] = []
    upstream = await serve(with_trailers(told))  # type: ignore[arg-type]
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/", headers=headers)
    await client.read_head()
    assert await client.read_chunk() == b"ok"
    raw = b""
    while not raw.endswith(b"\r\n\r\n"):
        raw += await client.read_some()
    assert raw.lower() == b"0\r\nx-checksum: abc\r\nx-last: 1\r\n\r\n"
    assert told == [b"trailers"]
    assert (await upstream.request()).get("connection") == (None if stack.client == "h2" else b"te")


@quirk("uvicorn", "stock", "hypercorn", reason="HTTP/1.1 has chunks for that")
async def test_trailers_reach_a_client_over_http2(stack: StartStack, serve: Serve, dial: Connect) -> None:
    told: list[bytes | None] = []
    upstream = await serve(with_trailers(told))  # type: ignore[arg-type]
    proxy = await stack(upstream.url)
    client = cast(Http2Client, await dial(proxy.url))
    await client.request("/", headers=[("TE", "trailers")])
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
    assert client.answer.trailers == [(b"x-checksum", b"abc"), (b"x-last", b"1")]
    assert told == [b"trailers"]


async def test_trailers_stay_away_from_a_client_that_did_not_ask(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    told: list[bytes | None] = []
    upstream = await serve(with_trailers(told))  # type: ignore[arg-type]
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.body, answer.complete) == (b"ok", True)
    assert (await client.get()).complete  # nothing is left on the connection
    assert told == [None, None]


@quirk("httpx", "user", "stock", "hypercorn", reason="knows no interim responses")
async def test_early_hints_are_passed_on(stack: StartStack, serve: Serve, dial: Connect) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    upstream = await serve(answering(hints + b"HTTP/1.1 199 X\r\nX-A: 1\r\n\r\n" + response(b"ok")))
    proxy = await stack(upstream.url)
    answer = await (await dial(proxy.url)).get()
    assert answer.body == b"ok"
    assert [(head.status, head.get("link"), head.get("x-a")) for head in answer.interim] == [
        (103, b"</a.css>; rel=preload", None),
        (199, None, b"1"),
    ]


@quirk("h2", "httpx", "user", "stock", "hypercorn", "http2", reason="has no word for reason phrases")
@pytest.mark.parametrize("status", ["200 Fine", "404 Gone fishing", "299 Odd", "999 Beyond", "250 "])
async def test_the_reason_phrase_is_the_upstreams(stack: StartStack, serve: Serve, dial: Connect, status: str) -> None:
    upstream = await serve(answering(response(b"ok", status=status)))
    proxy = await stack(upstream.url)
    answer = await (await dial(proxy.url)).get()
    assert f"{answer.status} {answer.head.start.split(b' ', 2)[2].decode()}" == status


# Who the client is.


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("203.0.113.7:54321", "203.0.113.7"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("198.51.100.1, 203.0.113.7, 127.0.0.9:80", "203.0.113.7"),
        ("203.0.113.7, unknown, 127.0.0.9", "127.0.0.9"),
        ("203.0.113.7:port", "127.0.0.1"),
    ],
)
async def test_the_client_is_the_first_address_that_is_not_a_trusted_proxys(
    stack: StartStack, serve: Serve, dial: Connect, chain: str, client: str
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, **TRUSTING)
    await (await dial(proxy.url)).get(headers=[("X-Forwarded-For", chain)])
    assert (await proxy.end_of()).client == client
    assert (await upstream.request()).get("x-forwarded-for") == f"{chain}, 127.0.0.1".encode()


CLAIMED = ("forwarded", "x-real-ip", "x-forwarded-x")
CLAIMS = [
    ("X-Forwarded-For", "1.2.3.4"),
    ("Forwarded", "for=1.2.3.4"),
    ("X-Real-IP", "1.2.3.4"),
    ("X-Forwarded-X", "y"),
]


async def test_what_a_stranger_says_of_itself_is_dropped(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    await (await dial(proxy.url)).get(headers=CLAIMS)
    head = await upstream.request()
    assert [head.get(name) for name in CLAIMED] == [None, None, None]
    assert head.get("x-forwarded-for") == b"127.0.0.1"


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For",
        "X-Forwarded_For",
        "x_forwarded_host",
        "X_Real_IP",
        "X-Real_IP",
        "X_Forwarded-Proto",
        "X_Forwarded_User",
    ],
)
async def test_a_strangers_claim_is_dropped_in_the_spellings_that_an_application_cannot_tell_apart(
    stack: StartStack, serve: Serve, dial: Connect, name: str
) -> None:
    """CGI, WSGI and PHP make one variable of X-Forwarded-For and X_Forwarded_For."""
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    await (await dial(proxy.url)).get(headers=[(name, "1.2.3.4"), ("X_Other", "kept")])
    head = await upstream.request()
    assert (head.get(name.lower()), head.get("x_other")) == (None, b"kept")


async def test_what_a_trusted_proxy_says_is_kept(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, **TRUSTING)
    await (await dial(proxy.url)).get(headers=CLAIMS)
    head = await upstream.request()
    assert [head.get(name) for name in CLAIMED] == [
        b"for=1.2.3.4",
        b"1.2.3.4",
        b"y",
    ]


async def test_the_upstream_is_told_what_was_taken_off_its_path(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, rewrite={"strip_prefix": "/v1"})], **TRUSTING)
    client = await dial(proxy.url)
    await client.get("/v1/a")
    await client.get("/v1/a", headers=[("X-Forwarded-Prefix", "/outer/")])
    assert [head.get("x-forwarded-prefix") for head in upstream.requests] == [b"/v1", b"/outer/v1"]
    assert [head.target for head in upstream.requests] == [b"/a", b"/a"]


# The start of a stream.


async def test_a_byte_order_mark_behind_a_keepalive_is_dropped(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(b"\xef\xbb")
        await conn.send_chunk(b"\xbfdata: 1\n\n")
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, keepalive="50ms")])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    assert await client.read_body_until(b"\n\n") == b": keepalive\n\n"
    upstream.connections[0].go.set()
    rest = (await client.read_rest()).body
    assert rest.replace(b": keepalive\n\n", b"") == b"data: 1\n\n"


@pytest.mark.parametrize("split", [0, 1, 2, 3])
async def test_a_byte_order_mark_behind_a_space_in_ndjson_is_dropped(
    stack: StartStack, serve: Serve, dial: Connect, split: int
) -> None:
    body = b'\xef\xbb\xbf{"a": 1}\n'

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head("application/x-ndjson"))
        await conn.stall()
        for piece in filter(None, (body[:split], body[split:])):
            await conn.send_chunk(piece)
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, keepalive={"interval": "50ms", "ndjson": "on"})])
    client = await dial(proxy.url)
    await client.request("/")
    await client.read_head()
    assert await client.read_body_until(b" ") == b" "
    upstream.connections[0].go.set()
    rest = (await client.read_rest()).body
    assert rest.lstrip(b" ") == body[3:]


async def test_a_byte_order_mark_at_the_start_stays(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b"\xef\xbb\xbfdata: 1\n\n"))
    proxy = await stack(upstream.url)
    assert (await (await dial(proxy.url)).get()).body == b"\xef\xbb\xbfdata: 1\n\n"
