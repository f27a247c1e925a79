"""Whole responses of an upstream. The oracle is h11: what we take for a complete one, it takes for the same one.

Heads that came twice are looked up and not parsed. So every input begins with nothing remembered, and a response whose
head is looked up must be the one that was parsed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

from fuzz.reads import bytes_of, reads_of
from streamproxy.client.http1.known import known_heads
from streamproxy.client.http1.response import ResponseParser
from streamproxy.wire.headers import Headers

DICTIONARY = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 \r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n",
    b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 101 Switching Protocols\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"\r\n\r\n", b"0\r\n\r\n",
    b"5\r\nhello\r\n", b"Upgrade: websocket\r\n", b"Keep-Alive: timeout=5\r\n", b"\x00", b"\x0b", b"\t",
)  # fmt: skip


class Response(NamedTuple):
    """A response so far. ``end`` is complete, cut, until-close or refused."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    interim: list[int]
    end: str
    stray: bool
    head_size: int


_FRAMING = (b"content-length", b"transfer-encoding")
_SPACED_SIZE = re.compile(rb"[0-9A-Fa-f][\t ]+;")
_PHRASE = re.compile(rb"(?m)^(HTTP/1\.[01] [0-9]{3} )[^\r\n]*\r")


def parse(reads: list[bytes], method: str) -> Response:
    """Returns what our parser makes of the reads."""
    interim: list[int] = []
    parser = ResponseParser()
    parser.begin(method, lambda status, fields: interim.append(status))
    body = b""
    for data in reads:
        if parser.fault is None:
            body += bytes(parser.feed(data))
    if parser.fault is not None:
        end = "refused"
    elif parser.done:
        end = "complete"
    else:
        end = "until-close" if parser.ends_with_connection else "cut"
    headers = list(parser.headers or [])
    made = Response(parser.status, headers, body, list(parser.trailers), interim, end, parser.stray, parser.read)
    parser.forget()
    return made


def check(data: bytes) -> None:
    if not data:
        return
    known_heads.clear()
    for method in ("GET", "HEAD"):
        whole = parse([data], method)
        for reads in (reads_of(data), bytes_of(data), [data], [data]):  # the last one may be looked up
            other = parse(reads, method)
            assert (other.end, other.headers, other.body) == (whole.end, whole.headers, whole.body), (whole, other)
            if whole.end != "refused":
                assert other == whole, (whole, other)
        if whole.headers or whole.end == "complete":
            compare(whole, data, method)


def compare(ours: Response, data: bytes, method: str) -> None:
    """Compares a response whose head was accepted with h11's reading.

    The reason phrase is left out: ours takes control characters, which it never passes on.
    """
    data = _PHRASE.sub(rb"\1\r", data[: ours.head_size]) + data[ours.head_size :]
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if ours.end == "until-close":
        connection.receive_data(b"")
    body, head, trailers, interim, ended = b"", None, [], [], False
    while not ended:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            if any(name in _FRAMING for name, _ in ours.trailers):
                return  # h11 reads these as if they framed the body; we pass none of them on
            if _SPACED_SIZE.search(data):
                return  # h11 takes no white space before a chunk's extension, which RFC 9112 section 7.1.1 allows
            assert ours.end == "refused", ours
            assert head is not None
            break
        if event is h11.NEED_DATA or event is h11.PAUSED:
            break
        if isinstance(event, h11.InformationalResponse):
            interim.append(event.status_code)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            ended, trailers = True, [(bytes(name), bytes(value)) for name, value in event.headers]
    assert head is not None, (ours, interim)
    assert head.status_code == ours.status
    names = [name for name, _ in head.headers]
    assert names == [name for name, _ in ours.headers]
    assert [status for status in interim if status != 100] == ours.interim
    if ours.end == "refused":
        assert body.startswith(ours.body)
        return
    assert body == ours.body, (body, ours.body)
    assert ended == (ours.end in ("complete", "until-close")), ours
    if ended:
        assert unframed(trailers) == unframed(ours.trailers), (trailers, ours.trailers)


def unframed(trailers: Headers) -> Headers:
    """Without the fields that h11 reads, and writes in a form of its own, as if they framed the body."""
    return [field for field in trailers if field[0] not in _FRAMING]
