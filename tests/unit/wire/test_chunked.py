"""Chunked bodies, from any split of their bytes."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.chunked import MAX_LINE, ChunkedDecoder, ChunkError, chunk_parts, last_chunk


def decode(*pieces: bytes, max_trailers: int = 1000) -> tuple[bytes, bool, bytes]:
    decoder = ChunkedDecoder(max_trailers)
    body = b"".join(decoder.feed(piece) for piece in pieces)
    return body, decoder.done, decoder.rest


def test_chunks_are_joined_and_extensions_and_trailers_dropped() -> None:
    wire = b'5\r\nhello\r\n006;a=b;c="d e"\r\n world\r\n0\r\nX-Trailer: y\r\nZ:\r\n\r\nGET /'
    assert decode(wire) == (b"hello world", True, b"GET /")


@pytest.mark.parametrize("at", range(1, 70))
def test_a_body_is_the_same_however_it_is_cut_in_two(at: int) -> None:
    wire = b'5\r\nhello\r\n006;a=b;c="d e"\r\n world\r\n8\r\n\r\n0\r\n\r\n!\r\n0\r\nX-Trailer: y\r\nZ:\r\n\r\n'
    assert decode(wire[:at], wire[at:]) == (b"hello world\r\n0\r\n\r\n!", True, b"")


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(0, 300), max_size=12).map(sorted),
    st.binary(max_size=10),
)
def test_any_body_comes_through_any_split(chunks: list[bytes], cuts: list[int], rest: bytes) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = [min(cut, len(wire)) for cut in cuts]
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    pieces[-1] += rest
    decoder = ChunkedDecoder(100)
    body = b""
    while pieces and not decoder.done:
        body += decoder.feed(pieces.pop(0))
    assert (body, decoder.done) == (b"".join(chunks), True)
    assert decoder.rest + b"".join(pieces) == rest


def test_a_body_without_its_last_chunk_is_not_done() -> None:
    assert decode(b"1\r\na\r\n") == (b"a", False, b"")
    assert decode(b"1\r\na\r\n0\r\n") == (b"a", False, b"")
    assert decode(b"1\r\na\r\n0\r\nX: y\r\n") == (b"a", False, b"")


def test_a_large_chunk_in_one_read_is_not_copied() -> None:
    decoder = ChunkedDecoder(100)
    decoder.feed(b"ffff\r\n")
    data = b"x" * 1000
    assert decoder.feed(data) is data


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1_0\r\n",
        b" 1\r\na\r\n",
        b"1 1\r\na\r\n",
        b"1 \n",
        b"\r\n",
        b";a\r\n",
        b"1\na\n",
        b"1\ra",
        b"1;a\nb\r\n",
        b"1;\0\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na0\r\n\r\n",
        b"1\r\na\rx",
        b"1" * 16 + b"\r\n",
        b"1;" + b"a" * MAX_LINE + b"\r\n",
        b"1;" + b"a" * MAX_LINE,
        b"0\r\nX\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: \0\r\n",
        b"0\n\n",
    ],
)
def test_bad_framing_is_refused(wire: bytes) -> None:
    with pytest.raises(ChunkError):
        decode(wire)
    with pytest.raises(ChunkError):
        decode(*(wire[at : at + 1] for at in range(len(wire))))


@pytest.mark.parametrize("trailers", [b"X: " + b"a" * 100, b"X: a\r\n" * 20])
def test_trailers_are_bounded(trailers: bytes) -> None:
    with pytest.raises(ChunkError):
        decode(b"0\r\n" + trailers, max_trailers=90)


def test_trailers_are_collected_and_more_than_a_hundred_refused() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\nX-A:  b c \r\ny:\r\nY:\t1\r\n\r\n")
    assert decoder.trailers == [(b"x-a", b"b c"), (b"y", b""), (b"y", b"1")]
    with pytest.raises(ChunkError):
        decode(b"0\r\n" + b"x: y\r\n" * 101 + b"\r\n", max_trailers=65536)


def test_a_decoder_can_be_used_again() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"1\r\na\r\n0\r\nx: y\r\n\r\nrest") == b"a"
    decoder.reset()
    assert (decoder.done, decoder.rest, decoder.trailers) == (False, b"", [])
    assert decoder.feed(b"1\r\nb\r\n0\r\n\r\n") == b"b"


def test_blanks_behind_a_size_are_tolerated() -> None:
    assert decode(b"1 \t \r\na\r\n1 ;x=y\r\nb\r\n0 \r\n\r\n") == (b"ab", True, b"")


def test_what_came_before_malformed_framing_is_not_lost() -> None:
    with pytest.raises(ChunkError) as refused:
        ChunkedDecoder().feed(b"1\r\na\r\n2\r\nbcX")
    assert refused.value.body == b"abc"


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 256, 1023, 1024, 4095, 4096, 70000])
@pytest.mark.parametrize("upper", [False, True])
def test_a_whole_chunk_is_recognised(size: int, upper: bool) -> None:
    line = b"%X" % size if upper else b"%x" % size
    assert ChunkedDecoder().whole(line + b"\r\n" + b"x" * size + b"\r\n") == b"x" * size


WIRE = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda size, data, end: b"%b\r\n%b%b" % (size, data, end),
        st.sampled_from([b"0", b"1", b"5", b"05", b"5 ", b"a", b"A", b"10", b"0x5", b"+5", b"1_0", b"5;a", b"-1"]),
        st.binary(max_size=18),
        st.sampled_from([b"\r\n", b"\r", b"\n", b"", b"\r\n\r\n"]),
    ),
    st.binary(min_size=1, max_size=3000).map(lambda data: b"".join(chunk_parts(data))),
)


@given(WIRE, WIRE)
def test_the_fast_way_takes_only_what_the_decoder_takes(before: bytes, data: bytes) -> None:
    decoder, twin = ChunkedDecoder(), ChunkedDecoder()
    try:
        decoder.feed(before)
    except ChunkError:
        return
    twin.feed(before)
    chunk = decoder.whole(data)
    if chunk is not None:
        assert chunk
        assert twin.feed(data) == chunk
        assert b"".join(chunk_parts(chunk)).lower() == data.lower()
        assert twin.whole(b"1\r\na\r\n") == b"a"  # at the beginning of the next chunk


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from([b"", b" ", b";a", b";a=b\t"])), max_size=6),
    st.lists(st.sampled_from([(b"x", b"y"), (b"x-long", b"a b"), (b"z", b"")]), max_size=3),
    st.lists(st.integers(0, 400), max_size=12).map(sorted),
)
def test_any_body_in_any_reads_is_what_h11_says(
    chunks: list[tuple[bytes, bytes]], trailers: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    wire += last_chunk(trailers)
    edges = [0, *(min(cut, len(wire)) for cut in cuts), len(wire)]
    reads = [wire[a:b] for a, b in itertools.pairwise(edges) if b > a]
    decoder = ChunkedDecoder()
    body = b"".join([decoder.feed(read) for read in reads])
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    theirs = b""
    for read in reads:
        connection.receive_data(read)
        while isinstance(event := connection.next_event(), h11.Data):
            theirs += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (decoder.done, body, decoder.trailers) == (True, theirs, list(event.headers))


@pytest.mark.parametrize(
    ("data", "body", "rest"),
    [
        (b"2\r\nhi\r\n0\r\n\r\n", b"hi", b""),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
        (b"0\r\n\r\n0\r\n\r\n", b"", b"0\r\n\r\n"),
        (b"2\r\nhi\r\n0\r\n\r\n0\r\n\r\n", b"hi", b"0\r\n\r\n"),
        (b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n", b""),
    ],
)
def test_a_whole_body_in_one_read_ends_where_its_framing_says(data: bytes, body: bytes, rest: bytes) -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(data) == body
    assert (decoder.done, decoder.rest) == (True, rest)
