"""One upstream stream for several clients: each gets whole events, and none waits for another."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import Start, StartStack
from tests.conftest import Connect, Serve
from tests.doubles.connection import PeerEnded
from tests.doubles.stack import Config, route
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, stream_head

SSE = ("Content-Type", "text/event-stream")


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


def sharing(upstream: str, **share: object) -> Config:
    return route(upstream, share=share or {"slow": "disconnect"}, keepalive="off")


def in_turns(*chunks: bytes, head: bytes = b"") -> Script:
    """Sends its head, then each chunk, when its test lets it: `conn.go.set()`. An empty chunk is the end."""

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        conn.go.clear()
        await conn.send(head or stream_head())
        for chunk in chunks:
            await conn.stall()
            conn.go.clear()
            await conn.send_chunk(chunk)
        await conn.stall()

    return script


async def go(conn: Conn) -> None:
    await until(lambda: not conn.go.is_set(), "the upstream to wait")
    conn.go.set()


async def test_clients_of_one_key_read_one_upstream_stream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(in_turns(event(1), event(2), b""))
    proxy = await stack([sharing(upstream.url)])
    clients = [await dial(proxy.url) for _ in range(3)]
    for client in clients:
        await client.request("/a?b=1")
    await until(lambda: len(proxy.app.ledger.live) == 3, "three exchanges")
    conn = await upstream.connection()
    await go(conn)
    for client in clients:
        assert (await client.read_head()).status == 200
    assert proxy.metric("streamproxy_shared_clients", route="r0") == 2
    for number in (1, 2):
        await go(conn)
        for client in clients:
            assert await client.read_body_until(b"\n\n") == event(number)
    await go(conn)
    for client in clients:
        answer = await client.read_rest()
        assert answer.complete
    assert len(upstream.requests) == 1
    await until(lambda: not proxy.app.ledger.live, "all to end")
    assert proxy.metric("streamproxy_shared_clients", route="r0") == 0
    assert [exchange.events for exchange in proxy.ended] == [2, 2, 2]


async def test_other_paths_queries_and_owners_have_streams_of_their_own(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1)))
    proxy = await stack([sharing(upstream.url)])
    asks = [("/a", []), ("/b", []), ("/a?c", []), ("/a", [("Authorization", "Bearer x")]), ("/a", [("X-Api-Key", "y")])]
    for number, (target, headers) in enumerate(asks):
        client = await dial(proxy.url)
        await client.request(target, headers=headers)
        await upstream.request(number)
    # Those that come back with an id of the upstream's get what followed it, and not another's next event.
    for number in range(2):
        foreign = await dial(proxy.url)
        await foreign.request("/a", headers=[("Last-Event-ID", "7")])
        assert (await upstream.request(len(asks) + 2 * number)).get("last-event-id") == b"7"
        foreign = await dial(proxy.url)
        await foreign.request("/a?last_event_id=7")
        assert (await upstream.request(len(asks) + 2 * number + 1)).target == b"/a?last_event_id=7"


async def test_who_joins_inside_an_event_starts_with_the_next_one(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(b"data: 1\n\ndata: ", b"2\r\n", b"\r\ndata: 3\n\ndata: 4", b"\n\n"))
    proxy = await stack([sharing(upstream.url)])
    first, late = await dial(proxy.url), await dial(proxy.url)
    await first.request("/")
    conn = await upstream.connection()
    await go(conn)
    await first.read_head()
    await go(conn)
    await first.read_body_until(b"data: ")
    await late.request("/")
    assert (await late.read_head()).status == 200
    for _ in range(3):
        await go(conn)
    assert await late.read_body_until(b"4\n\n") == b"data: 3\n\ndata: 4\n\n"
    whole = await first.read_body_until(b"4\n\n")
    assert b"data: 2" not in bytes(late.decoded)
    assert whole.endswith(b"data: 3\n\ndata: 4\n\n")


@pytest.mark.parametrize(
    "answer",
    [
        response(b"data: 1\n\n", headers=[SSE, ("Set-Cookie", "a=b")]),
        response(b"data: 1\n\n", headers=[SSE, ("Content-Encoding", "br")]),
        response(b"data: 1\n\n", status="201 Created", headers=[SSE]),
        response(b"{}", headers=[("Content-Type", "application/json")]),
    ],
)
async def test_what_cannot_be_shared_is_asked_for_by_each(
    stack: StartStack, serve: Serve, dial: Connect, answer: bytes
) -> None:
    async def first(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        await conn.send(answer)

    upstream = await serve([first, answering(answer)])
    proxy = await stack([sharing(upstream.url)])
    clients = [await dial(proxy.url) for _ in range(3)]
    for client in clients:
        await client.request("/")
    await until(lambda: len(proxy.app.ledger.live) == 3, "three exchanges")
    (await upstream.connection()).go.set()
    for client in clients:
        assert (await client.read_response()).complete
    assert len(upstream.requests) == 3


async def test_over_max_clients_is_503_and_a_place_comes_free(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(in_turns(event(1)))
    proxy = await stack([sharing(upstream.url, max_clients=2)])
    clients = [await dial(proxy.url) for _ in range(3)]
    await clients[0].request("/")
    await go(await upstream.connection())
    await clients[0].read_head()
    await clients[1].request("/")
    await clients[1].read_head()
    await clients[2].request("/")
    refused = await clients[2].read_response()
    assert refused.status == 503
    clients[1].reset()
    await proxy.end_of(1)
    again = await dial(proxy.url)
    await again.request("/")
    assert (await again.read_head()).status == 200
    assert len(upstream.requests) == 1


async def test_the_stream_goes_on_without_its_first_client_and_ends_with_its_last(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1), event(2)))
    proxy = await stack([sharing(upstream.url)])
    first, second = await dial(proxy.url), await dial(proxy.url)
    await first.request("/")
    conn = await upstream.connection()
    await go(conn)
    await first.read_head()
    await second.request("/")
    await second.read_head()
    first.reset()
    exchange = next(iter(proxy.app.ledger.live.values()))
    await go(conn)
    assert await second.read_body_until(b"\n\n") == event(1)
    assert conn.ended is None
    second.reset()
    await conn.wait_ended()
    await until(lambda: len(proxy.ended) == 2, "both to end")
    assert exchange.end == "client_disconnect"


async def test_who_comes_within_linger_takes_the_stream_up(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(in_turns(event(1)))
    proxy = await stack([sharing(upstream.url, linger="30s")])
    first, second = await dial(proxy.url), await dial(proxy.url)
    await first.request("/")
    conn = await upstream.connection()
    await go(conn)
    await first.read_head()
    first.reset()
    await second.request("/")
    await second.read_head()
    await go(conn)
    assert await second.read_body_until(b"\n\n") == event(1)
    assert len(upstream.requests) == 1


async def test_who_waits_for_a_head_opens_the_stream_when_the_first_one_leaves(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def silent(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()

    upstream = await serve([silent, in_turns(event(1))])
    proxy = await stack([sharing(upstream.url)])
    first, second = await dial(proxy.url), await dial(proxy.url)
    await first.request("/")
    await upstream.request()
    await second.request("/")
    await until(lambda: len(proxy.app.ledger.live) == 2, "two exchanges")
    first.reset()
    await upstream.request(1)
    await go(await upstream.connection(1))
    assert (await second.read_head()).status == 200


async def test_a_cut_stream_is_cut_for_all(stack: StartStack, serve: Serve, dial: Connect) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(event(1))
        conn.close()

    upstream = await serve(script)
    proxy = await stack([sharing(upstream.url)])
    clients = [await dial(proxy.url) for _ in range(2)]
    for client in clients:
        await client.request("/")
        await client.read_head()
    (await upstream.connection()).go.set()
    for client in clients:
        with pytest.raises(PeerEnded):
            await client.read_body_until(b"never")
        assert bytes(client.decoded) == event(1)


def numbered(number: int) -> bytes:
    return b"data: %05d " % number + b"x" * 20_000 + b"\n\n"


def paced(count: int) -> Script:
    """So many events, the next one when the quick client has the last."""

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        for number in range(count):
            await conn.stall()
            conn.go.clear()
            await conn.send_chunk(numbered(number))
        await conn.stall()
        await conn.send_chunk(b"")

    return script


@pytest.mark.parametrize("slow_comes", ["first", "second"])
@pytest.mark.parametrize("slow", ["disconnect", "skip"])
async def test_a_slow_client_is_cut_or_misses_whole_events_and_slows_nobody(
    stack: StartStack, serve: Serve, dial: Connect, slow: str, slow_comes: str
) -> None:
    if slow == "disconnect" and slow_comes == "first" and stack.server != "uvicorn":
        pytest.skip("a stock server can't be told to cut the client whose exchange stands for the stream")
    count = 400
    upstream = await serve(paced(count))
    proxy = await stack([sharing(upstream.url, slow=slow)])
    lazy, quick = await dial(proxy.url, receive_buffer=4096), await dial(proxy.url)
    for client in (lazy, quick) if slow_comes == "first" else (quick, lazy):
        await client.request("/")
        await client.read_head()
    lazy.stop_reading()
    conn = await upstream.connection()
    for number in range(count):
        await go(conn)
        assert await quick.read_body_until(b"\n\n") == numbered(number)
    lazy.go_on_reading()
    await go(conn)
    assert (await quick.read_rest()).complete
    if slow == "disconnect":
        with pytest.raises(PeerEnded):
            await lazy.read_body_until(b"never")
        blocks = bytes(lazy.decoded).split(b"\n\n")[:-1]
    else:
        answer = await lazy.read_rest()
        assert answer.complete
        blocks = answer.body.split(b"\n\n")[:-1]
    known = [numbered(number)[:-2] for number in range(count)]
    assert all(block in known for block in blocks)
    assert 0 < len(blocks) < count
    assert blocks == sorted(blocks)


async def test_with_resume_every_client_has_a_cursor_that_it_can_come_back_by(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1), b"data: 2", b"\n\ndata: 3\n\n", event(4), b""))
    proxy = await stack([sharing(upstream.url) | {"resume": {"ids": "off"}}])
    first, late = await dial(proxy.url), await dial(proxy.url)
    await first.request("/")
    conn = await upstream.connection()
    await go(conn)
    begin = (await first.read_head()).get("x-stream-cursor")
    assert begin is not None
    stream = begin[:-2].decode()
    await go(conn)
    await go(conn)
    await first.read_body_until(b"data: 2")
    await late.request("/")
    await until(lambda: len(proxy.app.ledger.live) == 2, "two exchanges")
    await go(conn)
    head = await late.read_head()
    number = int((head.get("x-stream-cursor") or b"").rpartition(b"/")[2])
    assert number == 2  # behind the event in which it came
    await go(conn)
    assert await late.read_body_until(event(4)) == event(3) + event(4)
    late.reset()
    back = await dial(proxy.url)
    await back.request("/", headers=[("Last-Event-ID", f"{stream}/{number}")])
    assert (await back.read_head()).status == 200
    assert await back.read_body_until(event(4)) == event(3) + event(4)
    assert len(upstream.requests) == 1


async def test_with_resume_a_client_joins_a_stream_whose_reads_never_end_between_two_events(
    start: Start, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(b"data: 1", b"\n\ndata: 2", b"\n\ndata: 3", b"\n\ndata: 4"))
    proxy = await start([sharing(upstream.url) | {"resume": {"ids": "off"}}])
    first, late = await dial(proxy.url), await dial(proxy.url)
    await first.request("/")
    conn = await upstream.connection()
    await go(conn)
    await first.read_head()
    await go(conn)
    await first.read_body_until(b"data: 1")
    await late.request("/")
    await until(lambda: len(proxy.app.ledger.live) == 2, "two exchanges")
    for _ in range(3):
        await go(conn)
    assert ((await late.read_head()).get("x-stream-cursor") or b"").endswith(b"/1")
    assert await late.read_body_until(b"data: 4") == event(2) + event(3) + b"data: 4"


@pytest.mark.parametrize("resume", ["off", {"ids": "off"}])
async def test_who_joins_a_stream_of_cr_line_ends_starts_with_the_next_event(
    start: Start, serve: Serve, dial: Connect, resume: object
) -> None:
    upstream = await serve(in_turns(b"data: 1\r\r", b"data: 2\r\n\r", b"\ndata: 3\r\r", b"data: 4\r\r"))
    proxy = await start([sharing(upstream.url) | {"resume": resume}])
    clients = [await dial(proxy.url) for _ in range(3)]
    await clients[0].request("/")
    conn = await upstream.connection()
    await go(conn)
    await clients[0].read_head()
    for number, client in enumerate(clients[1:], 1):
        await go(conn)
        await clients[0].read_body_until(b"%d\r" % number)
        await client.request("/")
        head = await client.read_head()
        assert resume == "off" or (head.get("x-stream-cursor") or b"").endswith(b"/%d" % number)
    await go(conn)
    await go(conn)
    assert await clients[1].read_body_until(b"4\r\r") == b"data: 2\r\n\r\ndata: 3\r\rdata: 4\r\r"
    assert await clients[2].read_body_until(b"4\r\r") == b"data: 3\r\rdata: 4\r\r"


async def test_a_client_that_takes_nothing_ends_alone(stack: StartStack, serve: Serve, dial: Connect) -> None:
    if stack.server != "uvicorn":
        pytest.skip("a stock server can't be told to cut a client")
    upstream = await serve(paced(400))
    proxy = await stack([sharing(upstream.url, slow="skip") | {"timeouts": {"write": "200ms"}}])
    lazy, quick = await dial(proxy.url, receive_buffer=4096), await dial(proxy.url)
    await lazy.request("/")
    await lazy.read_head()
    owner = next(iter(proxy.app.ledger.live.values()))
    await quick.request("/")
    await quick.read_head()
    lazy.stop_reading()
    conn = await upstream.connection()
    for number in range(400):
        await go(conn)
        assert await quick.read_body_until(b"\n\n") == numbered(number)
    await until(lambda: not owner.blocked_since, "the slow client to be cut")
    await go(conn)
    assert (await quick.read_rest()).complete
    lazy.go_on_reading()
    with pytest.raises(PeerEnded):
        await lazy.read_body_until(b"never")
    await until(lambda: len(proxy.ended) == 2, "both to end")
    assert owner.end == "client_disconnect"


@pytest.mark.parametrize("ends", [True, False])
async def test_a_shared_stream_is_charged_once_and_judged_for_all(
    stack: StartStack, serve: Serve, dial: Connect, ends: bool
) -> None:
    usage = b'{"object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":60,"completion_tokens":50}}'
    last = b"data: [DONE]\n\n" if ends else b"data: {}\n\n"
    upstream = await serve(in_turns(b"data: " + usage + b"\n\n", last, b""))
    proxy = await stack([sharing(upstream.url) | {"protocol": "openai"}])
    clients = [await dial(proxy.url) for _ in range(3)]
    for client in clients:
        await client.request("/")
    await until(lambda: len(proxy.app.ledger.live) == 3, "three exchanges")
    conn = await upstream.connection()
    for _ in range(4):
        await go(conn)
    for client in clients:
        assert (await client.read_head()).status == 200
        assert (await client.read_rest()).complete is ends
    await until(lambda: not proxy.app.ledger.live, "all to end")
    assert len(upstream.requests) == 1
    assert proxy.metric("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 60
    assert proxy.metric("gen_ai_client_operation_duration_seconds_count") == 1
    assert {exchange.end for exchange in proxy.ended} == {"complete" if ends else "upstream_truncated"}
