"""Connections share the parser of request heads, and no head has bytes of another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamproxy.server.http1.heads import Heads
from streamproxy.wire.http1 import MAX_FIELDS
from tests.doubles.until import until
from tests.unit.server.harness import (
    GET,
    FakeTransport,
    Receive,
    Scope,
    Send,
    body_message,
    configure,
    connected,
    hello,
    read_body,
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


BODIES = st.sampled_from(["none", "sized", "chunked", "large", "upgrade", "te", "absolute"])


def request_with(kind: str, number: int) -> bytes:
    """A request of some kind, and with its body, in which there is a request that nobody may see."""
    body = b"GET /smuggled HTTP/1.1\r\nHost: b\r\nX-Number: 0\r\n\r\n" * (1200 if kind == "large" else 1)
    extra = {
        "none": b"",
        "sized": b"Content-Length: %d\r\n" % len(body),
        "large": b"content-LENGTH: %d\r\nConnection: Keep-Alive\r\n" % len(body),
        "chunked": b"Transfer-Encoding: Chunked\r\n",
        "upgrade": b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: %d\r\n" % len(body),
        "te": b"TE: trailers\r\nConnection: te\r\n",
        "absolute": b"",
    }[kind]
    if kind == "chunked":
        body = b"%x\r\n%b\r\n0\r\nX-Number: 0\r\n\r\n" % (len(body), body)
    elif kind in ("none", "te", "absolute"):
        body = b""
    target = b"http://c/%d" if kind == "absolute" else b"/%d"
    return (b"POST " + target + b" HTTP/1.1\r\nHost: a\r\n%bX-Number: %d\r\n\r\n%b") % (number, extra, number, body)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
async def test_heads_stay_as_they_are_behind_bodies_of_any_connection_read_or_not(data: st.DataObject) -> None:
    seen: list[tuple[str, bytes, bytes]] = []
    unread = set(data.draw(st.lists(st.integers(0, 35))))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = dict(scope["headers"])
        number = fields[b"x-number"]
        seen.append((scope["path"], number, fields[b"host"]))
        if int(number) not in unread:
            await read_body(receive)
        await send(start_message(204))
        await send(body_message())

    count = data.draw(st.integers(1, 3))
    config = configure(app)
    ends = [connected(config) for _ in range(count)]
    kinds = [data.draw(st.lists(BODIES, min_size=2, max_size=6)) for _ in ends]
    left = [
        bytearray(b"".join(request_with(kind, 10 * end + at) for at, kind in enumerate(each)))
        for end, each in enumerate(kinds)
    ]
    while any(left):
        at = data.draw(st.sampled_from([index for index, rest in enumerate(left) if rest]))
        size = data.draw(st.integers(1, 300) | st.just(len(left[at])))
        ends[at][0].data_received(bytes(left[at][:size]))
        del left[at][:size]
        await turns()
    # An unread body of more than 64 KiB may end its connection; what was seen before is seen as it was sent.
    wanted = [
        [(f"/{10 * end + at}", b"%d" % (10 * end + at), b"c" if kind == "absolute" else b"a") for at, kind in pairs]
        for end, pairs in enumerate(map(list, map(enumerate, kinds)))
    ]
    await until(
        lambda: all(
            transport.ended or answers(transport) == len(kind) for (_, transport), kind in zip(ends, kinds, strict=True)
        )
    )
    for end, (protocol, transport) in enumerate(ends):
        assert b"HTTP/1.1 400 " not in transport.data
        own = [one for one in seen if int(one[1]) // 10 == end]
        assert own == wanted[end][: len(own)]
        assert len(own) == len(wanted[end]) or transport.ended
        protocol.connection_lost(None)
    assert sum(answers(transport) for _, transport in ends) == len(seen)


def answers(transport: FakeTransport) -> int:
    return transport.data.count(b"HTTP/1.1 204 ")


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
