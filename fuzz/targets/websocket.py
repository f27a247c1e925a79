"""The walker of WebSocket frames. The oracle is the parser of the websockets package.

That parser refuses reserved bits, which belong to extensions and pass a proxy, so it is given frames without them.
"""

from __future__ import annotations

from typing import NamedTuple

from websockets.exceptions import ProtocolError
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.streams import StreamReader

from fuzz.reads import bytes_of, reads_of
from streamproxy.wire.websocket import FrameWalker

DICTIONARY = (
    b"\x81\x01a", b"\x01\x01a", b"\x80\x01b", b"\x88\x02\x03\xe8", b"\x89\x00", b"\x8a\x00", b"\x82\x7e\x00\x80",
    b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x02", b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", b"\xc1\x00",
)  # fmt: skip


class Walk(NamedTuple):
    messages: int
    closed: bool
    lost: bool
    between: bool


def reference(data: bytes, masked: bool) -> Walk:
    """Parses frame by frame with websockets, and follows the rules for fragments (RFC 6455 section 5.4)."""
    messages, closed, fragmented = 0, False, False
    while data:
        if len(data) < header_size(data):
            return Walk(messages, closed, False, False)
        if data[0] & 0x0F >= 8 and data[1] & 0x7F > 125:
            return Walk(messages, closed, True, False)  # even if the long form says a short length
        reader = StreamReader()
        reader.feed_data(bytes((data[0] & 0x8F,)) + data[1:])
        reader.feed_eof()
        parsing = Frame.parse(reader.read_exact, mask=masked)
        try:
            next(parsing)
            raise AssertionError("a reader with an end never waits")
        except StopIteration as stop:
            frame: Frame = stop.value
        except EOFError:
            return _unfinished(data, masked, Walk(messages, closed, False, False), fragmented)
        except ProtocolError:
            return Walk(messages, closed, True, False)
        if frame.opcode not in CTRL_OPCODES:
            if fragmented != (frame.opcode is Opcode.CONT):
                return Walk(messages, closed, True, False)
            fragmented = not frame.fin
            messages += frame.fin
        closed = closed or frame.opcode is Opcode.CLOSE
        data = data[len(data) - len(reader.buffer) :]
    return Walk(messages, closed, False, True)


def header_size(data: bytes) -> int:
    """The size in bytes of the header that ``data`` begins with, as far as it is known."""
    if len(data) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(data[1] & 0x7F, 0) + (4 if data[1] & 0x80 else 0)


def _unfinished(data: bytes, masked: bool, so_far: Walk, fragmented: bool) -> Walk:
    """A frame whose payload is cut: whether its header is one that the walker refuses at once."""
    opcode, final, short = data[0] & 0x0F, data[0] >= 0x80, data[1] & 0x7F
    wrong = (not final or short > 125) if opcode >= 8 else fragmented != (opcode == 0)
    too_long = short == 127 and data[2] >= 0x80
    return so_far._replace(lost=wrong or too_long or (data[1] >= 0x80) != masked)


def walk(reads: list[bytes], masked: bool) -> Walk:
    walker = FrameWalker(masked=masked)
    for read in reads:
        walker.feed(read)
        assert len(walker._head) < 14
    return Walk(walker.messages, walker.closed, walker.lost, walker.between_frames)


def walk_frames(reads: list[bytes], masked: bool) -> Walk:
    """The same a frame at a time."""
    walker = FrameWalker(masked=masked)
    for read in reads:
        while read:
            taken = walker.feed_frame(read)
            assert 0 < taken <= len(read)
            read = read[taken:]
    return Walk(walker.messages, walker.closed, walker.lost, walker.between_frames)


def check(data: bytes) -> None:
    for masked in (True, False):
        expected = reference(data, masked)
        for reads in ([data], reads_of(data), bytes_of(data)):
            for ours in (walk(reads, masked), walk_frames(reads, masked)):
                assert ours == expected, (reads, ours, expected)
