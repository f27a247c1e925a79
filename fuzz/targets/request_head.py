"""Request heads. The oracle is h11: what we accept, it accepts, and for the same request.

h11 takes more than we do (folded lines, bare LF, Content-Length with Transfer-Encoding), and less in two places: it
wants targets in ASCII, and no empty lines before a request.

What follows a head is the next one, read by the same parser: it never sees the body between them. The oracle of the
second and later heads is a new parser.

Heads that came twice are looked up and not parsed. So every input begins with nothing remembered, and a head that is
looked up must be the one that was parsed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from fuzz.reads import bytes_of, reads_of
from streamproxy.errors import Rejected
from streamproxy.wire.http1 import Framing
from streamproxy.wire.request import RequestHead, known_heads

DICTIONARY = (
    b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.0\r\n", b"Host: a\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n",
    b"Upgrade: h2c\r\n", b"http://b/c", b"OPTIONS * HTTP/1.1\r\n", b"Keep-Alive", b"\x0b", b"\x00", b"\t", b"\x80",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"Expect: 100-continue\r\n", b"TE: trailers\r\n", b", ",
    b"Proxy-Connection: keep-alive\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"chunked, ", b"identity", b"+5", b"0x5",
)  # fmt: skip
MAX_SIZE = 4096


class Head(NamedTuple):
    """An accepted head, and what followed it."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    framing: Framing
    takes_trailers: bool
    wants_websocket: bool
    rest: bytes


def parse(reads: list[bytes]) -> Head | str:
    """Returns the head, or "refused" or "more"."""
    parser = RequestHead(MAX_SIZE, 100)
    try:
        return read_on(parser, reads)
    finally:
        parser.close()


def read_on(parser: RequestHead, reads: list[bytes]) -> Head | str:
    """Returns the next head of a parser, or "refused" or "more"."""
    try:
        for at, data in enumerate(reads):
            rest = parser.feed(data)
            if rest is not None:
                rest += b"".join(reads[at + 1 :])
                return Head(
                    parser.method, parser.target, parser.version, list(parser.headers), parser.framing,
                    parser.takes_trailers, parser.wants_websocket, bytes(rest),
                )  # fmt: skip
    except Rejected:
        return "refused"
    return "more"


def check(data: bytes) -> None:
    if not data:
        return
    known_heads.clear()
    head = parse([data])
    for reads in (reads_of(data), bytes_of(data), [data], [data]):  # the last one may be looked up
        compare_readings(head, parse(reads), data)
    if isinstance(head, Head):
        assert len(data) - len(head.rest) <= MAX_SIZE + len(data) - len(data.lstrip(b"\r\n"))
        compare(head, data.lstrip(b"\r\n"))
        check_sequence(data)


def check_sequence(data: bytes) -> None:
    """A head is the same for a new parser and for one that has read those before."""
    whole, pieces = RequestHead(MAX_SIZE, 100), RequestHead(MAX_SIZE, 100)
    try:
        while data:
            known_heads.clear()  # the parser has to read each
            head = parse([data])
            compare_readings(head, read_on(whole, [data]), data)
            compare_readings(head, read_on(pieces, reads_of(data)), data)
            if not isinstance(head, Head):
                break
            data = head.rest
            whole.forget()
            pieces.forget()
    finally:
        whole.close()
        pieces.close()


def compare_readings(head: Head | str, other: Head | str, data: bytes) -> None:
    """Compares two readings of the same bytes; a head that has no end may be refused early or not."""
    if isinstance(head, Head) or isinstance(other, Head):
        assert other == head, (head, other)
    elif b"\r\n\r\n" in data.lstrip(b"\r\n"):
        assert other == head == "refused", (head, other)


def compare(head: Head, data: bytes) -> None:
    """Compares an accepted head with h11's reading of it."""
    raw = data[: len(data) - len(head.rest)]
    written = raw.split(b"\r\n", 1)[0].split(b" ")[1]
    if not written.isascii():
        raw = raw.replace(written, b"/x" * (len(written) // 2) or b"/", 1)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    event = connection.next_event()
    assert type(event) is h11.Request, event
    assert event.method.decode() == head.method
    assert event.http_version.decode() == head.version
    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
    if written.startswith(b"/") or written == b"*":
        assert head.target == written
        compare_fields(head.headers, fields)
    else:
        check_absolute(head, written, fields)
    coding = [value for name, value in fields if name == b"transfer-encoding"]
    length = [value for name, value in fields if name == b"content-length"]
    assert not (coding and length)
    assert head.framing.chunked == bool(coding)
    if not coding:
        assert head.framing.length == (int(length[0]) if length else 0)
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in fields)
    assert head.framing.keep_alive <= (not closes or b"close" not in options(fields))


def options(fields: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Returns the options of all Connection fields."""
    joined = b",".join(value.lower() for name, value in fields if name == b"connection")
    return [option.strip(b" \t") for option in joined.split(b",")]


def compare_fields(ours: list[tuple[bytes, bytes]], theirs: list[tuple[bytes, bytes]]) -> None:
    """Compares fields; h11 joins equal lengths and lower-cases the coding."""
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, value), (_, other) in zip(ours, theirs, strict=True):
        assert value == other or (name == b"transfer-encoding" and value.lower() == other), (name, value, other)


def check_absolute(head: Head, written: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """A target in absolute form: its authority replaces Host (RFC 9112 section 3.2.2)."""
    scheme, _, url = written.partition(b"://")
    assert scheme.lower() in (b"http", b"https")
    authority = re.split(rb"[/?]", url, maxsplit=1)[0]
    rest = url[len(authority) :]
    assert [value for name, value in head.headers if name == b"host"] == [authority]
    wanted = rest if rest.startswith(b"/") else b"/" + rest
    if not rest and head.method == "OPTIONS":
        wanted = b"*"
    assert head.target == wanted, (head.target, wanted)
    compare_fields(
        [pair for pair in head.headers if pair[0] != b"host"], [pair for pair in fields if pair[0] != b"host"]
    )
