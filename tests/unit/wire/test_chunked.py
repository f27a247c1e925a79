"""Chunked bodies, from any split of their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import BadRequest
from streamproxy.wire.chunked import MAX_LINE, ChunkedDecoder


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
        b"1 \r\na\r\n",
        b"1 ;a\r\n",
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
def test_bad_framing_is_a_bad_request(wire: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(wire)
    with pytest.raises(BadRequest):
        decode(*(wire[at : at + 1] for at in range(len(wire))))


@pytest.mark.parametrize("trailers", [b"X: " + b"a" * 100, b"X: a\r\n" * 20])
def test_trailers_are_bounded(trailers: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(b"0\r\n" + trailers, max_trailers=90)
