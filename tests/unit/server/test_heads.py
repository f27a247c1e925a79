"""Connections share the parser of request heads, and no head has bytes of another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamproxy.server.http1.heads import Heads
from streamproxy.wire.http1 import MAX_FIELDS
from tests.doubles.until import until
from tests.unit.server.harness import (
    GET,
    Receive,
    Scope,
    Send,
    body_message,
    configure,
    connected,
    hello,
    start_message,
    turns,
)


def request(number: int) -> bytes:
    return f"GET /{number} HTTP/1.1\r\nHost: a\r\nX-Number: {number}\r\n\r\n".encode()


@settings(deadline=None, max_examples=15)
@given(data=st.data())
async def test_heads_that_come_in_pieces_at_once_stay_apart(data: st.DataObject) -> None:
    seen: list[tuple[str, bytes]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], dict(scope["headers"])[b"x-number"]))
        await send(start_message(204))
        await send(body_message())

    count = data.draw(st.integers(2, 5))
    config = configure(app)
    ends = [connected(config) for _ in range(count)]
    left = [bytearray(request(number) + request(number + 100)) for number in range(count)]
    while any(left):
        at = data.draw(st.sampled_from([index for index, rest in enumerate(left) if rest]))
        size = data.draw(st.integers(1, len(left[at])))
        ends[at][0].data_received(bytes(left[at][:size]))
        del left[at][:size]
        await turns()
    await until(lambda: len(seen) == 2 * count)
    for protocol, _ in ends:
        protocol.connection_lost(None)
    assert sorted(seen) == sorted((f"/{n + more}", b"%d" % (n + more)) for n in range(count) for more in (0, 100))


async def test_a_refused_head_leaves_nothing_to_the_next_connection() -> None:
    config = configure(hello)
    bad, refused = connected(config)
    bad.data_received(b"GET /bad HTTP/1.1\r\nX-Left: behind\r\nBroken\r\n\r\n")
    assert refused.data.startswith(b"HTTP/1.1 400 ")
    good, answered = connected(config)
    good.data_received(GET)
    await until(lambda: b"\r\n\r\n" in answered.data)
    assert answered.data.startswith(b"HTTP/1.1 200 ")
    for protocol in (bad, good):
        protocol.connection_lost(None)


def test_a_parser_is_lent_to_one_at_a_time() -> None:
    heads = Heads(1000, MAX_FIELDS)
    one, other = heads.take(), heads.take()
    assert one is not other
    assert one.feed(GET) == b""
    one.forget()
    heads.spare = one
    assert heads.take() is one
    assert (one.headers, one.begun) == ([], False)
