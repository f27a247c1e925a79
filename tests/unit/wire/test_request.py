"""Request heads, read from any split of their bytes."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import BadRequest, HeadTooLarge, NotImplementedHere, Rejected
from streamproxy.wire import headers, http1, request
from streamproxy.wire.http1 import Framing
from streamproxy.wire.request import RequestHead

HEAD = (
    b"POST /a%20b//c?x=1&&y HTTP/1.1\r\n"
    b"Host: a.example:80\r\n"
    b"X-Empty:\r\n"
    b"X-Spaces: \t a b \t \r\n"
    b"x-twice: 1\r\n"
    b"X-Twice: 2\r\n"
    b"X-Bytes: \xc3\xa4\xff\r\n"
    b"Content-Length: 4\r\n"
    b"\r\n"
)
HEADERS = [
    (b"host", b"a.example:80"),
    (b"x-empty", b""),
    (b"x-spaces", b"a b"),
    (b"x-twice", b"1"),
    (b"x-twice", b"2"),
    (b"x-bytes", b"\xc3\xa4\xff"),
    (b"content-length", b"4"),
]


def read(*pieces: bytes, max_size: int = 65536, max_fields: int = 100) -> tuple[RequestHead, bytes | None]:
    head = RequestHead(max_size, max_fields)
    rest: bytes | None = None
    for index, piece in enumerate(pieces):
        rest = head.feed(piece)
        if rest is not None:
            return head, rest + b"".join(pieces[index + 1 :])
    return head, rest


def check(head: RequestHead, rest: bytes | None) -> None:
    assert (head.method, head.target, head.version) == ("POST", b"/a%20b//c?x=1&&y", "1.1")
    assert (head.path, head.raw_path, head.query) == ("/a b//c", b"/a%20b//c", b"x=1&&y")
    assert head.headers == HEADERS
    assert head.framing == Framing(4, False, True)
    assert rest == b"body\r\n\r\n"


@pytest.mark.parametrize("at", range(1, len(HEAD) + 8))
def test_a_head_is_the_same_however_it_is_cut_in_two(at: int) -> None:
    whole = HEAD + b"body\r\n\r\n"
    check(*read(whole[:at], whole[at:]))


@given(st.lists(st.integers(1, len(HEAD) + 7), unique=True).map(sorted))
def test_a_head_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    whole = HEAD + b"body\r\n\r\n"
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    check(*read(*(piece for piece in pieces if piece)))


def test_empty_lines_before_a_request_are_ignored() -> None:
    head, rest = read(b"\r\n", b"\r\n\r", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (head.method, rest) == ("GET", b"")


def test_a_head_that_is_not_complete_says_so() -> None:
    head, rest = read(HEAD[:-1])
    assert rest is None
    assert head.begun


GOOD = b"Host: a\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET  / HTTP/1.1\r\n" + GOOD,
        b"GET /  HTTP/1.1\r\n" + GOOD,
        b" GET / HTTP/1.1\r\n" + GOOD,
        b"GET\t/ HTTP/1.1\r\n" + GOOD,
        b"GET / HTTP/1.1 \r\n" + GOOD,
        b"GET / HTTP/1.2\r\n" + GOOD,
        b"GET / HTTP/2.0\r\n" + GOOD,
        b"GET / HTTP/0.9\r\n" + GOOD,
        b"GET / http/1.1\r\n" + GOOD,
        b"GET / RTSP/1.0\r\n" + GOOD,
        b"ANNOUNCE / RTSP/1.0\r\n" + GOOD,
        b"SOURCE / ICE/1.0\r\n" + GOOD,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET\r\n\r\n",
        b"G(T / HTTP/1.1\r\n" + GOOD,
        b"G\xc3\xa4T / HTTP/1.1\r\n" + GOOD,
        b"GET: / HTTP/1.1\r\n" + GOOD,
        b"/ HTTP/1.1\r\n" + GOOD,
        *(b"GET /a%bb HTTP/1.1\r\n" % bytes((byte,)) + GOOD for byte in (*range(0x21), 0x7F)),
        b"GET /a\nX: HTTP/1.1\r\n" + GOOD,
        b"GET /a\rX: HTTP/1.1\r\n" + GOOD,
        b"GET http://b/\n HTTP/1.1\r\n" + GOOD,
        b"GET /a#b HTTP/1.1\r\n" + GOOD,
        b"GET * HTTP/1.1\r\n" + GOOD,
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nX: a\x01b\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nX\r\n" + GOOD,
        b"GET / HTTP/1.1\r\n: a\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nX(y): a\r\n" + GOOD,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nContent-Length: 0x1\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n" + GOOD,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n" + GOOD,
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + GOOD,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_malformed_or_ambiguous_head_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        read(raw)
    with pytest.raises(BadRequest):
        read(*(raw[at : at + 1] for at in range(len(raw))))


def test_garbage_is_refused_before_its_head_ends() -> None:
    with pytest.raises(BadRequest):
        read(b"GET / HTTP/1.1\nHost")


@pytest.mark.parametrize("method", [b"BREW", b"Purge", b"get", b"M-SEARCH", b"!#$%&'*+-.^_`|~0aZ", b"X" * 2000, b"PRI"])
def test_any_token_is_a_method_and_keeps_its_case(method: bytes) -> None:
    raw = method + b" /a HTTP/1.1\r\nX: y\r\n" + GOOD
    for pieces in ([raw], [raw[at : at + 1] for at in range(len(raw))]):
        head, rest = read(*pieces)
        assert (head.method.encode(), head.target, rest) == (method, b"/a", b"")
        assert head.headers == [(b"x", b"y"), (b"host", b"a")]


def test_bytes_from_0x80_up_pass_in_a_target() -> None:
    target = b"/\xc3\xa4?q=" + bytes(range(0x80, 0x100))
    head, _ = read(b"GET " + target + b" HTTP/1.1\r\n" + GOOD)
    assert (head.target, head.path, head.query) == (target, "/ä", bytes(b"q=" + bytes(range(0x80, 0x100))))
    assert read(b"GET /\xff HTTP/1.1\r\n" + GOOD)[0].path == "/\ufffd"


@given(st.binary(max_size=12))
def test_a_target_is_kept_byte_for_byte_or_refused(target: bytes) -> None:
    raw = b"GET /" + target + b" HTTP/1.1\r\n" + GOOD
    if any(byte <= 0x20 or byte == 0x7F or byte == ord("#") for byte in target):
        with pytest.raises(BadRequest):
            read(raw)
    else:
        assert read(raw)[0].target == b"/" + target


@pytest.mark.parametrize("begun", [b"GET /a\n", b"G\x00", b"\x16", b"GET / HTTP/2", b"GET / / ", b"X" * 1500 + b"\x7f"])
def test_a_first_line_that_can_not_become_good_is_refused_before_it_ends(begun: bytes) -> None:
    with pytest.raises(BadRequest):
        read(begun)
    with pytest.raises(BadRequest):
        read(*(begun[at : at + 1] for at in range(len(begun))))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"TE: trailers\r\n", True),
        (b"Connection: TE\r\nTE: gzip;q=0.5, Trailers\r\n", True),
        (b"TE: gzip\r\n", False),
        (b"TE: trailers;q=0\r\n", False),
        (b"", False),
    ],
)
def test_a_client_that_takes_trailers_says_so(fields: bytes, expected: bool) -> None:
    assert read(b"GET / HTTP/1.1\r\n" + fields + GOOD)[0].takes_trailers is expected
    assert not read(b"GET / HTTP/1.0\r\n" + fields + GOOD)[0].takes_trailers


def test_connect_is_not_implemented() -> None:
    with pytest.raises(NotImplementedHere):
        read(b"CONNECT a:443 HTTP/1.1\r\n" + GOOD)


def test_a_head_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert read(HEAD, max_size=len(HEAD))[1] == b""
    with pytest.raises(HeadTooLarge):
        read(HEAD, max_size=len(HEAD) - 1)
    with pytest.raises(HeadTooLarge):
        read(*(HEAD[at : at + 1] for at in range(len(HEAD))), max_size=len(HEAD) - 1)


def test_a_head_without_an_end_is_refused_at_the_limit() -> None:
    head = RequestHead(100, 100)
    assert head.feed(b"GET / HTTP/1.1\r\nX: ") is None
    with pytest.raises(HeadTooLarge):
        head.feed(b"a" * 100)


def test_a_slow_head_is_held_once() -> None:
    head = RequestHead(65536, 100)
    head.feed(b"GET / HTTP/1.1\r\n")
    for number in range(60):
        assert head.feed(b"x-%d: " % number + b"v" * 1000 + b"\r\n") is None
        assert head._begun is not None
        assert len(head._begun) <= 3
    assert head.feed(b"Host: a\r\n\r") is None
    assert head.feed(b"\nrest") == b"rest"
    assert len(head.headers) == 61


def test_too_many_fields_are_refused_before_their_head_ends() -> None:
    head = RequestHead(65536, 100)
    assert head.feed(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100) is None
    with pytest.raises(HeadTooLarge):
        head.feed(b"a: b\r\n" * 2)


def test_a_hundred_fields_are_enough() -> None:
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(99))
    assert len(read(b"GET / HTTP/1.1\r\n" + fields + GOOD)[0].headers) == 100
    with pytest.raises(HeadTooLarge):
        read(b"GET / HTTP/1.1\r\nX: a\r\n" + fields + GOOD)


def test_the_authority_of_an_absolute_target_replaces_host() -> None:
    head, _ = read(b"GET http://b.example/c?d HTTP/1.1\r\nX: y\r\nHost: a\r\nZ: z\r\n\r\n")
    assert head.target == b"/c?d"
    assert head.headers == [(b"x", b"y"), (b"host", b"b.example"), (b"z", b"z")]
    old, _ = read(b"GET http://b.example HTTP/1.0\r\nX: y\r\n\r\n")
    assert (old.target, old.headers) == (b"/", [(b"host", b"b.example"), (b"x", b"y")])
    with pytest.raises(BadRequest, match="no Host"):
        read(b"GET http://b.example/ HTTP/1.1\r\n\r\n")


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" + KEY, True),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n" + KEY, False),
        (b"Upgrade: websocket\r\n" + KEY, False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n" + KEY, False),
        (b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n" + KEY, False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n" + KEY, False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n" + KEY + KEY, False),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: c2hvcnQ=\r\n", False),
        (b"", False),
    ],
)
def test_a_websocket_handshake_is_told_from_other_requests(fields: bytes, expected: bool) -> None:
    head, rest = read(b"GET /chat HTTP/1.1\r\n" + fields + GOOD + b"abc")
    assert head.wants_websocket is expected
    assert rest == b"abc"


SEVERAL = [
    b"GET / HTTP/1.1\r\n" + GOOD,
    b"GET /a%20b?c=%20 HTTP/1.1\r\nX: y \r\n" + GOOD,
    b"GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n" + GOOD,
    b"GET / HTTP/1.1\r\nConnection: keep-alive, x\r\n" + GOOD,
    b"GET / HTTP/1.1\r\nConnection: close\r\n" + GOOD,
    b"GET / HTTP/1.1\r\nProxy-Connection: close\r\n" + GOOD,
    b"GET / HTTP/1.1\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n" + GOOD,
    b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n" + GOOD,
    b"GET http://b/ HTTP/1.1\r\n" + GOOD,
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nContent-Length: 0\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nContent-Length: 65536\r\nConnection: Keep-Alive\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n" + GOOD,
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\nUpgrade: h2c\r\n" + GOOD,
    b"POST / HTTP/1.0\r\nContent-Length: 5\r\n" + GOOD,
    b"M-SEARCH / HTTP/1.1\r\n" + GOOD,
    b"Brew /\xff HTTP/1.1\r\nTE: trailers\r\n" + GOOD,
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\0b\r\n" + GOOD,
    b"GET /\r\nX: HTTP/1.1\r\n\r\n",
]


def seen(head: RequestHead, *pieces: bytes, recall: bool = False) -> object:
    """All that one reading of a head gives, be it a refusal. With ``recall``, it may be what is remembered."""
    if not recall:
        request.known_heads.clear()
    try:
        rest = [head.feed(piece) for piece in pieces if piece][-1]
    except Rejected as error:
        return type(error)
    target = (head.target, head.path, head.raw_path, head.query)
    return (
        head.method,
        target,
        head.version,
        head.headers,
        head.framing,
        head.takes_trailers,
        head.wants_websocket,
        rest,
    )


@given(st.lists(st.tuples(st.sampled_from(SEVERAL), st.integers(0, 200)), min_size=2, max_size=8))
def test_the_heads_before_make_no_difference_to_a_head(heads: list[tuple[bytes, int]]) -> None:
    reader = RequestHead(65536, 100)
    for raw, cut in heads:
        expected = seen(RequestHead(65536, 100), raw)
        assert seen(reader, raw[:cut], raw[cut:]) == expected
        if isinstance(expected, type):
            break  # nothing can be read after a refusal
        reader.forget()
        assert not reader.begun


LENGTHS = [b"0", b"00", b"5", b"05", b"65535", b"65536", b"0065536", b"65537", b"9" * 18, b"0" * 17 + b"5"]
BAD_LENGTHS = [b"", b"5, 5", b"5 5", b"+5", b"5;", b"0x5", b"-0", b"5\t5", b"0" * 18 + b"5", b"9" * 19, b"9" * 40]
OPTIONS = [b"keep-alive", b"Keep-Alive", b"close", b"CLOSE", b"upgrade", b"Upgrade", b"te", b"x", b"keep-alivex", b""]
VALUES = {
    b"content-length": st.sampled_from(LENGTHS * 4 + BAD_LENGTHS),
    b"transfer-encoding": st.sampled_from([*[b"chunked", b"Chunked", b"CHUNKED"] * 4, b"gzip, chunked", b"identity"]),
    b"connection": st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=3).map(b", ".join),
    b"proxy-connection": st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=2).map(b",".join),
    b"upgrade": st.sampled_from([b"h2c", b"websocket", b"WebSocket, x", b""]),
    b"expect": st.sampled_from([b"100-continue", b"100-Continue", b"x", b""]),
    b"te": st.sampled_from([b"trailers", b"gzip, Trailers", b"trailers;q=0"]),
    b"trailer": st.just(b"x"),
    b"keep-alive": st.just(b"timeout=1"),
    b"sec-websocket-key": st.just(b"dGhlIHNhbXBsZSBub25jZQ=="),
    b"x_y.z": st.sampled_from([b"", b"a b", b"\xc3\xa4\xff", b"a\tb"]),
    b"contentx-length": st.just(b"7"),
    b"connection-x": st.just(b"close"),
    b"host": st.just(b"b"),
}
BLANK = st.sampled_from([b"", b"", b" ", b"\t", b" \t  "])
CASE = st.sampled_from([bytes.lower, bytes.title, bytes.upper, bytes.swapcase])


@st.composite
def field_lines(draw: st.DrawFn, names: st.SearchStrategy[bytes]) -> bytes:
    name = draw(names)
    return draw(CASE)(name) + b":" + draw(BLANK) + draw(VALUES[name]) + draw(BLANK) + b"\r\n"


@st.composite
def any_heads(draw: st.DrawFn) -> bytes:
    """A head that is often valid, and that says as often as not something of its body or its connection."""
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"PRI", b"brew"]))
    target = draw(
        st.sampled_from([b"/", b"/a?b", b"http://c/d", b"HTTPS://c", b"*" if method == b"OPTIONS" else b"/\xff"])
    )
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    most = [b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"proxy-connection", b"x_y.z"]
    fields = draw(st.lists(field_lines(st.sampled_from([*most * 2, *VALUES])), max_size=4))
    if draw(st.integers(0, 20)):
        fields.insert(draw(st.integers(0, len(fields))), draw(CASE)(b"host") + b": a\r\n")
    empty = draw(st.sampled_from([b"", b"", b"", b"\r\n", b"\r\n\r\n"]))
    return empty + b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version, b"".join(fields))


def body_of(framing: Framing) -> bytes:
    """Returns a body of the connection, which no head's parser may see, as far as it may matter."""
    return b"3\r\nabc\r\n0\r\nX: y\r\n\r\n" if framing.chunked else b"GET / HTTP/1.1\r\n\r\n"[: framing.length or 0]


@given(st.lists(st.tuples(any_heads(), st.lists(st.integers(1, 200), max_size=5)), min_size=2, max_size=6))
def test_no_sequence_of_heads_makes_a_difference_to_the_next(heads: list[tuple[bytes, list[int]]]) -> None:
    """The law of the test before, for any heads: what cannot follow a refusal goes on with a new reader."""
    reader = RequestHead(65536, 100)
    for raw, cuts in heads:
        edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
        pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
        new = RequestHead(65536, 100)
        expected = seen(new, raw)
        body = b"" if isinstance(expected, type) else body_of(new.framing)
        if body:
            expected = seen(RequestHead(65536, 100), raw + body)
            pieces[-1] += body
        assert seen(reader, *pieces) == expected, raw
        if isinstance(expected, type):
            reader.close()
            reader = RequestHead(65536, 100)
        else:
            reader.forget()
        assert not reader.begun


@given(st.lists(st.one_of(any_heads(), st.sampled_from(SEVERAL)), min_size=1, max_size=6))
def test_a_head_that_came_before_is_read_as_if_it_had_not(heads: list[bytes]) -> None:
    """The third turn recalls some heads, and parses the others."""
    expected = []
    for raw in heads:
        new = RequestHead(65536, 100)
        expected.append(seen(new, raw))
    reader = RequestHead(65536, 100)
    request.known_heads.clear()
    for raw, known in list(zip(heads, expected, strict=True)) * 3:
        assert seen(reader, raw, recall=True) == known, raw
        if isinstance(known, type):
            reader = RequestHead(65536, 100)
        else:
            reader.forget()


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (b"GET /a HTTP/1.1\r\nX: y\r\n" + GOOD, True),
        (b"GET /a HTTP/1.1\r\nConnection: keep-alive\r\n" + GOOD, True),
        (b"GET http://b/a HTTP/1.1\r\n" + GOOD, True),
        (b"GET /a HTTP/1.1\r\nTE: trailers\r\n" + GOOD, False),
        (b"GET /a HTTP/1.1\r\nConnection: close\r\n" + GOOD, False),
        (b"GET /a HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n" + GOOD, False),
        (b"GET /a HTTP/1.0\r\n" + GOOD, False),
        (b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n" + GOOD, False),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + GOOD, False),
        (b"GET /a HTTP/1.1\r\nX: %b\r\n" % (b"y" * 2048) + GOOD, False),
    ],
)
def test_only_short_heads_without_a_body_of_connections_that_are_kept_are_remembered(raw: bytes, known: bool) -> None:
    request.known_heads.clear()
    head = RequestHead(65536, 100)
    for times in (1, 2):
        assert head.feed(raw) == b""
        assert head.known is None
        assert (raw in request.known_heads.once) is known
        assert (raw in request.known_heads.known) is (known and times == 2)
        head.forget()
    assert head.feed(raw + b"next") == b"next"
    assert (head.known is not None) is known
    head.forget()
    assert head.known is None


def test_a_remembered_head_counts_against_the_limits_of_another_listener() -> None:
    raw = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(9)) + GOOD
    expected = seen(RequestHead(65536, 10), raw)
    for _ in range(3):
        assert seen(RequestHead(65536, 10), raw, recall=True) == expected
    for small in (RequestHead(65536, 9), RequestHead(50, 100)):
        assert seen(small, raw, recall=True) is HeadTooLarge


def test_whoever_changes_the_fields_of_a_request_changes_no_other() -> None:
    raw = b"GET / HTTP/1.1\r\nX: y\r\n" + GOOD
    request.known_heads.clear()
    for times in range(5):
        head = RequestHead(65536, 100)
        head.feed(raw)
        assert head.headers == [(b"x", b"y"), (b"host", b"a")]
        known = head.known
        assert (known is not None) is (times >= 2)
        head.headers[:] = [(b"x", b"z")]
        if known is not None:
            assert known.read(head.headers).kept == head.headers
            assert known.read(known.headers) is known.read(list(known.headers))


def test_a_parser_goes_on_to_the_next_head_also_behind_a_body_that_it_has_not_seen() -> None:
    head = RequestHead(65536, 100)
    parsers = []
    bodies = [
        raw for raw in SEVERAL if raw.startswith((b"POST / HTTP/1.1\r\nT", b"POST / HTTP/1.1\r\nContent-Length: 65536"))
    ]
    assert len(bodies) == 2
    for raw in [*SEVERAL[:3], *bodies, *bodies, SEVERAL[0]]:
        request.known_heads.clear()
        assert head.feed(raw) == b""
        parsers.append(head._parser)
        head.forget()
    assert parsers[0] is not None
    assert all(parser is parsers[0] for parser in parsers)


def test_what_is_remembered_of_request_lines_and_hosts_is_bounded() -> None:
    head = RequestHead(65536, 100)
    for number in range(1000):
        for _ in range(3):
            head.feed(b"GET /%d HTTP/1.1\r\nHost: h%d\r\n\r\n" % (number, number))
            assert head.target == b"/%d" % number
            head.forget()
    for _ in range(2):
        head.forget()
        head.feed(b"GET /%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"x" * 1600, b"y" * 600))
    for number in range(2000):
        head.on_header(b"X-%d" % number, b"")
    head.on_header(b"X" * 65, b"")
    assert len(headers.lower_names) <= 1024
    assert max(map(len, headers.lower_names)) <= 64
    assert len(request._lines) <= 256
    assert 0 < len(request.known_heads.known) <= 256
    assert 0 < len(request.known_heads.once) <= 256
    assert max(map(len, [*request.known_heads.once, *request.known_heads.known])) <= 2048
    assert len(http1._hosts) <= 256
    assert max(map(len, [*request._lines, *http1._hosts])) <= 512


@given(st.binary(max_size=200), st.lists(st.integers(1, 199), unique=True).map(sorted))
def test_no_bytes_make_the_reader_fail_in_another_way(raw: bytes, cuts: list[int]) -> None:
    head = RequestHead(100, 10)
    with contextlib.suppress(Rejected):
        for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            if raw[a:b] and head.feed(raw[a:b]) is not None:
                break
    assert head._begun is None or len(head._begun) <= 100 + len(raw)
