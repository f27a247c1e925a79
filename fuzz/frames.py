"""HTTP/2 frames: checks of those that are written, and mutations that keep frames whole."""

from __future__ import annotations

import random
from collections.abc import Callable

import hpack
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from streamproxy.wire.http2.session import MAX_FRAME

Fields = list[tuple[str, str]]


def check_output(out: bytes, data: bytes, opened: set[int]) -> None:
    """Whole frames, each allowed where it stands; at most 1 KiB for each frame that the input may have.

    ``opened`` are the streams that there may be frames on.
    """
    ended: set[int] = set()
    decoder = hpack.Decoder()
    assert len(out) <= 2048 + 1024 * (len(data) // 9 + 1)
    while out:
        frame, size = Frame.parse_frame_header(memoryview(out[:9]))
        assert size <= MAX_FRAME
        assert len(out) >= 9 + size
        frame.parse_body(memoryview(out[9 : 9 + size]))
        out = out[9 + size :]
        if isinstance(frame, HeadersFrame | DataFrame | RstStreamFrame):
            assert frame.stream_id in opened, frame
            assert frame.stream_id not in ended or isinstance(frame, RstStreamFrame), frame
            if "END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame):
                ended.add(frame.stream_id)
        if isinstance(frame, HeadersFrame):
            assert "END_HEADERS" in frame.flags
            decoder.decode(frame.data)
        if isinstance(frame, GoAwayFrame):
            assert frame.error_code <= 0xD


def frames_of(data: bytes) -> list[bytes]:
    """Cuts bytes into frames; the last may be cut short."""
    frames: list[bytes] = []
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        frames.append(data[:size])
        data = data[size:]
    return frames


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind & 0xFF, flags & 0xFF)) + stream.to_bytes(4, "big") + payload


def headers(chance: random.Random, stream: int, usual: Fields, more: tuple[tuple[str, str], ...]) -> bytes:
    """A head of usual fields, often with one or another in it, and perhaps cut into two frames."""
    fields = list(usual)
    for _ in range(chance.randrange(4)):
        if chance.random() < 0.3:
            del fields[chance.randrange(len(fields))]
        fields.insert(chance.randint(0, len(fields)), chance.choice(more))
        fields = fields or list(usual)
    encoder = hpack.Encoder()
    encoder.header_table_size = 0 if chance.random() < 0.1 else 4096
    block = encoder.encode(fields, huffman=chance.random() < 0.5)
    if chance.random() < 0.2:
        cut = chance.randint(0, len(block))
        return frame(1, chance.choice((0, 1)), stream, block[:cut]) + frame(
            9, chance.choice((0, 4)), stream, block[cut:]
        )
    return frame(1, chance.choice((4, 5, 4, 5, 0, 0x24, 0x0D)), stream, block)


def _setting(chance: random.Random) -> bytes:
    value = chance.choice((0, 1, 16384, 65535, 1 << 31, 0xFFFFFFFF))
    return chance.randrange(9).to_bytes(2, "big") + value.to_bytes(4, "big")


def _any_frame(chance: random.Random, stream: int, head: Callable[[random.Random, int], bytes]) -> bytes:
    make: list[Callable[[], bytes]] = [
        lambda: head(chance, stream),
        lambda: head(chance, stream),
        lambda: frame(0, chance.choice((0, 1, 8, 9)), stream, chance.randbytes(chance.choice((0, 1, 3, 100, 5000)))),
        lambda: frame(2, 0, stream, chance.randbytes(5)),
        lambda: frame(3, 0, stream, bytes(3) + bytes((chance.randrange(14),))),
        lambda: frame(4, chance.choice((0, 0, 1)), 0, b"".join(_setting(chance) for _ in range(chance.randrange(4)))),
        lambda: frame(5, 4, stream, chance.randbytes(8)),
        lambda: frame(6, chance.choice((0, 1)), 0, chance.randbytes(8)),
        lambda: frame(7, 0, 0, chance.randbytes(chance.choice((8, 20)))),
        lambda: frame(8, 0, chance.choice((0, stream)), chance.choice((0, 1, 100, 0x7FFFFFFF)).to_bytes(4, "big")),
        lambda: frame(9, chance.choice((0, 4)), stream, chance.randbytes(chance.randrange(20))),
        lambda: frame(chance.randrange(256), chance.randrange(256), stream, chance.randbytes(chance.randrange(30))),
    ]  # fmt: skip
    return chance.choice(make)()


def mutated(data: bytes, largest: int, seed: int, head: Callable[[random.Random, int], bytes]) -> bytes:
    """Adds, drops, repeats, swaps or changes one frame; ``head`` makes the heads that are added."""
    chance = random.Random(seed)
    frames = frames_of(data)
    stream = chance.choice((1, 1, 3, 5, 7, 2, 0, 0x7FFFFFFF))
    what = chance.randrange(6)
    if not frames or what <= 1:
        frames.insert(chance.randint(0, len(frames)), _any_frame(chance, stream, head))
    else:
        at = chance.randrange(len(frames))
        if what == 2:
            del frames[at]
        elif what == 3:
            frames.insert(chance.randint(0, len(frames)), frames[at])
        elif what == 4:
            other = chance.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        else:
            changed = bytearray(frames[at])
            changed[chance.randrange(3, len(changed)) if len(changed) > 3 else 0] = chance.randrange(256)
            frames[at] = bytes(changed)
    return b"".join(frames)[:largest]
