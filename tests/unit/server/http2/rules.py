"""What a client can break of RFC 9113 sections 4 to 6, as bytes, and what the server must answer.

The cases of h2spec are among them. Each has the section that it breaks, what is sent, and the answer: an error of the
connection (GOAWAY with this code, and the end), an error of the stream (RST_STREAM with this code, and the connection
goes on), or none, where the section lets an endpoint discard the frame or makes it: then the connection goes on and the
stream is as it was. For an error of the stream an endpoint may end the connection too (section 5.4).

h2spec was written for RFC 7540 and asks for an error in more places: for frames on closed streams, where section 5.1
lets an endpoint discard them now; for priorities, which are ignored; and for a stream's window above its most, where
the end of the connection is no answer to it. Run by hand against the program (it is one in Go; 2.6.0), 141 of 147 cases
pass over TLS with ``--strict``, and 139 of 146 in clear text, where a preface that is none is HTTP/1.1's and gets its
400.

What is sent is sent to a connection that has exchanged SETTINGS. Before it stream 1 is brought into a state: idle, open
(its body is to follow), half-closed (its request is whole, and its response is not), closed (both are), or reset by the
client.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from hpack import Encoder

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, COMPRESSION_ERROR = 6, 9

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20

State = Literal["idle", "open", "half-closed", "closed", "reset"]
LARGEST: Final = 0x7FFFFFFF


class Rule(NamedTuple):
    """``connection`` and ``stream`` are the code of the error; None for both: the frame is discarded."""

    section: str
    what: str
    sent: bytes
    state: State = "idle"
    connection: int | None = None
    stream: int | None = None


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, whether it is allowed or not."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def block(method: str = "GET", target: str = "/hold") -> bytes:
    """The header block of a request that adds nothing to the table of the server."""
    fields = [(":method", method), (":scheme", "http"), (":path", target), (":authority", "proxy.test")]
    return bytes(Encoder().encode([(name.encode(), value.encode(), True) for name, value in fields], huffman=False))


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, number(key, 2) + number(value))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, number(increment))


REQUEST: Final = block()
WHOLE: Final = END_HEADERS | END_STREAM
TRAILERS: Final = b"\x00\x01a\x01b"
CUT: Final = frame(HEADERS, END_STREAM, 1, REQUEST)  # a header block that goes on
DEAF: Final = frame(HEADERS, END_HEADERS, 1, block("POST", "/deaf"))  # nobody takes what comes behind it
PINGING: Final = frame(PING, 0, 0, b"12345678")

PAST_THE_FRAME = [
    Rule("4.1", "a frame of an unknown type", frame(0xEE, 0xFF, 0, b"abc")),
    Rule("4.1", "a frame of an unknown type on a stream", frame(0xEE, 0xFF, 1, b"abc"), "open"),
    Rule("4.1", "a flag that is not defined", frame(PING, 0xFE, 0, b"12345678")),
    Rule("4.1", "the reserved bit of a stream", frame(PING, 0, 1 << 31, b"12345678")),
    Rule("4.2", "DATA too large", frame(DATA, 0, 1, bytes(16_385)), "open", FRAME_SIZE_ERROR),
    Rule("4.2", "HEADERS too large", frame(HEADERS, END_HEADERS, 1, bytes(16_385)), "idle", FRAME_SIZE_ERROR),
    Rule("4.2", "SETTINGS too large", frame(SETTINGS, 0, 0, bytes(16_386)), "idle", FRAME_SIZE_ERROR),
    Rule("4.2", "an unknown frame too large", frame(0xEE, 0, 0, bytes(16_385)), "idle", FRAME_SIZE_ERROR),
    Rule("4.3", "an index that is 0", frame(HEADERS, END_HEADERS, 1, b"\x80"), "idle", COMPRESSION_ERROR),
    Rule("4.3", "an index beyond the table", frame(HEADERS, END_HEADERS, 1, b"\xc6"), "idle", COMPRESSION_ERROR),
    Rule("4.3", "a name beyond the table", frame(HEADERS, END_HEADERS, 1, b"\x7f\x07\x01a"), "idle", COMPRESSION_ERROR),
    Rule("4.3", "a table too large", frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\x03"), "idle", COMPRESSION_ERROR),
    Rule("4.3", "a table's size at the end", frame(HEADERS, WHOLE, 1, REQUEST + b"\x20"), "idle", COMPRESSION_ERROR),
    Rule("4.3", "Huffman's EOS", frame(HEADERS, WHOLE, 1, b"\x00\x84\xff\xff\xff\xff\x01a"), "idle", COMPRESSION_ERROR),
    Rule(
        "4.3", "Huffman's padding of zeros", frame(HEADERS, WHOLE, 1, b"\x00\x81\x18\x01a"), "idle", COMPRESSION_ERROR
    ),
    Rule(
        "4.3",
        "Huffman's padding too long",
        frame(HEADERS, WHOLE, 1, b"\x00\x82\x1f\xff\x01a"),
        "idle",
        COMPRESSION_ERROR,
    ),
    Rule("4.3", "a block that is cut", frame(HEADERS, WHOLE, 1, b"\x00\x05a"), "idle", COMPRESSION_ERROR),
]

STREAMS = [
    Rule("5.1", "DATA", frame(DATA, 0, 1, b"x"), "idle", PROTOCOL_ERROR),
    Rule("5.1", "RST_STREAM", frame(RST_STREAM, 0, 1, number(8)), "idle", PROTOCOL_ERROR),
    Rule("5.1", "WINDOW_UPDATE", window(1, 1), "idle", PROTOCOL_ERROR),
    Rule("5.1", "CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, REQUEST), "idle", PROTOCOL_ERROR),
    Rule("5.1", "PRIORITY", frame(PRIORITY, 0, 1, number(0) + b"\x10"), "idle"),
    Rule("5.1", "DATA", frame(DATA, 0, 1, b"x"), "half-closed", STREAM_CLOSED),
    Rule("5.1", "HEADERS", frame(HEADERS, WHOLE, 1, TRAILERS), "half-closed", STREAM_CLOSED),
    Rule("5.1", "CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, TRAILERS), "half-closed", PROTOCOL_ERROR),
    Rule("5.1", "WINDOW_UPDATE", window(1, 1), "half-closed"),
    Rule("5.1", "PRIORITY", frame(PRIORITY, 0, 1, number(0) + b"\x10"), "half-closed"),
    Rule("5.1", "DATA", frame(DATA, END_STREAM, 1, b"x"), "closed"),
    Rule("5.1", "HEADERS", frame(HEADERS, WHOLE, 1, REQUEST), "closed"),
    Rule("5.1", "CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, TRAILERS), "closed", PROTOCOL_ERROR),
    Rule("5.1", "WINDOW_UPDATE", window(1, 1), "closed"),
    Rule("5.1", "PRIORITY", frame(PRIORITY, 0, 1, number(0) + b"\x10"), "closed"),
    Rule("5.1", "DATA", frame(DATA, END_STREAM, 1, b"x"), "reset"),
    Rule("5.1", "HEADERS", frame(HEADERS, WHOLE, 1, REQUEST), "reset"),
    Rule("5.1", "CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, TRAILERS), "reset", PROTOCOL_ERROR),
    Rule("5.1", "WINDOW_UPDATE", window(1, 1), "reset"),
    Rule("5.1.1", "an even stream", frame(HEADERS, WHOLE, 2, REQUEST), "idle", PROTOCOL_ERROR),
    Rule(
        "5.1.1",
        "a stream below another",
        frame(HEADERS, WHOLE, 5, REQUEST) + frame(HEADERS, WHOLE, 3, REQUEST),
        "idle",
        PROTOCOL_ERROR,
    ),
    Rule(
        "5.3.1",
        "HEADERS that depend on themselves",
        frame(HEADERS, WHOLE | PRIORITISED, 1, number(1) + b"\x10" + REQUEST),
        "idle",
        PROTOCOL_ERROR,
    ),
    Rule("5.3.1", "PRIORITY of a stream on itself", frame(PRIORITY, 0, 1, number(1) + b"\x10"), "open"),
    Rule("5.4.2", "RST_STREAM", frame(RST_STREAM, 0, 1, number(8)), "closed"),
    Rule("5.4.2", "RST_STREAM", frame(RST_STREAM, 0, 1, number(8)), "reset"),
    Rule("5.5", "an unknown frame in a header block", CUT + frame(0xEE, 0, 1), "idle", PROTOCOL_ERROR),
]

BODIES = [
    Rule("6.1", "DATA on stream 0", frame(DATA, 0, 0, b"x"), "idle", PROTOCOL_ERROR),
    Rule("6.1", "padding longer than DATA", frame(DATA, PADDED, 1, b"\x05x"), "open", PROTOCOL_ERROR),
    Rule("6.1", "padding as long as DATA", frame(DATA, PADDED, 1, b"\x01"), "open", PROTOCOL_ERROR),
    Rule("6.1", "DATA without the length of its padding", frame(DATA, PADDED, 1), "open", PROTOCOL_ERROR),
    Rule("6.1", "DATA that is all padding", frame(DATA, PADDED, 1, b"\x02ab"), "open"),
    Rule("6.2", "HEADERS on stream 0", frame(HEADERS, WHOLE, 0, REQUEST), "idle", PROTOCOL_ERROR),
    Rule("6.2", "padding longer than HEADERS", frame(HEADERS, WHOLE | PADDED, 1, b"\x05\x82"), "idle", PROTOCOL_ERROR),
    Rule(
        "6.2",
        "HEADERS without their priority",
        frame(HEADERS, WHOLE | PRIORITISED, 1, b"\x00"),
        "idle",
        FRAME_SIZE_ERROR,
    ),
    Rule("6.2", "PING in a header block", CUT + PINGING, "idle", PROTOCOL_ERROR),
    Rule("6.2", "PRIORITY in a header block", CUT + frame(PRIORITY, 0, 1, bytes(5)), "idle", PROTOCOL_ERROR),
    Rule("6.2", "other HEADERS in a header block", CUT + frame(HEADERS, WHOLE, 3, REQUEST), "idle", PROTOCOL_ERROR),
    Rule(
        "6.2", "DATA in a header block", frame(HEADERS, 0, 1, REQUEST) + frame(DATA, 0, 1, b"x"), "idle", PROTOCOL_ERROR
    ),
    Rule("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, bytes(5)), "idle", PROTOCOL_ERROR),
    Rule("6.3", "PRIORITY of another size", frame(PRIORITY, 0, 1, bytes(4)), "open", FRAME_SIZE_ERROR),
    Rule("6.4", "RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, number(8)), "idle", PROTOCOL_ERROR),
    Rule("6.4", "RST_STREAM of another size", frame(RST_STREAM, 0, 1, bytes(3)), "open", FRAME_SIZE_ERROR),
]

CONNECTION = [
    Rule("6.5", "an acknowledgement with a payload", frame(SETTINGS, ACK, 0, bytes(6)), "idle", FRAME_SIZE_ERROR),
    Rule("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1), "open", PROTOCOL_ERROR),
    Rule("6.5", "SETTINGS of another size", frame(SETTINGS, 0, 0, bytes(5)), "idle", FRAME_SIZE_ERROR),
    Rule("6.5.2", "ENABLE_PUSH of 2", setting(0x2, 2), "idle", PROTOCOL_ERROR),
    Rule("6.5.2", "a window too large", setting(0x4, 1 << 31), "idle", FLOW_CONTROL_ERROR),
    Rule("6.5.2", "frames too small", setting(0x5, 16_383), "idle", PROTOCOL_ERROR),
    Rule("6.5.2", "frames too large", setting(0x5, 1 << 24), "idle", PROTOCOL_ERROR),
    Rule("6.5.2", "an unknown setting", setting(0xEE, 1)),
    Rule("6.6", "PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + REQUEST), "open", PROTOCOL_ERROR),
    Rule("6.7", "PING on a stream", frame(PING, 0, 1, bytes(8)), "open", PROTOCOL_ERROR),
    Rule("6.7", "PING of another size", frame(PING, 0, 0, bytes(6)), "idle", FRAME_SIZE_ERROR),
    Rule("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), "open", PROTOCOL_ERROR),
    Rule("6.8", "GOAWAY too short", frame(GOAWAY, 0, 0, bytes(7)), "idle", FRAME_SIZE_ERROR),
    Rule("6.9", "an increment of 0", window(0, 0), "idle", PROTOCOL_ERROR),
    Rule("6.9", "an increment of 0 on a stream", window(1, 0), "open", PROTOCOL_ERROR),
    Rule("6.9", "WINDOW_UPDATE of another size", frame(WINDOW_UPDATE, 0, 0, bytes(3)), "idle", FRAME_SIZE_ERROR),
    Rule(
        "6.9",
        "WINDOW_UPDATE of another size on a stream",
        frame(WINDOW_UPDATE, 0, 1, bytes(5)),
        "open",
        FRAME_SIZE_ERROR,
    ),
    Rule(
        "6.9",
        "more DATA than the window",
        DEAF + frame(DATA, 0, 1, bytes(16_384)) * 5,
        "idle",
        connection=FLOW_CONTROL_ERROR,
    ),
    Rule("6.9.1", "a window above its most", window(0, LARGEST), "idle", FLOW_CONTROL_ERROR),
    Rule("6.9.1", "a stream's window above its most", window(1, LARGEST), "open", FLOW_CONTROL_ERROR),
    Rule(
        "6.9.2",
        "settings that take a window above its most",
        window(1, LARGEST - 65_535) + setting(0x4, 65_536),
        "open",
        FLOW_CONTROL_ERROR,
    ),
    Rule("6.10", "CONTINUATION on stream 0", CUT + frame(CONTINUATION, END_HEADERS, 0), "idle", PROTOCOL_ERROR),
    Rule(
        "6.10",
        "CONTINUATION behind the end of a block",
        frame(CONTINUATION, END_HEADERS, 1, TRAILERS),
        "open",
        PROTOCOL_ERROR,
    ),
    Rule(
        "6.10",
        "CONTINUATION behind DATA",
        frame(DATA, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1),
        "open",
        PROTOCOL_ERROR,
    ),
    Rule("6.10", "CONTINUATION of another stream", CUT + frame(CONTINUATION, END_HEADERS, 3), "idle", PROTOCOL_ERROR),
    Rule("8.1", "trailers that do not end", frame(HEADERS, END_HEADERS, 1, TRAILERS), "open", stream=PROTOCOL_ERROR),
    Rule("8.1", "a pseudo-header among trailers", frame(HEADERS, WHOLE, 1, b"\x82"), "open", stream=PROTOCOL_ERROR),
]

RULES = [*PAST_THE_FRAME, *STREAMS, *BODIES, *CONNECTION]
