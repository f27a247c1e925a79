"""Requests and responses come through byte for byte."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.connection import Connection
from tests.doubles.stack import route
from tests.doubles.upstream import Conn, answering, response, stream_head, streaming

quirk = pytest.mark.quirk


@pytest.mark.parametrize("target", ["/a%2Fb//c;x=1/../d?q=a+b&c=%20&&", "/%e4%F6?%zz", "/*?a[]=1", "/~%7E/%2e"])
async def test_the_target_reaches_the_upstream_byte_for_byte(
    stack: StartStack, serve: Serve, dial: Connect, target: str
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await client.get(target)).status == 200
    assert (await upstream.request()).target == target.encode()


@quirk("stock", "hypercorn", reason="the bare question mark is not in the scope")
async def test_an_empty_query_stays(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.get("/a?")
    assert (await upstream.request()).target == b"/a?"


async def test_a_path_that_climbs_above_its_prefix_is_refused(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, path="/api/*")])
    client = await dial(proxy.url)
    assert (await client.get("/api/%2e%2e/admin")).status == 400
    assert (await client.get("/api/a/../b")).status == 200
    assert [head.target for head in upstream.requests] == [b"/api/a/../b"]


async def test_nothing_is_added_but_what_the_contract_says(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"GET / HTTP/1.1\r\nHost: proxy.test\r\nX-B: 1\r\nX-A: 2\r\nX-B: 3\r\nX-Request-Id: me-1\r\n\r\n")
    await client.read_response()
    seen = [(name.lower(), value) for name, value in (await upstream.request()).headers]
    # HTTP libraries put Host first; the order of the rest is the client's.
    assert sorted(seen[:1]) == [(b"host", upstream.url.removeprefix("http://").encode())]
    assert seen[1:] == [
        (b"x-b", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"3"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"proxy.test"),
        (b"via", b"2 streamproxy" if stack.server == "http2" else b"1.1 streamproxy"),
        (b"x-request-id", b"me-1"),
    ]


async def test_cookies_are_not_kept_between_clients(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])))
    proxy = await stack(upstream.url)
    first, second = await dial(proxy.url), await dial(proxy.url)
    answer = await first.get()
    assert [value for name, value in answer.headers if name.lower() == b"set-cookie"] == [b"a=1", b"b=2"]
    await second.get()
    assert (await upstream.request(1)).get("cookie") is None


async def test_redirects_are_the_clients_business(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(status="302 Found", headers=[("Location", "/elsewhere")])))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await client.get()).status == 302
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "404 Not Found", "418 I'm a teapot", "500 Oh", "599 X"])
async def test_status_headers_and_body_are_the_upstreams(
    stack: StartStack, serve: Serve, dial: Connect, status: str
) -> None:
    upstream = await serve(
        answering(response(b"\x00\xff body", status=status, headers=[("Server", "s"), ("Date", "d"), ("X-A", "")]))
    )
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    names = [name.lower() for name, _ in answer.headers]
    assert (answer.status, answer.body, answer.complete) == (int(status[:3]), b"\x00\xff body", True)
    assert answer.get("x-a") == b""
    assert names.count(b"server") == names.count(b"date") == names.count(b"via") == 1
    assert answer.get("content-length") == b"7"
    assert answer.get("x-request-id")


async def test_a_compressed_body_stays_as_it_is(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"not really gzip", headers=[("Content-Encoding", "gzip")])))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get(headers=[("Accept-Encoding", "gzip, br")])
    assert answer.body == b"not really gzip"
    assert (await upstream.request()).get("accept-encoding") == b"gzip, br"


async def test_a_request_for_events_asks_for_an_uncompressed_body(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.get(headers=[("Accept", "text/event-stream"), ("Accept-Encoding", "gzip, br")])
    assert (await upstream.request()).get("accept-encoding") == b"identity"


@quirk("h2", reason="its exchanges have streams of their own")
@pytest.mark.parametrize(
    ("method", "wire"),
    [
        ("HEAD", response(b"", headers=[]).replace(b"Content-Length: 0", b"Content-Length: 1234")),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        pytest.param(
            "GET",
            b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 1234\r\n\r\n',
            marks=quirk("stock", reason="takes a 304 with a length for one that is too short"),
        ),
    ],
)
async def test_responses_without_a_body_keep_the_connection_in_step(
    stack: StartStack, serve: Serve, dial: Connect, method: str, wire: bytes
) -> None:
    upstream = await serve(answering(wire, wire, response(b"next")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    for _ in range(2):
        await client.request("/", method=method)
        answer = await client.read_response(method)
        assert answer.body == b""
        assert answer.head.status == int(wire[9:12])
    assert (await client.get()).body == b"next"


async def test_head_keeps_the_length_that_get_would_have(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/", method="HEAD")
    assert (await client.read_response("HEAD")).get("content-length") == b"1234"


async def test_a_body_that_only_the_close_ends_comes_whole(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert (answer.body, answer.complete) == (b"all of it", True)


@quirk("stock", reason="sends chunks to HTTP/1.0 clients")
async def test_an_http10_client_gets_an_unchunked_body_that_the_close_ends(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(b"data: 1\n\n", b"data: 2\n\n"))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    answer = await client.read_response()
    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    assert answer.get("transfer-encoding") is None


async def test_a_sized_upload_keeps_its_length(stack: StartStack, serve: Serve, dial: Connect) -> None:
    bodies: list[bytes] = []

    async def script(conn: Conn) -> None:
        _, body = await conn.read_request()
        bodies.append(body)
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x" * 300_000)
    assert (await client.read_response()).status == 200
    head = await upstream.request()
    assert (head.get("content-length"), head.get("transfer-encoding")) == (b"300000", None)
    assert bodies == [b"x" * 300_000]


async def test_an_upload_streams_before_its_last_byte_was_sent(stack: StartStack, serve: Serve, dial: Connect) -> None:
    got_first = asyncio.Event()

    async def script(conn: Conn) -> None:
        await conn.read_head()
        assert await conn.read_chunk() == b"first"
        got_first.set()
        assert await conn.read_chunk() == b"second"
        assert await conn.read_chunk() == b""
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    async with asyncio.timeout(20):
        await got_first.wait()
    await client.send(b"6\r\nsecond\r\n0\r\n\r\n")
    assert (await client.read_response()).status == 200
    assert (await upstream.request()).get("transfer-encoding") == b"chunked"


@quirk("httpx", "user", reason="sends the whole body before it reads the head")
@quirk("hypercorn", reason="reads no further once the application has responded")
async def test_an_early_answer_is_relayed_at_once(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(b"too large", status="413 Content Too Large"))
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly this")
    answer = await client.read_response()
    assert (answer.status, answer.body) == (413, b"too large")


@quirk("httpx", "user", reason="does not wait for the upstream's 100")
async def test_continue_comes_from_the_upstream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        assert head.get("expect") == b"100-continue"
        await conn.stall()
        await conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await conn.read_body(head) == b"hello"
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    (await upstream.connection()).go.set()
    assert (await client.read_raw_head()).status == 100
    await client.send(b"hello")
    assert (await client.read_response()).body == b"ok"


async def test_a_client_that_waits_for_continue_gets_it(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.read_raw_head()).status == 100
    await client.send(b"hello")
    assert (await client.read_response()).body == b"ok"


async def test_informational_heads_before_the_final_one_are_no_answer(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(b"final")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await client.get()).body == b"final"


async def test_rewrite_changes_the_path_and_nothing_else(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, path="/v1/*", rewrite={"strip_prefix": "/v1", "add_prefix": "/api"})])
    client = await dial(proxy.url)
    await client.get("/v1/a%2Fb?x=%2F")
    assert (await upstream.request()).target == b"/api/a%2Fb?x=%2F"


async def test_header_rules_of_the_route_come_last(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok", headers=[("Server", "secret"), ("X-Keep", "1")])))
    rules = {
        "request_headers": {"set": {"Authorization": "Bearer k", "Host": "api.test"}, "remove": ["x-drop"]},
        "response_headers": {"remove": ["server"], "add": {"X-New": "2"}},
    }
    proxy = await stack([route(upstream.url, **rules)])
    client = await dial(proxy.url)
    answer = await client.get(headers=[("Authorization", "client"), ("X-Drop", "1")])
    head = await upstream.request()
    assert [value for name, value in head.headers if name.lower() == b"authorization"] == [b"Bearer k"]
    assert (head.get("host"), head.get("x-drop")) == (b"api.test", None)
    assert (answer.get("server"), answer.get("x-keep"), answer.get("x-new")) == (None, b"1", b"2")


@pytest.mark.parametrize(("host", "seen"), [("preserve", b"proxy.test"), ("fixed.test", b"fixed.test")])
async def test_the_host_that_the_upstream_sees(
    stack: StartStack, serve: Serve, dial: Connect, host: str, seen: bytes
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route("up")], upstreams={"up": {"endpoints": [upstream.url], "host": host}})
    client = await dial(proxy.url)
    await client.get()
    assert (await upstream.request()).get("host") == seen


async def test_a_trusted_proxys_chain_is_appended_to(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url, server={"trusted_proxies": ["127.0.0.0/8"]})
    client = await dial(proxy.url)
    await client.get(headers=[("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https")])
    head = await upstream.request()
    assert head.get("x-forwarded-for") == b"192.0.2.1, 127.0.0.1"
    assert head.get("x-forwarded-proto") == b"https"
    assert (await proxy.end_of()).client == "192.0.2.1"


async def test_the_first_route_that_matches_serves(stack: StartStack, serve: Serve, dial: Connect) -> None:
    one, two, rest = [await serve(answering(response(body))) for body in (b"one", b"two", b"rest")]
    proxy = await stack(
        [
            route(one.url, path="/a", methods=["POST"]),
            route(two.url, path=["/a", "/b/*"], headers={"x-tenant": "*"}, hosts=["*.example", "proxy.test"]),
            route(rest.url, path="/a"),
        ]
    )
    client = await dial(proxy.url)
    assert (await client.get("/a", headers=[("X-Tenant", "t")])).body == b"two"
    assert (await client.get("/a")).body == b"rest"
    await client.request("/%61", method="POST", body=b"")
    assert (await client.read_response()).body == b"one"
    missing = await client.get("/b/x")
    assert (missing.status, missing.get("proxy-status")) == (404, b"streamproxy; error=destination_not_found")


async def test_a_connection_carries_many_exchanges_on_one_upstream_connection(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client: Connection = await dial(proxy.url)
    for _ in range(20):
        assert (await client.get()).body == b"ok"  # type: ignore[attr-defined]
    assert upstream.accepted == 1


async def test_a_request_that_went_round_too_often_is_a_loop(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await client.get(headers=[("Via", ", ".join(["1.1 streamproxy"] * 8))])).status == 200
    looped = await client.get(headers=[("Via", ", ".join(["1.1 streamproxy"] * 9))])
    assert (looped.status, looped.get("proxy-status")) == (508, b"streamproxy; error=proxy_loop_detected")


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused(
    stack: StartStack, serve: Serve, dial: Connect, announced: bool
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"ok"))

    upstream = await serve(script)
    proxy = await stack([route(upstream.url, limits={"max_request_body": 10})])
    client = await dial(proxy.url)
    if announced:
        await client.request("/", method="POST", body=b"x" * 11)
    else:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n"
        )
    assert (await client.read_response()).status == 413
    assert not announced or not upstream.requests


async def test_streams_of_every_kind_carry_the_anti_buffering_headers(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head("Application/X-NDJSON; charset=utf-8", ("Cache-Control", "private")))
        await conn.send_chunk(b"{}\n")
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    answer = await client.get()
    assert answer.get("x-accel-buffering") == b"no"
    assert answer.get("cache-control") == b"private, no-cache, no-transform"
    assert answer.get("connection") is None
