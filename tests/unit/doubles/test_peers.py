"""The scripted upstream and the raw client, tested against each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.until import until
from tests.doubles.upstream import Conn, FullBacklog, Script, Upstream, answering, response, stream_head, streaming

HEAD = stream_head()


async def test_exact_bytes_go_both_ways(serve: Serve, dial: Connect) -> None:
    sent = b"PoST //a%2Fb?  HTTP/1.1\r\nhost:x\r\nX-A: 1\r\nx-a:  2 \r\n\r\n"
    answer = b"HTTP/1.1 299 Odd\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\nrest"

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(answer)

    upstream = await serve(script)
    client = await dial(upstream.url)
    await client.send(sent)
    received, ended = await client.read_all()
    assert (received, ended.how) == (answer, "eof")
    head = await upstream.request()
    assert head.raw == sent
    assert (head.method, head.target) == (b"PoST", b"//a%2Fb?")
    assert head.names == [b"host", b"X-A", b"x-a"]
    assert head.all("X-A") == [b"1", b"2"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upstream_reads_the_body_that_a_request_announces(serve: Serve, dial: Connect, chunked: bool) -> None:
    bodies = []

    async def script(conn: Conn) -> None:
        bodies.append((await conn.read_request())[1])
        await conn.send(response(b"ok"))

    client = await dial((await serve(script)).url)
    framing = b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n"
    await client.send(b"POST / HTTP/1.1\r\n" + (framing if chunked else b"Content-Length: 3\r\n\r\nabc"))
    assert (await client.read_response()).body == b"ok"
    assert bodies == [b"abc"]


async def test_a_kept_alive_connection_is_answered_again_and_again(serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"one"), response(b"two")))
    client = await dial(upstream.url)
    assert [(await client.get(path)).body for path in ("/1", "/2", "/3")] == [b"one", b"two", b"two"]
    assert [head.target for head in upstream.requests] == [b"/1", b"/2", b"/3"]
    assert len(upstream.connections) == 1


def once(raw: bytes) -> Script:
    """A script that answers the first request with these bytes, then closes."""

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(raw)

    return script


@pytest.mark.parametrize(
    ("raw", "body", "complete"),
    [
        (HEAD + b"3\r\nabc\r\n0\r\n\r\n", b"abc", True),
        (HEAD + b"3\r\nabc\r\n", b"abc", False),
        (HEAD + b"6\r\nabc", b"abc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", b"abc", False),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    ],
)
async def test_a_client_knows_a_whole_response_from_a_cut_one(
    serve: Serve, dial: Connect, raw: bytes, body: bytes, complete: bool
) -> None:
    client = await dial((await serve(once(raw))).url)
    answer = await client.get()
    assert (answer.body, answer.complete) == (body, complete)


async def test_a_response_that_a_reset_ends_is_never_complete(serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await conn.stall()
        conn.reset()

    upstream = await serve(script)
    client = await dial(upstream.url)
    await client.request()
    await client.read_head()
    assert await client.read_piece() == b"abc"
    (await upstream.connection()).go.set()
    answer = await client.read_rest()
    assert not answer.complete
    assert answer.ended is not None
    assert answer.ended.how == "reset"


async def test_interim_responses_are_kept_apart(serve: Serve, dial: Connect) -> None:
    client = await dial((await serve(once(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"x")))).url)
    answer = await client.get()
    assert (answer.status, [head.status for head in answer.interim], answer.body) == (200, [100], b"x")


@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_an_upstream_learns_how_and_when_its_peer_left(serve: Serve, dial: Connect, how: str) -> None:
    upstream = await serve(Conn.stall)
    client = await dial(upstream.url)
    conn = await upstream.connection()
    before = asyncio.get_running_loop().time()
    if how == "eof":
        client.close()
    else:
        client.reset()
    ended = await conn.wait_ended()
    assert ended.how == how
    assert before <= ended.at <= asyncio.get_running_loop().time()
    assert upstream.open_connections == []
    conn.go.set()


async def test_a_script_whose_peer_leaves_ends_quietly(serve: Serve, dial: Connect) -> None:
    finished = asyncio.Event()

    async def script(conn: Conn) -> None:
        try:
            await conn.read_head()
        finally:
            finished.set()

    client = await dial((await serve(script)).url)
    client.close()
    await finished.wait()


async def test_a_scripts_own_error_is_raised_when_the_upstream_is_left(dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        raise ValueError("the script is wrong")

    async def run() -> None:
        async with Upstream(script) as upstream:
            await (await dial(upstream.url)).wait_ended()

    with pytest.raises(ValueError, match="the script is wrong"):
        await run()


async def test_a_half_closed_client_still_reads_its_response(serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        head = await conn.read_head()
        await conn.wait_ended()
        await conn.send(response(head.target))

    client = await dial((await serve(script)).url)
    await client.request("/half")
    client.half_close()
    assert (await client.read_response()).body == b"/half"


async def test_a_client_that_stops_reading_holds_the_upstream_back(serve: Serve, dial: Connect) -> None:
    size = 32 * 1024 * 1024

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(response(bytes(size)))

    upstream = await serve(script)
    client = await dial(upstream.url, receive_buffer=4096)
    client.stop_reading()
    await client.request()
    conn = await upstream.connection()
    await until(lambda: conn.sent)
    assert conn.taken < size
    client.go_on_reading()
    answer = await client.read_response()
    assert (len(answer.body), answer.complete, conn.taken) == (size, True, conn.sent)


async def test_events_are_read_one_by_one_from_a_chunked_body(serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b"data: 1\n\nda", b"ta: 2\n", b"\n"))
    client = await dial(upstream.url)
    await client.request()
    assert (await client.read_head()).get("content-type") == b"text/event-stream"
    events = [await client.read_body_until(b"\n\n") for _ in range(2)]
    assert events == [b"data: 1\n\n", b"data: 2\n\n"]
    assert (await client.read_rest()).complete


async def test_an_upstream_comes_back_on_the_same_port(serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    url = upstream.url
    await upstream.stop()
    with pytest.raises(ConnectionRefusedError):
        await dial(url)
    await upstream.start()
    assert upstream.url == url
    assert (await fetch(url)).body == b"ok"


async def test_the_nth_connection_runs_the_nth_script(serve: Serve) -> None:
    upstream = await serve([once(response(b"first")), once(response(b"later"))])
    assert [(await fetch(upstream.url)).body for _ in range(3)] == [b"first", b"later", b"later"]


async def test_a_full_backlog_answers_no_connection(dial: Connect) -> None:
    async with FullBacklog() as nowhere:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dial(nowhere.url)


async def test_an_upstream_on_a_unix_socket(serve: Serve, dial: Connect, tmp_path: Path) -> None:
    await serve(answering(response(b"unix")), path=tmp_path / "u.sock")
    client = await dial(f"unix:{tmp_path}/u.sock")
    assert (await client.get()).body == b"unix"


async def test_an_upstream_with_tls(serve: Serve, dial: Connect, certificate: Certificate) -> None:
    upstream = await serve(answering(response(b"tls")), tls=certificate.server_context())
    client = await dial(upstream.url, tls=certificate.client_context())
    assert (await client.get()).body == b"tls"
    client.close()
    assert (await (await upstream.connection()).wait_ended()).how == "eof"


async def test_reading_past_the_peers_end_says_what_came(serve: Serve, dial: Connect) -> None:
    client = await dial((await serve(once(b"HTTP/1.1 200 O"))).url)
    await client.request()
    with pytest.raises(PeerEnded) as caught:
        await client.read_head()
    assert caught.value.partial == b"HTTP/1.1 200 O"
