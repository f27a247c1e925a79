"""The handshake's key, and the walker over arbitrary frames in arbitrary reads."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.websocket import CLOSE, PING, FrameWalker, accept_of, close_payload, control_frame, is_message

MASK = b"\x37\xfa\x21\x3d"


def frame(opcode: int, payload: bytes, *, masked: bool, final: bool = True) -> bytes:
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        length = bytes((bit | size,))
    elif size < 1 << 16:
        length = bytes((bit | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((bit | 127,)) + size.to_bytes(8, "big")
    return bytes(((0x80 if final else 0) | opcode,)) + length + (MASK if masked else b"") + payload


def message(parts: list[bytes], *, masked: bool) -> list[bytes]:
    last = len(parts) - 1
    return [frame(0 if at else 1, part, masked=masked, final=at == last) for at, part in enumerate(parts)]


def reads(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


payloads = st.one_of(st.binary(max_size=130), st.integers(120, 70_000).map(bytes))
messages = st.lists(st.lists(payloads, min_size=1, max_size=3), max_size=5)
cuts = st.lists(st.integers(0, 1 << 20), max_size=30)


def test_the_accept_is_the_one_of_the_rfc() -> None:
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_control_frames_are_masked_towards_servers_only() -> None:
    assert control_frame(PING) == b"\x89\x00"
    assert control_frame(CLOSE, close_payload(1012)) == b"\x88\x02\x03\xf4"
    assert control_frame(1, b"Hello", MASK) == b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"  # RFC 6455 section 5.7


def test_a_control_frame_has_125_bytes_at_most() -> None:
    with pytest.raises(ValueError, match="125"):
        control_frame(PING, bytes(126))


@given(messages, cuts, st.booleans())
def test_messages_are_counted_whatever_the_split(parts: list[list[bytes]], cuts: list[int], masked: bool) -> None:
    frames = [one for message_ in parts for one in message(message_, masked=masked)]
    walker = FrameWalker(masked=masked)
    data, boundaries, at = b"".join(frames), {0}, 0
    for one in frames:
        boundaries.add(len(one) + max(boundaries))
    for read in reads(data, cuts):
        walker.feed(read)
        at += len(read)
        assert walker.between_frames == (at in boundaries)
    assert (walker.messages, walker.closed, walker.lost) == (len(parts), False, False)


@given(messages, cuts)
def test_one_frame_at_a_time_ends_where_the_frame_does(parts: list[list[bytes]], cuts: list[int]) -> None:
    frames = [one for message_ in parts for one in message(message_, masked=True)]
    walker, found, length = FrameWalker(masked=True), [], 0
    for read in reads(b"".join(frames), cuts):
        while read:
            taken = walker.feed_frame(read)
            length += taken
            read = read[taken:]
            if walker.between_frames:
                found.append(length)
                length = 0
    assert found == [len(one) for one in frames]


@pytest.mark.parametrize(
    ("reads", "masked", "messages", "lost", "recognised"),
    [
        ([b"\x81\x02ab", b"\x82\x00\x81\x00", b"\x81\x01a"], False, 4, False, 1),
        ([b"\x81\x82" + MASK + b"ab", b"\x82\xfe\x00\x80" + MASK + bytes(128)], True, 2, False, 2),
        ([b"\xc1\x02ab"], False, 1, False, 1),  # compressed, by a bit of its extension
        ([b"\x81\x7e\x00\x02ab", b"\x81\x7f" + bytes(7) + b"\x02ab"], False, 2, False, 1),  # longer than need be
        ([b"\x81\x08abcd", b"\x81\x02ab"], False, 1, False, 0),  # the second is the payload of the first
        ([b"\x81", b"\x02\x81\x02a"], False, 1, False, 0),
        ([b"\x01\x02ab", b"\x89\x02ab", b"\x80\x02ab"], False, 1, False, 0),
        ([b"\x01\x02ab", b"\x81\x02ab"], False, 0, True, 0),  # a message inside a message
        ([b"\x80\x02ab"], False, 0, True, 0),  # a continuation of nothing
        ([b"\x83\x02ab"], False, 0, True, 0),
        ([b"\x81\x02ab", b"\x8b\x02ab", b"\x81\x02ab"], False, 1, True, 1),
        ([b"\x81\x7fabc"], True, 0, False, 0),  # half a header, as long as a message whose mask is counted from below
        ([b"\x81\x82" + MASK + b"ab"], False, 0, True, 0),
        ([b"\x81\x02abc"], False, 1, False, 0),
    ],
)
def test_a_read_that_is_taken_for_one_whole_message_is_one(
    reads: list[bytes], masked: bool, messages: int, lost: bool, recognised: int
) -> None:
    walker, found = FrameWalker(masked=masked), 0
    for read in reads:
        before, whole = walker.messages, walker.between_messages and is_message(read, masked)
        walker.feed(read)
        if whole:
            found += 1
            assert (walker.messages - before, walker.between_messages, walker.closed) == (1, True, False)
    assert (walker.messages, walker.lost, found) == (messages, lost, recognised)


@given(st.lists(st.binary(max_size=40), max_size=20), st.booleans())
def test_garbage_is_survived_and_holds_nothing(data: list[bytes], masked: bool) -> None:
    walker = FrameWalker(masked=masked)
    for one in data:
        walker.feed(one)
        assert len(walker._head) < 14


def test_control_frames_may_stand_inside_a_message() -> None:
    walker = FrameWalker(masked=False)
    walker.feed(b"\x01\x01a" + b"\x89\x00")
    assert (walker.messages, walker.between_frames) == (0, True)
    walker.feed(b"\x80\x01b" + b"\x88\x02\x03\xe8")
    assert (walker.messages, walker.closed) == (1, True)


@pytest.mark.parametrize(
    ("data", "masked"),
    [
        (b"\x83\x00", False),  # a reserved opcode
        (b"\x8b\x00", False),
        (b"\x81\x00", True),  # a client's frame without a mask
        (b"\x81\x80" + MASK, False),  # a server's with one
        (b"\x09\x00", False),  # a control frame in parts
        (b"\x89\x7e\x00\x7e", False),  # one of 126 bytes
        (b"\x80\x00", False),  # a continuation of nothing
        (b"\x01\x00\x81\x00", False),  # a message inside a message
        (b"\x82\x7f\x80" + bytes(7), False),  # a length of 64 bits
    ],
)
def test_what_is_no_frame_makes_it_give_up(data: bytes, masked: bool) -> None:
    walker = FrameWalker(masked=masked)
    walker.feed(data)
    assert walker.lost
    assert not walker.between_frames
    assert walker.feed_frame(b"abc") == 3
