"""Requests over HTTP/2 as the application sees them, and those that it never sees."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hyperframe.frame import DataFrame, HeadersFrame

from tests.doubles.client import connect
from tests.unit.server.harness import Receive, Scope, Send, body_message, hello, read_body, start_message
from tests.unit.server.http2.conftest import Connect, Start


class Recorder:
    """An application that keeps the scopes and bodies, and answers 200."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.bodies.append(await read_body(receive))
        await send(start_message(200))
        await send(body_message(b"ok"))


async def test_a_request_is_answered(start: Start, h2: Connect) -> None:
    server = await start(hello)
    client = await h2(server.url)
    answer = await client.response(await client.request("GET", "/path?q=%2F"))
    assert answer.status == 200
    assert bytes(answer.body) == b"/path "
    assert answer.complete


async def test_the_scope_says_what_came(start: Start, h2: Connect) -> None:
    app = Recorder()
    client = await h2((await start(app)).url)
    await client.response(await client.request("GET", "/a%2Fb//c?x=1&y", [("x-b", "2"), ("x-a", "1"), ("x-b", "3")]))
    (scope,) = app.scopes
    assert scope["http_version"] == "2"
    assert (scope["raw_path"], scope["query_string"], scope["path"]) == (b"/a%2Fb//c", b"x=1&y", "/a/b//c")
    assert scope["headers"] == [(b"host", b"proxy.test"), (b"x-b", b"2"), (b"x-a", b"1"), (b"x-b", b"3")]
    assert "http.response.trailers" in scope["extensions"]


async def test_crumbs_of_cookie_are_joined(start: Start, h2: Connect) -> None:
    app = Recorder()
    client = await h2((await start(app)).url)
    crumbs = [("cookie", f"c{number}=v") for number in range(150)]
    answer = await client.response(await client.request("GET", "/", [*crumbs[:75], ("x-a", "1"), *crumbs[75:]]))
    assert answer.status == 200
    joined = b"; ".join(b"c%d=v" % number for number in range(150))
    assert app.scopes[0]["headers"] == [(b"host", b"proxy.test"), (b"cookie", joined), (b"x-a", b"1")]


async def test_host_stands_in_for_a_missing_authority(start: Start, h2: Connect) -> None:
    app = Recorder()
    client = await h2((await start(app)).url)
    client.send(*client.head(client.fields(authority=None, headers=[("host", "b.test")])))
    assert (await client.response(1)).status == 200
    assert app.scopes[0]["headers"] == [(b"host", b"b.test")]


async def test_a_body_streams_in_the_frames_of_the_client(start: Start, h2: Connect) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            seen.put_nowait(message["body"])
        await send(start_message(200))
        await send(body_message())

    client = await h2((await start(app)).url)
    stream = await client.request("POST", "/", end=False)
    for piece in (b"one", b"two"):
        client.data(stream, piece)
        assert await seen.get() == piece
    client.data(stream, b"three", end=True)
    assert await seen.get() == b"three"
    assert (await client.response(stream)).complete


async def test_a_frame_that_is_cut_is_not_waited_for(start: Start, h2: Connect) -> None:
    """The network may hold back the end of a long DATA frame for as long as it likes."""
    app = Recorder()
    first = asyncio.Event()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def told() -> Any:
            message = await receive()
            first.set()
            return message

        await app(scope, told, send)

    client = await h2((await start(watched)).url)
    stream = await client.request("POST", "/", end=False)
    whole = DataFrame(stream, b"x" * 1000, flags=["END_STREAM"]).serialize()
    client.raw(whole[:500])
    await first.wait()
    client.raw(whole[500:])
    assert (await client.response(stream)).status == 200
    assert app.bodies == [b"x" * 1000]


async def test_uploads_larger_than_every_window_pass(start: Start, h2: Connect) -> None:
    app = Recorder()
    client = await h2((await start(app)).url)
    stream = await client.request("POST", "/", end=False)
    left, window = 1_000_000, 65_535
    client.windows[stream] = 0
    while left:
        given = window + client.windows[stream] - (1_000_000 - left)
        size = min(16_384, left, given)
        if not size:
            before = client.windows[stream]
            await client.wait(lambda before=before: client.windows[stream] > before, "a window")  # type: ignore[misc]
            continue
        left -= size
        client.data(stream, b"u" * size, end=not left)
    assert (await client.response(stream)).status == 200
    assert len(app.bodies[0]) == 1_000_000


async def test_tiny_frames_of_a_body_cost_no_more_than_their_bytes(start: Start, h2: Connect) -> None:
    held = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await held.wait()
        body = await read_body(receive)
        await send(start_message(200))
        await send(body_message(b"%d" % len(body)))

    server = await start(app)
    client = await h2(server.url)
    stream = await client.request("POST", "/", end=False)
    client.send(*[DataFrame(stream, b"ab") for _ in range(20_000)])
    await client.pong()
    pieces = server.connection._streams[stream]._pieces
    assert pieces is not None
    assert len(pieces) <= 65
    held.set()
    client.data(stream, b"", end=True)
    assert bytes((await client.response(stream)).body) == b"40000"


async def test_request_trailers_are_kept(start: Start, h2: Connect) -> None:
    kept: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_body(receive) == b"body"
        kept.append(scope["extensions"]["streamproxy.connection"].request_trailers)
        await send(start_message(200))
        await send(body_message())

    client = await h2((await start(app)).url)
    stream = await client.request("POST", "/", end=False)
    client.data(stream, b"body")
    client.send(*client.head([(b"x-sum", b"1")], stream=stream))
    assert (await client.response(stream)).status == 200
    assert kept == [[(b"x-sum", b"1")]]


@pytest.mark.parametrize("fields", [[(b"x-a", b"1")] * 101, [(b"x-a", b"v" * 3900)] * 3], ids=["many", "large"])
async def test_request_trailers_have_the_limits_of_a_head(
    fields: list[tuple[bytes, bytes]], start: Start, h2: Connect
) -> None:
    faults: list[Any] = []
    begun, gone = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await hello(scope, receive, send)
            return
        begun.set()
        extension = scope["extensions"]["streamproxy.connection"]
        while (await receive())["type"] != "http.disconnect":
            pass
        faults.append((extension.fault.status, extension.request_trailers))
        gone.set()

    client = await h2((await start(app, max_header_size=8192)).url)
    stream = await client.request("POST", "/", end=False)
    await begun.wait()
    client.send(*client.head(fields, stream=stream))
    assert (await client.response(stream)).reset == 1
    await gone.wait()
    assert faults == [(400, [])]
    assert (await client.response(await client.request())).status == 200  # the connection goes on


async def test_expect_is_answered_when_the_body_is_wanted(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    stream = await client.request("POST", "/", [("expect", "100-continue")], end=False)
    await client.wait(lambda: bool(client.streams[stream].heads), "100")
    assert client.streams[stream].heads == [[(b":status", b"100")]]
    client.data(stream, b"x", end=True)
    answer = await client.response(stream)
    assert (answer.status, bytes(answer.body)) == (200, b"/ x")


REFUSED = {
    "a space in the target": ([(b":path", b"/a b")], 400),
    "a control character in the target": ([(b":path", b"/a\x01b")], 400),
    "a DEL in the target": ([(b":path", b"/a\x7f")], 400),
    "a fragment": ([(b":path", b"/a#b")], 400),
    "no slash": ([(b":path", b"a")], 400),
    "a user in the authority": ([(b":authority", b"u@a.test")], 400),
    "an authority that is none": ([(b":authority", b"a.test/x")], 400),
    "another Host": ([(b"host", b"b.test")], 400),
    "two Hosts": ([(b":authority", None), (b"host", b"a.test"), (b"host", b"b.test")], 400),
    "no Host": ([(b":authority", None)], 400),
    "two lengths": ([(b"content-length", b"1"), (b"content-length", b"2")], 400),
    "a length that is none": ([(b"content-length", b"+1")], 400),
    "a transfer coding": ([(b"transfer-encoding", b"chunked")], 400),
    "connection": ([(b"connection", b"x")], 400),
    "te that is not trailers": ([(b"te", b"gzip")], 400),
    "upper case": ([(b"X-A", b"1")], 400),
    "a space in a name": ([(b"x a", b"1")], 400),
    "a colon in a name": ([(b"x:a", b"1")], 400),
    "a line end in a value": ([(b"x-a", b"1\r\nx: y")], 400),
    "a NUL in a value": ([(b"x-a", b"1\x00")], 400),
    "a leading space in a value": ([(b"x-a", b" 1")], 400),
    "an empty name": ([(b"", b"1")], 400),
    "an unknown pseudo-header": ([(b":foo", b"1")], 400),
    "a response's pseudo-header": ([(b":status", b"200")], 400),
    "two methods": ([(b":method", b"GET"), (b":method", b"PUT")], 400),
    "no method": ([(b":method", None)], 400),
    "no scheme": ([(b":scheme", None)], 400),
    "no path": ([(b":path", None)], 400),
    "an empty path": ([(b":path", b"")], 400),
    "a method that is none": ([(b":method", b"G T")], 400),
    "an extended CONNECT": ([(b":method", b"CONNECT"), (b":protocol", b"websocket")], 400),
    "over 100 fields": ([(b"x-%d" % number, b"1") for number in range(101)], 431),
    "over 64 KiB": ([(b"x-%d" % number, b"x" * 16_000) for number in range(5)], 431),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_malformed_never_reaches_the_application(case: str, start: Start, h2: Connect) -> None:
    app = Recorder()
    server = await start(app)
    client = await h2(server.url)
    changes, status = REFUSED[case]
    fields = [pair for pair in client.fields() if pair[0] not in {name for name, _ in changes}]
    fields += [(name, value) for name, value in changes if value is not None]
    fields.sort(key=lambda pair: not pair[0].startswith(b":"))
    client.send(*client.head(fields))
    answer = await client.response(1)
    if answer.started:
        assert answer.status == status
    else:
        assert (answer.reset, status) == (1, 400)
    # The stream was at fault, and the connection goes on.
    assert (await client.response(await client.request())).status == 200
    assert len(app.scopes) == 1
    assert [code for code, _ in server.rejected] == [status]


async def test_connect_is_refused_with_405(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    client.send(*client.head([(b":method", b"CONNECT"), (b":authority", b"a.test:443")]))
    answer = await client.response(1)
    assert answer.status == 405
    assert answer.get("allow")


async def test_pseudo_headers_behind_fields_are_malformed(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    fields = client.fields()
    client.send(*client.head([*fields[:-1], (b"x-a", b"1"), fields[-1]]))
    assert (await client.response(1)).reset == 1


async def test_a_body_unlike_its_length_is_malformed(start: Start, h2: Connect) -> None:
    faults: list[Any] = []
    begun, gone = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        extension = scope["extensions"]["streamproxy.connection"]
        while (await receive())["type"] != "http.disconnect":
            pass
        faults.append(extension.fault)
        gone.set()

    client = await h2((await start(app)).url)
    stream = await client.request("POST", "/", [("content-length", "5")], end=False)
    await begun.wait()
    client.data(stream, b"abc", end=True)
    assert (await client.response(stream)).reset == 1
    await gone.wait()
    assert faults[0].status == 400


@pytest.mark.parametrize("times", [1.1, 3.9])
async def test_a_head_up_to_four_times_too_large_is_a_streams_matter(times: float, start: Start, h2: Connect) -> None:
    client = await h2((await start(hello, max_header_size=8192)).url)
    fields = client.fields(headers=[(f"x-{n}", "v" * 980) for n in range(int(times * 8))])
    client.send(*client.head(fields, piece=700))
    assert (await client.response(1)).status == 431
    assert (await client.response(await client.request())).status == 200


async def test_a_head_beyond_that_ends_the_connection(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello, max_header_size=8192)).url)
    client.send(*client.head(client.fields(headers=[(f"x-{n}", "v" * 980) for n in range(40)])))
    assert await client.end() == 0xB


async def test_an_empty_continuation_is_fine(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    frames = client.head(client.fields(headers=[("x-a", "v" * 60)]), piece=10)
    assert len(frames) > 4
    client.send(*frames)
    assert (await client.response(1)).status == 200


async def test_a_stream_beyond_256_is_refused(start: Start, h2: Connect) -> None:
    hold = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hold.wait()
        await send(start_message(200))
        await send(body_message())

    client = await h2((await start(app)).url)
    assert client.settings is not None
    assert client.settings[3] == 256
    streams = [await client.request() for _ in range(260)]
    for stream in streams[256:]:
        assert (await client.response(stream)).reset == 7
    hold.set()
    for stream in streams[:256]:
        assert (await client.response(stream)).status == 200
    assert (await client.response(await client.request())).status == 200


async def test_settings_announce_what_is_kept(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello, max_header_size=12_345)).url)
    assert client.settings == {3: 256, 4: 65_535, 6: 12_345, 9: 1}  # no ENABLE_CONNECT_PROTOCOL (8)


async def test_padding_and_priority_are_passed_over(start: Start, h2: Connect) -> None:
    client = await h2((await start(hello)).url)
    (head,) = client.head(client.fields("POST"), end=False)
    assert isinstance(head, HeadersFrame)
    head.flags.add("PADDED")
    head.flags.add("PRIORITY")
    head.pad_length, head.stream_weight = 30, 7
    client.send(head, DataFrame(1, b"body", pad_length=100, flags=["PADDED", "END_STREAM"]))
    answer = await client.response(1)
    assert (answer.status, bytes(answer.body)) == (200, b"/ body")


async def test_the_server_speaks_first(start: Start) -> None:
    """A client may wait for SETTINGS before it says anything but its preface (RFC 9113 section 3.4)."""
    raw = await connect((await start(hello)).url)
    assert (await raw.read_exactly(9))[3:] == b"\x04\x00\x00\x00\x00\x00"
    await raw.aclose()
