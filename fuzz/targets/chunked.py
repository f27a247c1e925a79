"""The chunked coding in both directions. The oracles are a decoder written for clarity, and h11."""

from __future__ import annotations

import re

import h11

from fuzz.reads import bytes_of, reads_of
from streamproxy.wire.chunked import ChunkedDecoder, ChunkError, chunk_parts, last_chunk

DICTIONARY = (
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"A;x=y\r\n",
    b'1;a="\r\n',
    b"x: y\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"00000000",
)
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Outcome = tuple[str, bytes, list[tuple[bytes, bytes]], bytes]


def reference(data: bytes) -> Outcome:
    """Decodes one body; returns its outcome (done, more or error), the data, the trailers and the rest."""
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return "more", body, [], b""
        size, _, extension = line.partition(b";")
        if not _SIZE.fullmatch(size.rstrip(b"\t ")) or _CONTROL.search(extension):
            return "error", body, [], b""
        length = int(size, 16)
        if not length:
            return _trailers(body, data)
        body += data[:length]
        if len(data) < length + 2:
            return "more" if b"\r\n".startswith(data[length:]) else "error", body, [], b""
        if data[length : length + 2] != b"\r\n":
            return "error", body, [], b""
        data = data[length + 2 :]


def _trailers(body: bytes, data: bytes) -> Outcome:
    trailers: list[tuple[bytes, bytes]] = []
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end:
            return "more", body, [], b""
        if not line:
            return "done", body, trailers, data
        field = _FIELD.fullmatch(line)
        if field is None or _CONTROL.search(field[2]) or len(trailers) == 100:
            return "error", body, [], b""
        trailers.append((field[1].lower(), field[2].strip(b" \t")))


def decode(reads: list[bytes]) -> Outcome:
    """The same by our decoder."""
    decoder = ChunkedDecoder()
    body = b""
    for at, data in enumerate(reads):
        try:
            whole = decoder.whole(data)
            body += decoder.feed(data) if whole is None else whole
        except ChunkError as error:
            return "error", body + error.body, [], b""
        if decoder.done:
            return "done", body, decoder.trailers, decoder.rest + b"".join(reads[at + 1 :])
    return "more", body, [], b""


def check(data: bytes) -> None:
    if not data:
        return
    ours = decode([data])
    assert decode(reads_of(data)) == ours
    assert decode(bytes_of(data)) == ours
    expected = reference(data)
    if ours[0] == "error" and expected[0] == "more":
        return  # we refuse an unfinished line as soon as it cannot become a good one
    assert ours == expected, (ours, expected)
    if ours[0] == "done":
        assert by_h11(data) == ours
    encode(data)


def by_h11(data: bytes) -> Outcome:
    """The same by h11."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
            return "done", body, trailers, connection.trailing_data[0]
        else:
            assert isinstance(event, h11.Request), event


def encode(data: bytes) -> None:
    """What we encode, we and the reference decode."""
    reads = reads_of(data)
    framed = b"".join(part for read in reads for part in chunk_parts(read)) + last_chunk([(b"x", b"y")]) + b"rest"
    expected = ("done", data, [(b"x", b"y")], b"rest")
    assert reference(framed) == expected
    assert decode([framed]) == expected
    assert decode([*(b"".join(chunk_parts(read)) for read in reads), last_chunk([])]) == ("done", data, [], b"")
