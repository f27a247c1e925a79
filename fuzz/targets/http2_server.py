"""The HTTP/2 protocol of the server, over ngh2: frames in, frames out. The oracle is hyperframe.

The input is what follows the preface. Whatever it is, no exception leaves the protocol. What is written consists of
whole frames of a legal size on streams that the client opened, nothing follows the end of a stream, and there is no
more of it than the input accounts for. The application sees only requests whose parts are clean.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import hpack
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from fuzz.reads import reads_of
from fuzz.rig import Rig
from streamproxy.server.http2.limits import Http2Limits
from streamproxy.server.http2.protocol import http2_protocol
from streamproxy.wire.headers import TOKEN
from streamproxy.wire.http2.frames import PREFACE
from streamproxy.wire.http2.session import MAX_FRAME
from tests.unit.server.harness import Receive, Scope, Send, body_message, start_message

_FIELDS = (
    (":method", "GET"), (":method", "POST"), (":method", "HEAD"), (":method", "CONNECT"), (":scheme", "http"),
    (":scheme", "https"), (":path", "/"), (":path", "/a?b=c"), (":path", "*"), (":path", ""), (":path", "http://a/"),
    (":path", "/a b"), (":authority", "a"), (":authority", "b@c"), (":protocol", "websocket"), (":status", "200"),
    ("host", "a"), ("host", "b"), ("content-length", "3"), ("content-length", "0"), ("te", "trailers"), ("te", "gzip"),
    ("transfer-encoding", "chunked"), ("connection", "close"), ("upgrade", "h2c"), ("cookie", "a=b"),
    ("cookie", "c=d"), ("expect", "100-continue"), ("X-Upper", "x"), ("x", "a\r\nb: c"), ("x", "a\0b"), ("x:y", "z"),
    ("", "x"), ("x", " y "),
)  # fmt: skip
_GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
_POST = [(":method", "POST"), (":scheme", "http"), (":path", "/p"), (":authority", "a")]


class Application:
    """Reads each request to its end, and answers with the size of its body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert TOKEN.fullmatch(scope["method"].encode())
        assert not set(b" \r\n\0") & set(scope["raw_path"] + scope["query_string"])
        hosts = 0
        for name, value in scope["headers"]:
            assert TOKEN.fullmatch(name), name
            assert name == name.lower()
            assert not set(b"\r\n\0") & set(value), value
            assert name not in (b"transfer-encoding", b"connection", b"upgrade"), name
            hosts += name == b"host"
        assert hosts == 1
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send(start_message(200, (b"content-type", b"text/plain")))
        await send(body_message(b"%d" % size))


@cache
def rig() -> Rig:
    return Rig(Application(), http2_protocol(Http2Limits(max_header_size=4096)))


def check(data: bytes) -> None:
    for reads in ([PREFACE + data], [PREFACE, *reads_of(data)]):
        out, protocol = rig().run([read for read in reads if read])
        assert not protocol.blocked
        assert not protocol._streams
        check_output(out, data)


def check_output(out: bytes, data: bytes) -> None:
    """Whole frames, each allowed where it stands; at most 1 KiB for each frame that the input may have."""
    opened = {int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF for frame in frames_of(data)}
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


# Mutations that keep the frames whole.


class Words(NamedTuple):
    """What heads are made of: whole ones, and fields to put into them."""

    heads: Sequence[Sequence[tuple[str, str]]]
    fields: Sequence[tuple[str, str]]


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


def _headers(chance: random.Random, stream: int, words: Words) -> bytes:
    fields = list(chance.choice(words.heads))
    for _ in range(chance.randrange(4)):
        if chance.random() < 0.3:
            del fields[chance.randrange(len(fields))]
        fields.insert(chance.randint(0, len(fields)), chance.choice(words.fields))
        fields = fields or list(words.heads[0])
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


def _any_frame(chance: random.Random, stream: int, words: Words) -> bytes:
    make: list[Callable[[], bytes]] = [
        lambda: _headers(chance, stream, words),
        lambda: _headers(chance, stream, words),
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


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Adds, drops, repeats, swaps or changes one frame of a client."""
    return mutate_frames(Words((_GET, _POST), _FIELDS), data, largest, seed)


def mutate_frames(words: Words, data: bytes, largest: int, seed: int) -> bytes:
    """Adds, drops, repeats, swaps or changes one frame."""
    chance = random.Random(seed)
    frames = frames_of(data)
    stream = chance.choice((1, 1, 3, 5, 7, 2, 0, 0x7FFFFFFF))
    what = chance.randrange(6)
    if not frames or what <= 1:
        frames.insert(chance.randint(0, len(frames)), _any_frame(chance, stream, words))
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
