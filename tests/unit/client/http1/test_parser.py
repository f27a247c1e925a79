"""The parser's side of a connection against h11, and against garbage; no loop is needed."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamproxy.client.http1.known import known_heads
from streamproxy.client.http1.response import ResponseParser
from streamproxy.client.http1.response_head import announced_lifetime
from streamproxy.errors import BadResponse, ResponseIncomplete
from streamproxy.wire.headers import Headers
from streamproxy.wire.times import FOREVER


def spelled(letters: bytes, min_size: int, max_size: int) -> st.SearchStrategy[bytes]:
    """Words of these bytes: each is drawn at once, which takes a fraction of the time that its letters would."""
    table = bytes(letters[number % len(letters)] for number in range(256))
    return st.binary(min_size=min_size, max_size=max_size).map(lambda raw: raw.translate(table))


TOKEN = spelled(b"abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+-.^_`|~", 1, 12)
VISIBLE = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
VALUE = spelled(VISIBLE + b" " * 16, 0, 24).map(lambda value: value.strip(b" "))
SPACE = st.sampled_from([b"", b" ", b"\t", b"  "])
FRAMES = (b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"proxy-connection", b"keep-alive")


class Outcome(NamedTuple):
    """What came of a response: h11's view or ours."""

    status: int
    headers: Headers
    body: bytes
    complete: bool


@st.composite
def fields(draw: st.DrawFn) -> list[bytes]:
    """Field lines that say nothing of framing."""
    return [
        name + b":" + draw(SPACE) + draw(VALUE) + draw(SPACE) + b"\r\n"
        for name in draw(st.lists(TOKEN, max_size=5))
        if name.lower() not in FRAMES
    ]


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body cut into chunks, with extensions and trailers."""
    out = b""
    while body:
        size = draw(st.integers(1, len(body)))
        spelling = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"000%X"])) % size
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b";a=b;c"]))
        out += spelling + extension + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailers = draw(st.sampled_from([b"", b"X-T: 1\r\n", b"X-T: 1\r\nX-U:\r\n"]))
    return out + draw(st.sampled_from([b"0", b"000", b"0;a=b"])) + b"\r\n" + trailers + b"\r\n"


@st.composite
def responses(draw: st.DrawFn) -> tuple[str, bytes]:
    """A request's method, and the bytes of a response to it that is complete when the connection ends."""
    method = draw(st.sampled_from(["GET", "GET", "POST", "HEAD"]))
    interim = b"".join(
        b"HTTP/1.1 %d X\r\n%s\r\n" % (status, b"".join(draw(fields())))
        for status in draw(st.lists(st.sampled_from([100, 102, 103, 104]), max_size=2))
    )
    status = draw(st.sampled_from([200, 200, 201, 204, 206, 304, 404, 413, 500, 599]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    body = draw(st.binary(max_size=200))
    framing = draw(st.sampled_from(["sized", "chunked", "close"] if version == b"1.1" else ["sized", "close"]))
    lines = draw(fields())
    if framing == "sized":
        lines.append(b"Content-Length: %d\r\n" % len(body))
    elif framing == "chunked":
        lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:chunked \r\n"])))
        body = draw(chunked(body))
    head = b"HTTP/%s %d %s\r\n" % (version, status, draw(st.sampled_from([b"OK", b"", b"Two words"])))
    if method == "HEAD" or status in (204, 304):
        body = b""
    return method, interim + head + b"".join(draw(st.permutations(lines))) + b"\r\n" + body


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data in reads; no read is empty."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


def ours(method: str, reads: list[bytes]) -> tuple[ResponseParser, Outcome]:
    """The response as our parser sees it, up to the end of the connection."""
    parser = ResponseParser()
    parser.begin(method)
    body = b""
    for data in reads:
        if parser.done or parser.fault is not None:
            break
        body += parser.feed(data)
    complete = parser.done or (parser.ends_with_connection and parser.fault is None)
    return parser, Outcome(parser.status, parser.headers or [], body, complete)


def h11s(method: str, reads: list[bytes]) -> Outcome:
    """The response as h11 sees it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    status, headers, body, complete = 0, [], b"", False
    try:
        for data in [*reads, b""]:
            connection.receive_data(data)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status, headers = event.status_code, list(event.headers)
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    complete = True
                    break
                elif isinstance(event, h11.ConnectionClosed):
                    break
            if complete:
                break
    except h11.RemoteProtocolError:
        pass
    return Outcome(status, headers, body, complete)


@settings(max_examples=400, deadline=None)
@given(responses(), st.lists(st.integers(0, 2000), max_size=12))
def test_any_response_in_any_reads_is_what_h11_says(response: tuple[str, bytes], cuts: list[int]) -> None:
    method, data = response
    reads = split(data, cuts)
    parser, outcome = ours(method, reads)
    assert parser.fault is None
    assert outcome == h11s(method, reads)
    assert outcome.complete


@settings(max_examples=300, deadline=None)
@given(responses(), st.integers(0, 2000), st.lists(st.integers(0, 2000), max_size=5))
def test_a_response_cut_anywhere_is_complete_only_if_h11_says_so(
    response: tuple[str, bytes], end: int, cuts: list[int]
) -> None:
    method, data = response
    reads = split(data[: end % len(data)], cuts)
    _, outcome = ours(method, reads)
    assert outcome == h11s(method, reads)


@settings(max_examples=150, deadline=None)
@given(responses(), responses(), st.lists(st.integers(0, 2000), max_size=8))
def test_the_next_response_on_the_connection_is_not_touched_by_the_one_before(
    first: tuple[str, bytes], second: tuple[str, bytes], cuts: list[int]
) -> None:
    parser, _ = ours(first[0], split(first[1], cuts))
    if not parser.done or not parser.framing.keep_alive or parser.stray:
        return
    parser.begin(second[0])
    body = b"".join([parser.feed(data) for data in split(second[1], cuts)])
    assert parser.fault is None
    assert (parser.status, parser.headers, body) == h11s(second[0], [second[1]])[:3]


OPTION = st.sampled_from(
    [b"keep-alive", b"Keep-Alive", b"close", b"CLOSE", b"upgrade", b"", b"keep-alive close", b"closex"]
)
OPTIONS = st.lists(OPTION, min_size=1, max_size=2).map(b",".join)
FRAMING = {
    b"Connection": OPTIONS,
    b"Proxy-Connection": OPTIONS,
    b"Content-Length": st.sampled_from([b"0", b"00", b"3", b"03", b"65536", b"65537"]),
    b"Transfer-Encoding": st.sampled_from([b"chunked", b"Chunked"]),
    b"Upgrade": st.just(b"h2c"),
    b"X": st.sampled_from([b"", b"y"]),
}


@st.composite
def framed(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method, and the head of a response to it that says anything of its framing."""
    fields = b""
    for name in draw(st.lists(st.sampled_from(sorted(FRAMING)), max_size=3)):
        spelt = draw(st.sampled_from([name, name.lower(), name.upper()]))
        fields += spelt + b":" + draw(SPACE) + draw(FRAMING[name]) + draw(SPACE) + b"\r\n"
    status = draw(st.sampled_from([200, 200, 200, 204, 205, 304, 404]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    return draw(st.sampled_from(["GET", "GET", "HEAD"])), b"HTTP/%b %d X\r\n%b\r\n" % (version, status, fields)


def skip_body(parser: ResponseParser) -> bool:
    """Feeds the body of a response. Returns whether another one may follow."""
    if not parser.framing.keep_alive:
        return False
    if not parser.done:
        parser.feed(b"3\r\nabc\r\n0\r\n\r\n" if parser.framing.chunked else bytes(parser.framing.length or 0))
    return parser.done


@settings(max_examples=300, deadline=None)
@given(st.lists(framed(), min_size=2, max_size=5))
@example([("GET", b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\t\r\n\r\n")] * 2)
@example([("GET", b"HTTP/1.1 204 X\r\nProxy-Connection: close\r\n\r\n")] * 2)
def test_the_responses_before_make_no_difference_to_a_head(heads: list[tuple[str, bytes]]) -> None:
    parser = ResponseParser()
    for method, raw in heads:
        new = ResponseParser()
        for one in (new, parser):
            known_heads.clear()
            one.begin(method)
            one.feed(raw)
        assert_same_head(parser, new)
        if new.fault is not None or not skip_body(parser):
            break


def assert_same_head(one: ResponseParser, other: ResponseParser) -> None:
    assert str(one.fault) == str(other.fault)
    if one.fault is None:
        assert (one.status, one.reason, one.http_version) == (other.status, other.reason, other.http_version)
        assert (one.headers, one.framing, one.done) == (other.headers, other.framing, other.done)
        assert (one.lifetime, one.read, one.continued) == (other.lifetime, other.read, other.continued)


@settings(max_examples=300, deadline=None)
@given(st.lists(framed(), min_size=1, max_size=5), st.sampled_from([b"", b"HTTP/1.1 103 X\r\nA: b\r\n\r\n"]))
def test_a_head_that_came_before_is_read_as_if_it_had_not(heads: list[tuple[str, bytes]], early: bytes) -> None:
    """The third turn recalls some heads, and parses the others."""
    known_heads.clear()
    parser = ResponseParser()
    for method, raw in heads * 3:
        came, recalled = known_heads.once.copy(), known_heads.known.copy()
        new = ResponseParser()
        new.lifetime = parser.lifetime
        known_heads.clear()
        new.begin(method)
        new.feed(early + raw)
        known_heads.clear()
        known_heads.once.update(came)
        known_heads.known.update(recalled)
        parser.begin(method)
        parser.feed(early + raw)
        assert_same_head(parser, new)
        if new.fault is not None or not skip_body(parser):
            parser = ResponseParser()


def parsed(raw: bytes, method: str = "GET", *, upgrade: bool = False) -> ResponseParser:
    parser = ResponseParser()
    parser.begin(method, None, upgrade)
    parser.feed(raw)
    assert parser.headers is not None
    return parser


def test_final_heads_in_one_piece_are_remembered_unless_a_head_was_asked_for() -> None:
    raw = b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nKeep-Alive: timeout=9\r\n\r\n"
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: %b\r\n\r\n" % (b"y" * 2048)
    switch = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    known_heads.clear()
    for _ in range(3):
        parsed(raw, "HEAD")
        parsed(long)
        parsed(switch, upgrade=True)
        parsed(b"HTTP/1.1 103 X\r\n\r\n" + raw)
        parser = ResponseParser()
        parser.begin("GET")
        parser.feed(raw[:9])
        parser.feed(raw[9:])
    assert not known_heads.known
    for _ in range(2):
        assert not known_heads.known
        assert parsed(raw + b"a").known is None
    assert known_heads.known.keys() == {raw}
    again = parsed(raw + b"ab")
    assert again.known is known_heads.known[raw]
    assert (again.reason, again.lifetime, again.done) == (b"Fine", 8.0, True)
    assert parsed(raw, "HEAD").known is None
    again.begin("GET")
    assert again.known is None


def test_whoever_changes_the_fields_of_a_response_changes_no_other() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 2\r\nCache-Control: private\r\n\r\n"
    known_heads.clear()
    parsed(raw)
    parsed(raw)
    made = []
    for _ in range(3):
        known = parsed(raw).known
        assert known is not None
        fields = known.fields()
        assert fields.told_length
        fields.drop_length()
        fields.pass_on(b"id", b"date")
        fields.unbuffer()
        made.append((fields.kept, fields.noted))
    assert made[0] == made[1] == made[2]
    assert b"content-length" not in made[0][1]


def test_what_is_remembered_of_heads_is_bounded() -> None:
    for number in range(1000):
        for _ in range(3):
            parsed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number)
    assert 0 < len(known_heads.known) <= 256
    assert 0 < len(known_heads.once) <= 256


def mutated(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The data with some of it replaced."""
    for position, length, replacement in edits:
        start = position % (len(data) + 1)
        data = data[:start] + replacement + data[start + length :]
    return data


EDITS = st.lists(
    st.tuples(
        st.integers(0, 2000),
        st.integers(0, 4),
        st.one_of(st.binary(max_size=3), st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"0\r\n\r\n"])),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=600, deadline=None)
@given(responses(), EDITS, st.lists(st.integers(0, 2000), max_size=20))
def test_garbage_gives_a_response_or_one_of_our_errors_whatever_the_reads(
    response: tuple[str, bytes], edits: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    method, data = response
    data = mutated(data, edits)
    whole, outcome = ours(method, [data] if data else [])
    parts, outcome_of_parts = ours(method, split(data, cuts))
    assert outcome == outcome_of_parts
    assert type(whole.fault) is type(parts.fault)
    assert isinstance(whole.fault, BadResponse | ResponseIncomplete | None)
    assert isinstance(whole.fault, BadResponse) == (whole.fault is not None and whole.headers is None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 2000), max_size=5))
def test_random_bytes_are_refused(noise: bytes, cuts: list[int]) -> None:
    for data in (noise, b"HTTP/1.1 200 OK\r\n" + noise):
        parser, outcome = ours("GET", split(data, cuts))
        if parser.fault is not None:
            assert isinstance(parser.fault, BadResponse | ResponseIncomplete)
        else:
            assert outcome.complete or not parser.done


@pytest.mark.parametrize("stray", [b"\0", b"x", b"x\0", b"x\0\0y", b"0\r\n\r\n\0", b"HTTP/1.1 200 OK\r\n\0"])
@pytest.mark.parametrize("head", [b"204 No Content\r\n", b"200 OK\r\nContent-Length: 0\r\n"])
def test_a_nul_behind_a_response_is_not_fed_to_a_parser_that_has_refused_it(head: bytes, stray: bytes) -> None:
    parser, outcome = ours("GET", [b"HTTP/1.1 " + head + b"\r\n" + stray])
    assert (parser.stray, parser.fault, outcome.complete) == (True, None, True)


def test_an_upstreams_word_on_idle_connections_is_heard() -> None:
    assert announced_lifetime([(b"keep-alive", b"timeout=5")]) == 4
    assert announced_lifetime([(b"keep-alive", b"max=100, Timeout=75")]) == 74
    assert announced_lifetime([(b"keep-alive", b"timeout=1")]) == 0.5
    assert 0 < announced_lifetime([(b"keep-alive", b"timeout=0")]) < 0.1
    assert announced_lifetime([(b"keep-alive", b"nottimeout=5")]) == FOREVER
    assert announced_lifetime([(b"keep-alive", b"max=5")]) == FOREVER
    assert announced_lifetime([]) == FOREVER
